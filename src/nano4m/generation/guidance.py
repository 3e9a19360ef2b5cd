"""What a model says of slots that are asked for, under one condition or several weighted ones.

Classifier-free guidance (arXiv:2207.12598) on logits, with several conditions after 4M
(arXiv:2312.06647): l_0 + sum_i w_i (l_i - l_0), where l_i sees the tokens of condition i and l_0
those of the negative condition, or of none. All see what is known of the target itself.

There are two ways to the same logits. On a CPU rows are compared, and those that ask the same are
computed once. On another device nothing may be read back while it works: who is shown how many
tokens follows from counts that the caller keeps, and the head runs for the wanted slots alone.

Shapes: R rows, L all token slots of a clip, N given slots, T slots asked for, D width, V vocabulary
of one modality, W ids that one slot may have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.config.generation import Sampling
from nano4m.errors import UserError, nearest
from nano4m.generation.token_schedules import condition_weights
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Modalities that are shown together, and how strongly they draw; below 0 they repel."""

    sources: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ChainStep:
    """One modality to fill, in a chain in which each finished one is given to those that follow.

    Attributes:
        target: Name of the modality.
        conditions: What draws it; None: all that is given, with the weight ``settings.guidance``.
        negative: Modalities that guidance leads away from: they are shown where otherwise nothing
            is, and to no other branch that does not name them.
        settings: How it is drawn; None: those of the configuration.
    """

    target: str
    conditions: tuple[Condition, ...] | None = None
    negative: tuple[str, ...] = ()
    settings: Sampling | None = None


