"""Which weights of a run are kept, and which modalities it stops to learn, by validation.

On few recordings one modality is learnt by heart while another still improves. Both decisions ask
the validation loss over that of a uniform guess, so that modalities of any vocabulary compare: 1 is
a model that knows nothing, more is one that is surely wrong.

Shapes: C modalities.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nano4m.compute.distributed import DistributedContext
from nano4m.config.training import TrainConfig
from nano4m.errors import UserError
from nano4m.modalities import Modality
from nano4m.progress import log_info
from nano4m.training.optim import WeightAverage

MARGIN = 0.005
"""A loss counts as above its best if it is larger by this share: validation samples are few."""

LEAST_FACTOR = 2.0**-6
"""Least factor of a modality's loss. Not zero: its head follows the shared blocks."""

KEPT_AT = "kept"
"""Of the progress state: [value of the kept weights, step after which they were taken], [0, 0]."""

FACTORS, BEST = "factors", "best_val"
"""Of the progress state: of each modality, the factor of its loss, and its least validation loss
(0 before the first validation)."""


def over_uniform(val: Mapping[str, float], modalities: Sequence[Modality]) -> float:
    """Return the mean over modalities of validation loss over that of a uniform guess.

    Args:
        val: Mean cross-entropy in nats by modality; those without targets are left out.
        modalities: Of the run.
    """
    shares = [val[m.name] / math.log(m.codebook_size) for m in modalities if m.name in val]
    return sum(shares) / len(shares)


class KeptWeights:
    """The averaged weights of the validation with the least ``over_uniform``.

    Args:
        modalities: Of the run.
        average: The averaged weights.
    """

    def __init__(self, modalities: Sequence[Modality], average: WeightAverage) -> None:
        self.modalities, self.average = modalities, average
        # Allocated at once, so that a state that is resumed finds its place.
        self.weights = [w.detach().clone() for w in average.weights]

    @torch.no_grad()
    def consider(self, step: int, val: Mapping[str, float], progress_state: dict[str, Any]) -> bool:
        """Keep the averaged weights of now if they are better; return whether they are.

        ``KEPT_AT`` of ``progress_state`` is updated.
        """
        found = over_uniform(val, self.modalities)
        best, taken = progress_state[KEPT_AT]
        if taken and found >= best:
            return False
        progress_state[KEPT_AT] = [found, float(step)]
        torch._foreach_copy_(self.weights, self.average.weights)
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Return what a training state holds of them."""
        return {f"kept.{i}": w for i, w in enumerate(self.weights)}

    @torch.no_grad()
    def put_into(self, model: torch.nn.Module) -> None:
        """Copy the kept weights into a model."""
        for weight, kept in zip(model.parameters(), self.weights, strict=True):
            weight.copy_(kept)


def weigh_down(
    progress_state: dict[str, Any], val: Mapping[str, float], names: Sequence[str]
) -> list[str]:
    """Halve the loss factor of each modality whose validation loss is above its best.

    Args:
        progress_state: ``FACTORS`` and ``BEST`` in it are updated.
        val: Mean cross-entropy in nats by modality.
        names: Of the modalities C.

    Returns:
        Names of the modalities whose factor was halved now.
    """
    factors, best = list(progress_state[FACTORS]), list(progress_state[BEST])
    halved = []
    for c, name in enumerate(names):
        if name not in val:
            continue
        if best[c] and val[name] > best[c] * (1 + MARGIN) and factors[c] > LEAST_FACTOR:
            factors[c] /= 2
            halved.append(name)
        best[c] = min(best[c] or val[name], val[name])
    progress_state[FACTORS], progress_state[BEST] = factors, best
    return halved


class Judge:
    """What follows from a validation: weights to keep, and modalities that count less.

    Args:
        settings: ``keep`` and ``by_heart`` are used.
        modalities: Of the run.
        average: The averaged weights.
        world: The processes that train together.

    Raises:
        UserError: Weights in shards, of which the best cannot be kept.
    """

    def __init__(
        self,
        settings: TrainConfig,
        modalities: Sequence[Modality],
        average: WeightAverage,
        world: DistributedContext,
    ) -> None:
        is_best = settings.keep == "best"
        if is_best and world.sharded:
            raise UserError(
                "--train.keep best needs whole weights in each process, and --train.strategy fsdp "
                "shards them; give --train.keep last, or --train.strategy ddp"
            )
        self.names = [m.name for m in modalities]
        self.average, self.is_told = average, not world.rank
        self.weighs_down = settings.by_heart == "weigh_down"
        self.kept = KeptWeights(modalities, average) if is_best else None

    def __call__(self, done: int, val: Mapping[str, float], progress_state: dict[str, Any]) -> None:
        """Judge the losses of the validation after ``done`` steps."""
        if self.kept:
            self.kept.consider(done, val, progress_state)
        if not self.weighs_down:
            return
        for name in weigh_down(progress_state, val, self.names):
            factor = progress_state[FACTORS][self.names.index(name)]
            if self.is_told:
                log_info(
                    f"train: after step {done:,} the validation loss of {name} is above its best: "
                    f"it is learnt by heart, and its loss counts {factor:g} from now on"
                )

    def finish(self, model: torch.nn.Module, progress_state: Mapping[str, Any]) -> None:
        """Put the weights of the checkpoint into the model."""
        if self.kept and progress_state[KEPT_AT][1]:
            self.kept.put_into(model)
        else:
            self.average.swap(model)

    def summary(self, progress_state: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a summary says of the kept weights; nothing where they are the last."""
        value, step = progress_state[KEPT_AT]
        return {"kept_step": int(step), "kept_over_uniform": round(value, 4)} if step else {}
