"""Orders of a sound's tokens: which frame and codebook stand at which step of a sequence.

A pattern is data: for each step, the (frame, codebook) pairs that it holds, codebook by codebook.

    interleave    all codebooks of a frame, one token a step, then the next frame
    coarse_first  all frames of the first codebook, one token a step, then the next codebook
    parallel      a frame a step, all its codebooks at once
    delay         codebook q of frame t at step t + q (MusicGen, arXiv:2306.05284): a step has at
                  most one token of each codebook, and a token comes after the coarser ones of its
                  frame; where a codebook has no frame, the step holds a special id

Ids of the token table are (frames, codebooks), row by row, which is ``interleave``. The model knows
a token by its coordinates, so a pattern matters to two things only: to 1-D positions, which are
one running number (``model.codebook_order``), and to the order of decoding
(``generate.codebooks``).

Legend: B batch, T frames, Q codebooks, S steps, W tokens a step.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Step = tuple[tuple[int, int], ...]
Pattern = tuple[Step, ...]


def interleave(frames: int, books: int) -> Pattern:
    """Return one token a step, frame by frame."""
    return tuple(((t, q),) for t in range(frames) for q in range(books))


def coarse_first(frames: int, books: int) -> Pattern:
    """Return one token a step, codebook by codebook."""
    return tuple(((t, q),) for q in range(books) for t in range(frames))


def parallel(frames: int, books: int) -> Pattern:
    """Return a frame a step."""
    return tuple(tuple((t, q) for q in range(books)) for t in range(frames))


def delay(frames: int, books: int) -> Pattern:
    """Return MusicGen's delays 0, 1, ..., Q - 1: T + Q - 1 steps, none of them empty.

    MusicGen has one more step before these, with nothing but the special id, to start from.
    """
    steps = range(frames + books - 1) if frames else ()
    return tuple(tuple((s - q, q) for q in range(books) if 0 <= s - q < frames) for s in steps)


PATTERNS: dict[str, Callable[[int, int], Pattern]] = {
    "interleave": interleave,
    "coarse_first": coarse_first,
    "parallel": parallel,
    "delay": delay,
}
"""Name -> function (frames, codebooks) that returns the steps."""


@lru_cache(maxsize=64)
def slots_of(name: str, frames: int, books: int) -> tuple[tuple[int, ...], ...]:
    """Return for each step the slots of the token table, frame * books + codebook."""
    return tuple(tuple(t * books + q for t, q in step) for step in PATTERNS[name](frames, books))


def ranks_of(name: str, frames: int, books: int) -> Tensor:
    """Return the place of each slot, int64 (T * Q,), when the steps are written one by one."""
    order = torch.tensor([slot for step in slots_of(name, frames, books) for slot in step])
    ranks = torch.empty(frames * books, dtype=torch.int64)
    ranks[order.long()] = torch.arange(frames * books)
    return ranks


def lay_out(ids_BTQ: Tensor, name: str, special: int) -> Tensor:
    """Return ids in a pattern, (B, S, W); W is the codebooks, or 1 where a step has one token.

    In a step of several tokens, codebook q is in column q.

    Args:
        ids_BTQ: Ids of any type, with any offsets.
        name: Of ``PATTERNS``.
        special: Id where a step has no token of a codebook.
    """
    _, frames, books = ids_BTQ.shape
    steps, places = _places(name, frames, books)
    found = ids_BTQ.new_full((len(ids_BTQ), *steps), special)
    found[:, places[:, 0], places[:, 1]] = ids_BTQ.flatten(1)
    return found


def restore(sequence_BSW: Tensor, name: str, frames: int, books: int) -> Tensor:
    """Return the ids (B, T, Q) of ``lay_out``; special ids are not read.

    Raises:
        ValueError: The sequence is not of this many frames and codebooks.
    """
    steps, places = _places(name, frames, books)
    if tuple(sequence_BSW.shape[1:]) != steps:
        raise ValueError(
            f"{name} of {frames} frames and {books} codebooks has (steps, tokens) {steps}, not "
            f"{tuple(sequence_BSW.shape[1:])}"
        )
    ids_BN = sequence_BSW[:, places[:, 0], places[:, 1]]
    return ids_BN.reshape(len(sequence_BSW), frames, books)


def _places(name: str, frames: int, books: int) -> tuple[tuple[int, int], Tensor]:
    """Return (S, W), and step and column of each slot, int64 (T * Q, 2)."""
    pattern = slots_of(name, frames, books)
    width = books if any(len(step) > 1 for step in pattern) or name in ("parallel", "delay") else 1
    places = torch.zeros(frames * books, 2, dtype=torch.int64)
    for step, slots in enumerate(pattern):
        for slot in slots:
            places[slot] = torch.tensor([step, slot % books if width > 1 else 0])
    return (len(pattern), width), places
