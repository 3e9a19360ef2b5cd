"""Logits of target slots under one condition or several weighted ones.

Classifier-free guidance (arXiv:2207.12598) on logits, with several conditions after 4M
(arXiv:2312.06647): l_0 + sum_i w_i (l_i - l_0), where l_i has the tokens of condition i as inputs
and l_0 those of the negative condition, or none. All have the known tokens of the target as inputs.

Two implementations give the same logits. On a CPU identical rows are found and computed once. On
another device nothing is read back: the caller tracks how many input tokens each branch has, and
the head runs for the wanted slots only.

Shapes: R rows, L all token slots of a clip, N inputs, T targets, D width, W ids of one codebook.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nano4m.config.generation import Sampling
from nano4m.errors import UserError, nearest
from nano4m.generation.token_schedules import condition_weights
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Modalities that are inputs together, and their guidance weight; negative weights repel."""

    sources: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ChainStep:
    """One modality to generate, in a chain where each finished one is input of those that follow.

    Attributes:
        target: Name of the modality.
        conditions: Inputs with weights; None: all that is known, with the weight
            ``settings.guidance``.
        negative: Modalities that guidance leads away from: inputs of the negative branch, and of no
            other branch that does not name them.
        settings: Sampling settings; None: those of the configuration.
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
    """Yield row numbers (n,) and decoder states (n, T, D) on the model's device, each row once.

    Rows with equally many inputs form a dense batch of at most ``batch_size``. All arguments are on
    the CPU.
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


def codebook_of(tokens: TokenSequence, slots: Tensor) -> int | Tensor:
    """Return the codebook of each slot of one modality, as ``FourM.logits`` takes it: one if equal.

    Args:
        slots: int64 slots of a clip, on the CPU, at least one.
    """
    if tokens.modalities[int(tokens.modality_L[slots.flatten()[0]])].num_codebooks == 1:
        return 0
    books = tokens.coords_L2[slots, 1]
    first = int(books.flatten()[0])
    return first if bool((books == first).all()) else books


def forward_unique(
    model: FourM,
    tokens: TokenSequence,
    ids_RL: Tensor,
    inputs_RL: Tensor,
    targets_RT: Tensor,
    batch_size: int,
) -> Tensor:
    """Return logits over the ids of each slot's codebook, float32 (R, T, W), each row once.

    Samples of one clip are identical until their first tokens are drawn, and so are all rows
    without inputs. The slots are of one modality.
    """
    length = tokens.length
    shown = torch.cat([ids_RL * inputs_RL, inputs_RL.long(), targets_RT], 1)
    rows, which_R = shown.unique(dim=0, return_inverse=True)
    ids, inputs, targets = rows.split([length, length, targets_RT.shape[1]], dim=1)
    index = int(tokens.modality_L[targets_RT[0, 0]])
    out = torch.empty(*targets.shape, tokens.modalities[index].codebook_size)
    codebook = codebook_of(tokens, targets)
    for part, states in decoded(model, tokens, ids, inputs.bool(), targets, batch_size):
        own = codebook if isinstance(codebook, int) else codebook[part].to(model.device)
        with torch.inference_mode():
            out[part] = model.logits(states, index, own).float().cpu()
    return out[which_R]


SHARE = 0.25
"""Share of a GPU's memory for the rows of one forward pass."""
SCORE_BYTES = 32
"""Memory of one logit until its id is drawn: about eight copies of float32."""
STATE_BYTES = 64
"""Memory of one channel of one token inside a block, without gradients."""


