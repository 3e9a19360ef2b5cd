"""Decoding orders fixed before sampling: the order in which a modality's slots are filled.

``halton`` spreads the tokens of one step over a grid, so that they depend little on each other
(Halton 1960; as an order of generation, arXiv:2503.17076): Halton points (base 2, base 3) map to
rows and columns, those of base 2 alone (van der Corput 1935) to the frames of a sound.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from nano4m.config.generation import Order
from nano4m.modalities import Modality


def radical_inverse(number: int, base: int) -> float:
    """Return the van der Corput number of ``number`` >= 0 in [0, 1): its digits mirrored."""
    value, scale = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        scale /= base
        value += digit * scale
    return value


@lru_cache
def halton_ranks(rows: int, columns: int) -> tuple[int, ...]:
    """Return the rank of each cell of a grid, row by row; rank 0 is filled first.

    Cells are ranked by the first Halton point that falls on them. The points are dense, so every
    cell gets one.
    """
    ranks: dict[int, int] = {}
    number = 0
    while len(ranks) < rows * columns:
        row = int(radical_inverse(number, 2) * rows)
        column = int(radical_inverse(number, 3) * columns)
        ranks.setdefault(row * columns + column, len(ranks))
        number += 1
    return tuple(ranks[cell] for cell in range(rows * columns))


def _halton(modality: Modality) -> Tensor:
    """Return the rank of each slot, int64 (T,); the codebooks of a frame are adjacent."""
    if modality.layout == "codebooks":
        frames, books = modality.shape
        ranks = torch.tensor(halton_ranks(frames, 1))
        return (ranks[:, None] * books + torch.arange(books)).flatten()
    return torch.tensor(halton_ranks(*modality.shape))


def slot_order(
    order: Order,
    modality: Modality,
    slots_RN: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Return ``slots_RN`` in decoding order, int64 (R, N).

    Args:
        order: random, halton or raster.
        modality: The modality of the slots.
        slots_RN: int64 unknown slots of each row, ascending, counted from the modality's first.
        generators: One a row; ``random`` draws from them.

    Raises:
        ValueError: confidence, whose order depends on the drawn tokens.
    """
    if order == "raster":
        return slots_RN
    if order == "halton":
        return slots_RN.gather(1, _halton(modality)[slots_RN].argsort(1))
    if order == "random":
        count = slots_RN.shape[1]
        permutations = [torch.randperm(count, generator=g) for g in generators]
        return slots_RN.gather(1, torch.stack(permutations))
    raise ValueError(f"{order!r} is not an order of slots; choose from halton, random, raster")
