"""Ids of several codebooks in one vocabulary: those of one follow those of the one before."""

import torch
from torch import Tensor

from nano4m.tokenizers.quantize import check_ids


def to_vocabulary(own_BTQ: Tensor, vocab: int) -> Tensor:
    """Return ids of codebook k, 0..vocab-1 in its column, as k * vocab .. (k + 1) * vocab - 1."""
    return own_BTQ + torch.arange(own_BTQ.shape[2], device=own_BTQ.device) * vocab


def to_codebooks(ids_BTQ: Tensor, shape: tuple[int, ...], vocab: int) -> Tensor:
    """Return the inverse of ``to_vocabulary``, int64, of ids (B, *shape).

    Raises:
        ValueError: Wrong shape, id out of range, or an id of another codebook.
    """
    check_ids(ids_BTQ, shape, vocab * shape[1])
    own = ids_BTQ.long() - torch.arange(shape[1], device=ids_BTQ.device) * vocab
    wrong = (own < 0) | (own >= vocab)
    if bool(wrong.any()):
        row, frame, book = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"id {int(ids_BTQ[row, frame, book])} at frame {frame} is in the place of codebook "
            f"{book}, whose ids are {book * vocab} to {(book + 1) * vocab - 1}"
        )
    return own