def rows_that_fit(
    model: FourM, tokens: TokenSequence, slots: int, choices: int, branches: int, batch_size: int
) -> int:
    """Return the rows of one forward pass: what fits a GPU's memory, elsewhere ``batch_size``.

    The card's total memory counts, not its free memory, so the same samples are always batched in
    the same way.

    Args:
        model, tokens: Define width and length.
        slots, choices: A row has ``slots`` times ``choices`` logits.
        branches: Passes of a row that are made together.
        batch_size: Rows on a CPU.
    """
    if model.device.type != "cuda":
        return batch_size
    row = slots * choices * SCORE_BYTES + tokens.length * model.config.dim * STATE_BYTES
    memory = torch.cuda.get_device_properties(model.device).total_memory
    return max(1, int(SHARE * memory) // (branches * row))


class Branch(NamedTuple):
    """Inputs of one forward pass, bool (L,), and the weight of its logits."""

    sees_L: Tensor
    weight: float


class Guide:
    """Computes the guided logits of one modality.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        step: Target, conditions and negative condition.
        guidance: Weight of the condition of a step that names none.
        batch_size: Rows of a forward pass on a CPU.
        on_device: Whether ids and logits stay on the model's device; None: unless it is a CPU.

    Raises:
        UserError: A modality that the model does not have, or the target as its own condition.
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
                    f"{source!r} cannot be a condition of itself: its given tokens are always "
                    "inputs; leave it out of the conditions"
                )
            sees_L[self.tokens.slices[known(self.tokens, source)]] = True
        return sees_L

    def _weighted(self, factor: float) -> list[tuple[int, float]]:
        """Return index into ``sees`` and weight of each branch with a weight other than 0."""
        weights = condition_weights([b.weight for b in self.branches], factor)
        weights.append(1 - sum(weights))
        return [(i, weight) for i, weight in enumerate(weights) if abs(weight) > 1e-9]

    def shown(self, known_BL: Tensor) -> Tensor:
        """Return how many known tokens are inputs of each branch, int64 (B, branches)."""
        return torch.stack([(known_BL & sees_L).sum(1) for sees_L in self.sees], 1)

    def rows_at_once(self, slots: int, choices: int) -> int:
        """Return the rows of one forward pass, see ``rows_that_fit``."""
        parts = len(self.sees)
        return rows_that_fit(self.model, self.tokens, slots, choices, parts, self.batch_size)

    def logits(
        self, ids_RL: Tensor, inputs_RL: Tensor, targets_RT: Tensor, factor: float
    ) -> Tensor:
        """Return guided logits, float32 (R, T, W); branches of weight 0 are not computed.

        Args:
            ids_RL, inputs_RL: int64 ids and bool mask of known slots; other ids are not read.
            targets_RT: int64 slots of the target.
            factor: Fraction of the guidance in effect, see ``guidance_factor``.
        """
        parts = [Branch(self.sees[i], weight) for i, weight in self._weighted(factor)]
        # One call, so that branches with equally many inputs share a batch.
        found = forward_unique(
            self.model,
            self.tokens,
            ids_RL.repeat(len(parts), 1),
            torch.cat([inputs_RL & b.sees_L for b in parts]),
            targets_RT.repeat(len(parts), 1),
            self.batch_size,
        ).chunk(len(parts))
        if len(parts) == 1:
            # A single branch has weight 1, except for rounding.
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
        codebook: int | Tensor = 0,
    ) -> Tensor:
        """Return guided logits, float32 (R, count, W), without reading from the device.

        Args:
            ids_RL, inputs_RL, targets_RT, factor: As for ``logits``, but on the device.
            shown: Number of inputs of each branch, the same for all rows.
            count: Number of slots whose logits are returned, the first of ``targets_RT``; the
                decoder queries all.
            codebook: The codebook of all these slots, or int64 (R, count) that of each.
        """
        weighted = self._weighted(factor)
        total: Tensor | None = None
        for number in sorted({shown[i] for i, _ in weighted}):
            # Branches with equally many inputs share a pass.
            alike = [(i, weight) for i, weight in weighted if shown[i] == number]
            inputs = torch.cat([inputs_RL & self._sees_there[i] for i, _ in alike])
            # Input slots come first, in their order; their number is known.
            slots_RN = inputs.byte().argsort(dim=1, descending=True, stable=True)[:, :number]
            ids, targets = ids_RL.repeat(len(alike), 1), targets_RT.repeat(len(alike), 1)
            own = codebook if isinstance(codebook, int) else codebook.repeat(len(alike), 1)
            with torch.inference_mode():
                context = self.model.encode(
                    ids.gather(1, slots_RN), self._modality_L[slots_RN], self._coords_L2[slots_RN]
                )
                states = self.model.decode(
                    context, self._modality_L[targets], self._coords_L2[targets]
                )
                found = self.model.logits(states[:, :count], self.target, own).float()
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
