"""Training steps that the benchmarks time: the baseline's and ours, on made-up ids.

Sizes are those of the reference: five modalities, d6-6w512, captions of four to seven real tokens.
A real token is one that is given or asked for and is neither padding nor [PAD].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from measure import in_own_codebook, now
from reference_baseline import PAD, Baseline, PaddedBatch, Sizes, build_optimizer
from reference_data import collate, mask_sample
from torch import Tensor, nn

from nano4m.checkpoints.published import published_name
from nano4m.compute.distributed import DistributedContext
from nano4m.config.masking import MaskingConfig
from nano4m.config.model import ModelConfig
from nano4m.config.presets import PUBLISHED_MODEL, REFERENCE, SIZE_FIELDS, SIZES
from nano4m.config.training import TrainConfig
from nano4m.masking import mask
from nano4m.modalities import TEXT_END, Modality
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch, TokenSequence
from nano4m.training.accounting import Operations, count_tokens
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.optim import build_optimizers, gradient_norm

CAPTION_TOKENS = (4, 7)
EXACT_MODEL = PUBLISHED_MODEL
DEFAULT_MODEL = ModelConfig(**SIZES["d6-w512"].model_dump(include=SIZE_FIELDS))
RECIPE = REFERENCE.train


def quick(config: ModelConfig) -> ModelConfig:
    """Return a model of the same choices that a test can run."""
    small = {"encoder_depth": 1, "decoder_depth": 1, "dim": 32, "head_dim": 8}
    return ModelConfig(**(config.model_dump() | small))


def strata(config: MaskingConfig, steps: int) -> list[MaskingConfig]:
    """Return maskings whose totals lie in equal parts of the range of ``config``.

    A dense group shares one draw of totals: a few steps drawn from the whole range would be long or
    short by chance, a step from each part is as long on average as many steps are.
    """
    low, high = config.min_inputs, config.max_inputs or 0
    edges = [low + round((high + 1 - low) * k / steps) for k in range(steps + 1)]
    parts = list(zip(edges[:-1], edges[1:], strict=True))
    found = []
    for number, (least, above) in enumerate(parts):
        fewest, over = parts[(2 * number + 1) % steps if steps % 2 else steps - 1 - number]
        limits = {"min_inputs": least, "max_inputs": above - 1}
        limits |= {"min_targets": fewest, "max_targets": over - 1}
        found.append(config.model_copy(update=limits))
    return found


@dataclass(kw_only=True)
class Clips:
    """Random ids of clips, masked by us or by the reference."""

    modalities: tuple[Modality, ...]
    rows: int
    seed: int
    totals: tuple[int, int] = (16, 256)

    def _ids(self, generator: torch.Generator) -> list[Tensor]:
        drawn = [
            torch.randint(TEXT_END + 1, m.vocab_size, (self.rows, m.length), generator=generator)
            for m in self.modalities
        ]
        return [in_own_codebook(*pair) for pair in zip(drawn, self.modalities, strict=True)]

    def ours(self, group: int, steps: int) -> list[Callable[[], list[MaskedBatch]]]:
        """Return one call a step that masks its clips; captions of a group have one length."""
        sequence = TokenSequence(self.modalities)
        limits = {"min_inputs": self.totals[0], "max_inputs": self.totals[1], "group_size": group}
        config = MaskingConfig(**(REFERENCE.masking.model_dump() | limits))
        calls = []
        for step, own in enumerate(strata(config, steps)):
            draw = torch.Generator().manual_seed(self.seed + step)
            ids = torch.cat(self._ids(draw), 1)
            low, high = CAPTION_TOKENS
            lengths = torch.randint(low, high + 1, (self.rows // group,), generator=draw)
            lengths = lengths.repeat_interleave(group)[:, None]
            valid = torch.ones_like(ids, dtype=torch.bool)
            for m, span in zip(self.modalities, sequence.slices, strict=True):
                if m.is_text:
                    valid[:, span] = torch.arange(m.length) < lengths

            def call(
                ids: Tensor = ids, valid: Tensor = valid, own: MaskingConfig = own, step: int = step
            ) -> list[MaskedBatch]:
                draw = torch.Generator().manual_seed(self.seed + 1000 + step)
                return mask(ids, valid, sequence, own, draw)

            calls.append(call)
        return calls

    def baseline(self, steps: int) -> list[Callable[[], PaddedBatch]]:
        """Return one call a step that masks its clips sample by sample; captions are padded."""
        calls = []
        for step in range(steps):
            draw = torch.Generator().manual_seed(self.seed + step)
            ids = self._ids(draw)
            low, high = CAPTION_TOKENS
            lengths = torch.randint(low, high + 1, (self.rows,), generator=draw).tolist()
            for m, own in zip(self.modalities, ids, strict=True):
                for row, length in enumerate(lengths if m.is_text else []):
                    own[row, length:] = PAD
            rows = list(zip(*ids, strict=True))

            def call(rows: list[tuple[Tensor, ...]] = rows, step: int = step) -> PaddedBatch:
                draw = torch.Generator().manual_seed(self.seed + 1000 + step)
                return collate([mask_sample(r, self.modalities, draw, self.totals) for r in rows])

            calls.append(call)
        return calls


def useful_of_padded(batch: PaddedBatch, operations: Operations) -> int:
    """Return the useful operations of a baseline's step: those that its real tokens need."""
    given_B, asked_B = (real.sum(1).tolist() for real in batch.content)
    total = 0
    for row, (given, asked) in enumerate(zip(given_B, asked_B, strict=True)):
        kinds = batch.target_modality_BM[row][batch.content[1][row]][None]
        none = torch.empty(1, given)
        total += operations.count(
            [MaskedBatch(none, none, none, torch.empty(1, asked), kinds, kinds)]
        )
    return total