def decoded(
    model: FourM,
    tokens: TokenSequence,
    ids_RL: Tensor,
    inputs_RL: Tensor,
    targets_RT: Tensor,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers (n,) and decoder states (n, T, D) on the model's device, until all rows had
    theirs.

    Rows with equally many given tokens make a dense batch of at most ``batch_size``. All that is
    handed over lies on the CPU.
    """
    device = model.device
    counts = inputs_RL.sum(1)
    for count in counts.unique().tolist():
        for rows in (counts == count).nonzero()[:, 0].split(batch_size):
            slots_RN = inputs_RL[rows].nonzero()[:, 1].view(len(rows), count)
            targets = targets_RT[rows]
            with torch.inference_mode():
                context = model.encode(
                    ids_RL[rows].gather(1, slots_RN).to(device),
                    tokens.modality_L[slots_RN].to(device),
                    tokens.coords_L2[slots_RN].to(device),
                )
                states = model.decode(
                    context,
                    tokens.modality_L[targets].to(device),
                    tokens.coords_L2[targets].to(device),
                )
            yield rows, states


def forward_unique(
    model: FourM,
    tokens: TokenSequence,
    ids_RL: Tensor,
    inputs_RL: Tensor,
    targets_RT: Tensor,
    batch_size: int,
) -> Tensor:
    """Return logits, float32 (R, T, V); rows that ask the same are asked once.

    Many samples of one clip are alike until the first of their tokens are drawn, and so are all
    rows that see nothing.
    """
    length = tokens.length
    shown = torch.cat([ids_RL * inputs_RL, inputs_RL.long(), targets_RT], 1)
    rows, which_R = shown.unique(dim=0, return_inverse=True)
    ids, inputs, targets = rows.split([length, length, targets_RT.shape[1]], dim=1)
    index = int(tokens.modality_L[targets_RT[0, 0]])
    out = torch.empty(*targets.shape, tokens.modalities[index].vocab_size)
    for part, states in decoded(model, tokens, ids, inputs.bool(), targets, batch_size):
        with torch.inference_mode():
            out[part] = model.logits(states, index).float().cpu()
    return out[which_R]


class Codebook(NamedTuple):
    """One of the codebooks of a modality, by its number, and how many there are."""

    number: int
    of: int


def scores(model: FourM, states: Tensor, index: int, book: Codebook | None) -> Tensor:
    """Return logits, float32 (..., W), over all ids of modality ``index`` or one codebook's alone.

    Only the rows of the head that belong to the codebook are multiplied.
    """
    if book is None:
        return model.logits(states, index).float()
    weight, scale = model.head(index)
    own = weight.view(book.of, -1, weight.shape[1])[book.number]
    logits = F.linear(states if scale == 1 else states * scale, own).float()
    cap = model.config.logit_soft_cap
    return cap * torch.tanh(logits / cap) if cap else logits


SHARE = 0.25
"""Of a GPU's memory, what the rows of one pass may take."""
SCORE_BYTES = 32
"""Of one logit on its way to a drawn id: about eight copies of float32."""
STATE_BYTES = 64
"""Of one channel of one token inside a block, without gradients."""


def rows_that_fit(
    model: FourM, tokens: TokenSequence, slots: int, choices: int, branches: int, batch_size: int
) -> int:
    """Return how many rows go through the model at once: as many as the memory of a GPU takes.

    Elsewhere it is ``batch_size``. The whole memory of the card counts, not what is free of it, so
    that the same samples come in the same batches.

    Args:
        model, tokens: Their width and length.
        slots, choices: Logits of a row: ``slots`` times ``choices``.
        branches: Passes of a row that are made together.
        batch_size: Of a CPU.
    """
    if model.device.type != "cuda":
        return batch_size
    row = slots * choices * SCORE_BYTES + tokens.length * model.config.dim * STATE_BYTES
    memory = torch.cuda.get_device_properties(model.device).total_memory
    return max(1, int(SHARE * memory) // (branches * row))


class Branch(NamedTuple):
    """What one forward pass sees, bool (L,), and the weight of what it says."""

    sees_L: Tensor
    weight: float


class Guide:
    """The logits from which one modality is drawn.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        step: Target, conditions and negative condition.
        guidance: Weight of the one condition of a step that names none.
        batch_size: Rows of a forward pass on a CPU.
        on_device: Whether ids and logits stay where the model is; None: on all but a CPU.

    Raises:
        UserError: A modality that the model does not have, or that is the target itself.
    """

    def __init__(
        self,
        model: FourM,
        tokens: TokenSequence,
        step: ChainStep,
        guidance: float,
        batch_size: int,
        on_device: bool | None = None,
    ) -> None:
        self.model, self.tokens, self.batch_size = model, tokens, batch_size
        self.on_device = model.device.type != "cpu" if on_device is None else on_device
        self.target = known(tokens, step.target)
        everything = torch.ones(tokens.length, dtype=torch.bool)
        self.base_L = self._sees(step, step.negative)
        if step.conditions is None:
            shown = everything & ~self.base_L | self._sees(step, ())
            self.branches = [Branch(shown, guidance)]
        else:
            self.branches = [Branch(self._sees(step, c.sources), c.weight) for c in step.conditions]
        self.sees = [*(b.sees_L for b in self.branches), self.base_L]
        if self.on_device:
            device = model.device
            self._sees_there = [sees_L.to(device) for sees_L in self.sees]
            self._modality_L = tokens.modality_L.to(device)
            self._coords_L2 = tokens.coords_L2.to(device)

    def _sees(self, step: ChainStep, sources: Sequence[str]) -> Tensor:
        sees_L = torch.zeros(self.tokens.length, dtype=torch.bool)
        sees_L[self.tokens.slices[self.target]] = True
        for source in sources:
            if source == step.target:
                raise UserError(
                    f"{source!r} cannot be a condition of itself: what is given of it is always "
                    "seen; leave it out of the conditions"
                )
            sees_L[self.tokens.slices[known(self.tokens, source)]] = True
        return sees_L

    def _weighted(self, factor: float) -> list[tuple[int, float]]:
        """Return index into ``sees`` and weight of each branch that has a weight."""
        weights = condition_weights([b.weight for b in self.branches], factor)
        weights.append(1 - sum(weights))
        return [(i, weight) for i, weight in enumerate(weights) if abs(weight) > 1e-9]

    def shown(self, known_BL: Tensor) -> Tensor:
        """Return how many known tokens each of ``sees`` shows, int64 (B, branches)."""
        return torch.stack([(known_BL & sees_L).sum(1) for sees_L in self.sees], 1)

    def rows_at_once(self, slots: int, choices: int) -> int:
        """Return how many rows are asked together, see ``rows_that_fit``."""
        parts = len(self.sees)
        return rows_that_fit(self.model, self.tokens, slots, choices, parts, self.batch_size)

    def logits(
        self, ids_RL: Tensor, inputs_RL: Tensor, targets_RT: Tensor, factor: float
    ) -> Tensor:
        """Return guided logits, float32 (R, T, V); a branch of weight 0 is not computed.

        Args:
            ids_RL, inputs_RL: int64 ids and bool, what is known; hidden ids are not read.
            targets_RT: int64 slots of the target.
            factor: How far guidance has risen, see ``guidance_factor``.
        """
        parts = [Branch(self.sees[i], weight) for i, weight in self._weighted(factor)]
        # One call: branches that show equally many tokens share a batch.
        found = forward_unique(
            self.model,
            self.tokens,
            ids_RL.repeat(len(parts), 1),
            torch.cat([inputs_RL & b.sees_L for b in parts]),
            targets_RT.repeat(len(parts), 1),
            self.batch_size,
        ).chunk(len(parts))
        if len(parts) == 1:
            # A single branch is a plain distribution, whatever rounding made of its weight.
            return found[0]
        total = torch.zeros_like(found[0])
        for branch, logits in zip(parts, found, strict=True):
            total += branch.weight * logits
        return total

    def logits_there(
        self,
        ids_RL: Tensor,
        inputs_RL: Tensor,
        targets_RT: Tensor,
        factor: float,
        shown: Sequence[int],
        count: int,
        book: Codebook | None = None,
    ) -> Tensor:
        """Return guided logits, float32 (R, count, W), without reading from the device.

        Args:
            ids_RL, inputs_RL, targets_RT, factor: As for ``logits``, but on the device.
            shown: How many given tokens each of ``sees`` shows, the same for all rows.
            count: Slots wanted, the first ones of ``targets_RT``; the decoder sees all.
            book: The codebook of all these slots, if they have one in common.
        """
        weighted = self._weighted(factor)
        total: Tensor | None = None
        for number in sorted({shown[i] for i, _ in weighted}):
            # Branches that show equally many tokens share a pass.
            alike = [(i, weight) for i, weight in weighted if shown[i] == number]
            inputs = torch.cat([inputs_RL & self._sees_there[i] for i, _ in alike])
            # The given slots first, in their order; how many they are is known.
            slots_RN = inputs.byte().argsort(dim=1, descending=True, stable=True)[:, :number]
            ids, targets = ids_RL.repeat(len(alike), 1), targets_RT.repeat(len(alike), 1)
            with torch.inference_mode():
                context = self.model.encode(
                    ids.gather(1, slots_RN), self._modality_L[slots_RN], self._coords_L2[slots_RN]
                )
                states = self.model.decode(
                    context, self._modality_L[targets], self._coords_L2[targets]
                )
                found = scores(self.model, states[:, :count], self.target, book)
                for (_, weight), logits in zip(alike, found.chunk(len(alike)), strict=True):
                    if len(weighted) == 1:
                        return logits
                    total = logits * weight if total is None else total.add_(logits, alpha=weight)
        assert total is not None
        return total


def known(tokens: TokenSequence, name: str) -> int:
    """Return the position of a modality in the sequence.

    Raises:
        UserError: The model does not have it.
    """
    names = [m.name for m in tokens.modalities]
    if name not in names:
        raise UserError(f"this model has no modality {name!r}; {nearest(name, names)}")
    return names.index(name)
