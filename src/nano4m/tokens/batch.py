"""Dense batches of input and target tokens.

Shapes: B samples, L all token slots of a clip, C modalities, N inputs, M targets.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nano4m.modalities import Modality


class MaskedBatch(NamedTuple):
    """One dense batch; every entry is a real token.

    input_ids_BN, input_modality_BN: int64; input_coords_BN2: int64 (row, column), see ``Modality``.
    target_ids_BM, target_modality_BM, target_coords_BM2: the same for the targets.
    """

    input_ids_BN: Tensor
    input_modality_BN: Tensor
    input_coords_BN2: Tensor
    target_ids_BM: Tensor
    target_modality_BM: Tensor
    target_coords_BM2: Tensor

    def to(self, device: torch.device) -> "MaskedBatch":
        """Return the batch on ``device``."""
        return MaskedBatch(*(t.to(device, non_blocking=True) for t in self))


class _Slots(NamedTuple):
    """Properties of each slot, int64 and bool (L,), and coords (L, 2)."""

    modality_L: Tensor
    coords_L2: Tensor
    index_L: Tensor
    is_text_L: Tensor


@lru_cache(maxsize=32)
def _slots(modalities: tuple[Modality, ...]) -> _Slots:
    """Return the slots of these modalities, cached: every training step makes a sequence."""
    indices = [torch.full((m.length,), i) for i, m in enumerate(modalities)]
    return _Slots(
        torch.cat(indices),
        torch.tensor([c for m in modalities for c in m.coordinates()]),
        torch.cat([torch.arange(m.length) for m in modalities]),
        torch.cat([torch.full((m.length,), m.is_text) for m in modalities]),
    )


@dataclass(frozen=True)
class TokenSequence:
    """The token slots of a clip, modality after modality (the order of ``TokenTable.gather``).

    Its tensors are shared by all sequences of the same modalities: do not write into them.
    """

    modalities: tuple[Modality, ...]

    @property
    def length(self) -> int:
        """Number of slots L."""
        return sum(m.length for m in self.modalities)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Slots of each modality."""
        ends = torch.tensor([m.length for m in self.modalities]).cumsum(0).tolist()
        return tuple(slice(e - m.length, e) for e, m in zip(ends, self.modalities, strict=True))

    @cached_property
    def units(self) -> tuple[tuple[int, int], ...]:
        """Number of units (rows, frames, text tokens) of each modality, and tokens of a unit."""
        return tuple((m.shape[0], m.length // m.shape[0]) for m in self.modalities)

    @cached_property
    def modality_L(self) -> Tensor:
        """Index of the modality of each slot, int64."""
        return _slots(self.modalities).modality_L

    @cached_property
    def coords_L2(self) -> Tensor:
        """Coordinates of each slot, int64; the first one is the slot's unit."""
        return _slots(self.modalities).coords_L2

    @cached_property
    def index_L(self) -> Tensor:
        """Position of each slot inside its modality, int64."""
        return _slots(self.modalities).index_L

    @cached_property
    def is_text_L(self) -> Tensor:
        """Whether a slot belongs to a text, bool."""
        return _slots(self.modalities).is_text_L

    def index(self, name: str) -> int:
        """Return the position of a modality in the sequence."""
        return [m.name for m in self.modalities].index(name)

    def count(self, valid_BL: Tensor) -> Tensor:
        """Return how many valid tokens each modality has, int64 (B, C)."""
        starts = [s.start for s in self.slices]
        return torch.from_numpy(np.add.reduceat(valid_BL.numpy(), starts, axis=1, dtype=np.int64))


def pack(
    ids_BL: Tensor, input_BL: Tensor, target_BL: Tensor, sequence: TokenSequence
) -> MaskedBatch:
    """Return the input and target slots as a dense batch.

    Raises:
        ValueError: Rows with different totals, a slot that is both input and target, or no target.
    """
    if bool((input_BL & target_BL).any()):
        raise ValueError("a token is given and asked for at once")
    sides: list[Tensor] = []
    for name, chosen_BL in (("inputs", input_BL), ("targets", target_BL)):
        chosen = chosen_BL.numpy()
        totals = np.count_nonzero(chosen, axis=1)
        if (totals != totals[0]).any():
            raise ValueError(f"rows with different numbers of {name}: {totals.tolist()}")
        flat_BN = np.flatnonzero(chosen).reshape(len(ids_BL), -1)
        index_BN = flat_BN - np.arange(0, chosen.size, sequence.length)[:, None]
        for values, where in (
            (ids_BL.reshape(-1), flat_BN),
            (sequence.modality_L, index_BN),
            (sequence.coords_L2, index_BN),
        ):
            sides.append(torch.from_numpy(values.numpy().take(where, axis=0)))
    if not sides[3].shape[1]:
        raise ValueError("nothing is asked for")
    return MaskedBatch(*sides)