@dataclass
class Times:
    """Seconds and counts of some steps of one engine."""

    masking: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0
    tokens: int = 0
    operations: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of all parts."""
        return self.masking + self.forward + self.backward + self.optimizer

    def shares(self) -> dict[str, float]:
        """Return the share of each part."""
        parts = ("masking", "forward", "backward", "optimizer")
        return {part: round(getattr(self, part) / self.seconds, 4) for part in parts}


class BaselineEngine:
    """The reference's step: scores of all slots, modality means, clipping, AdamW, float32.

    Its masks are drawn before and are not timed: the reference draws them in other processes.
    """

    def __init__(self, clips: Clips, sizes: Sizes, operations: Operations, steps: int) -> None:
        self.model = Baseline(sizes)
        self.model.init_weights(torch.Generator().manual_seed(0))
        self.optimizer = build_optimizer(self.model)
        self.batches = [call() for call in clips.baseline(steps)]
        self.useful = [useful_of_padded(b, operations) for b in self.batches]

    def steps(self) -> Times:
        """Take one step on each batch."""
        times = Times()
        for batch, useful in zip(self.batches, self.useful, strict=True):
            marks = [now()]
            loss = self.model.losses(batch)[1]
            marks.append(now())
            loss.backward()
            marks.append(now())
            nn.utils.clip_grad_norm_(self.model.parameters(), RECIPE.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            marks.append(now())
            times.losses.append(float(loss.detach()))
            times.forward += marks[1] - marks[0]
            times.backward += marks[2] - marks[1]
            times.optimizer += marks[3] - marks[2]
            times.tokens += sum(int(real.sum()) for real in batch.content)
            times.operations += useful
        return times


class OurEngine:
    """Our step as ``nano4m train`` takes it, masking included."""

    def __init__(
        self,
        calls: Sequence[Callable[[], list[MaskedBatch]]],
        modalities: tuple[Modality, ...],
        model: ModelConfig,
        dtype: torch.dtype,
        optimizer: str = "adamw",
        world: DistributedContext | None = None,
    ) -> None:
        self.calls = calls
        self.model = FourM(model, modalities)
        self.model.init_weights(torch.Generator().manual_seed(0))
        self.world = world or DistributedContext(torch.device("cpu"))
        self.replica = MixedPrecisionModule(self.model, dtype, self.world)
        self.settings = RECIPE.model_copy(update={"optimizer": optimizer})
        self.optimizers = build_optimizers(
            self.model, self.settings, threads=self.replica.update_threads
        )
        self.operations = Operations.of(self.model)
        self.forwards: list[float] = []
        for lane in self.replica.lanes:
            self._time(lane.module)

    def with_optimizer(self, optimizer: str) -> "OurEngine":
        """Return an engine of the same weights with another optimizer; memory is shared."""
        other = object.__new__(OurEngine)
        other.__dict__.update(self.__dict__)
        other.settings = TrainConfig(**(self.settings.model_dump() | {"optimizer": optimizer}))
        other.optimizers = build_optimizers(
            other.model, other.settings, threads=other.replica.update_threads
        )
        return other

    def _time(self, module: nn.Module) -> None:
        """Note the seconds of every forward pass of a lane."""
        begun: list[float] = []
        module.register_forward_pre_hook(lambda *_: begun.append(now()))
        module.register_forward_hook(lambda *_: self.forwards.append(now() - begun.pop()))

    def take(self, weights: nn.Module) -> None:
        """Copy the weights of a baseline, whose tensors have the published names."""
        theirs = weights.state_dict()
        own = self.model.state_dict()
        self.model.load_state_dict({name: theirs[published_name(name)] for name in own})
        self.replica.refresh()

    def steps(self) -> Times:
        """Mask each batch and take a step on it."""
        times = Times()
        for call in self.calls:
            marks = [now()]
            batches = call()
            marks.append(now())
            self.forwards.clear()
            sums, counts = self.replica.gradients(batches)
            marks.append(now())
            gradient_norm(self.model, self.settings.clip_norm)
            for optimizer in self.optimizers:
                optimizer.step()
            self.replica.refresh()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            marks.append(now())
            times.losses.append(float(sums.sum() / counts.sum()))
            times.masking += marks[1] - marks[0]
            # Lanes compute side by side, so their seconds are shared.
            forward = sum(self.forwards) / self.replica.threads.number
            times.forward += forward
            times.backward += marks[2] - marks[1] - forward
            times.optimizer += marks[3] - marks[2]
            times.tokens += count_tokens(batches)
            times.operations += self.operations.count(batches)
        return times
