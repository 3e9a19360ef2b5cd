"""Has a sampler collapsed? How varied generated ids are, beside real ids of the same modality.

A sampler that always makes the likeliest clip of a class can score well with a classifier; here it
shows: fewer tokens in use, equal sequences, and no distance within a class.

Shapes: N sequences, T tokens of one modality.
"""

from collections.abc import Sequence

import numpy as np

from nano4m.evaluate.results import Diversity, Spread
from nano4m.modalities import TEXT_END, Modality

MOST_SEQUENCES = 256
"""Of which pairs are compared; the number of pairs grows with its square."""


def real_tokens(ids_NT: np.ndarray, modality: Modality) -> np.ndarray:
    """Return which tokens count, bool (N, T): of a text those up to its end token."""
    if not modality.is_text:
        return np.ones(ids_NT.shape, dtype=bool)
    is_end = ids_NT == TEXT_END
    before = np.cumsum(is_end, axis=1) - is_end
    return before == 0


def hamming(ids_NT: np.ndarray, real_NT: np.ndarray) -> np.ndarray:
    """Return the share of tokens in which two sequences differ, float64 (N, N).

    A token that only the longer of two texts has differs; behind both ends there is nothing.
    """
    plain = np.where(real_NT, ids_NT.astype(np.int64), -1)
    found = np.empty((len(plain), len(plain)))
    for i, (own, real) in enumerate(zip(plain, real_NT, strict=True)):
        found[i] = (plain != own).sum(1) / np.maximum((real_NT | real).sum(1), 1)
    return found


def spread(ids_NT: np.ndarray, classes: Sequence[object], modality: Modality) -> Spread:
    """Measure one set of sequences.

    Args:
        ids_NT: Integer ids, one or more sequences.
        classes: Of each sequence; distances are told apart by them.
        modality: What the ids are of.

    Raises:
        ValueError: No sequences, or not a class for each.
    """
    if not len(ids_NT) or len(classes) != len(ids_NT):
        raise ValueError(f"{len(ids_NT)} sequences and {len(classes)} classes")
    real_NT = real_tokens(ids_NT, modality)
    counts = np.bincount(ids_NT[real_NT].astype(np.int64), minlength=modality.vocab_size)
    share = counts[counts > 0] / counts.sum()
    unique = {tuple(row[real].tolist()) for row, real in zip(ids_NT, real_NT, strict=True)}
    some = np.linspace(0, len(ids_NT) - 1, min(len(ids_NT), MOST_SEQUENCES)).astype(np.int64)
    distance = hamming(ids_NT[some], real_NT[some])
    kind = np.unique(np.asarray([str(c) for c in classes]), return_inverse=True)[1][some]
    is_same = kind[:, None] == kind[None]
    is_pair = ~np.eye(len(some), dtype=bool)
    within, between = distance[is_same & is_pair], distance[~is_same]
    return Spread(
        entropy=float(-(share * np.log(share)).sum()),
        distinct_sequences=len(unique) / len(ids_NT),
        distinct_tokens=len(share) / modality.vocab_size,
        within=float(within.mean()) if len(within) else None,
        between=float(between.mean()) if len(between) else None,
    )


def diversity(
    made_NT: np.ndarray,
    made_classes: Sequence[object],
    real_NT: np.ndarray,
    real_classes: Sequence[object],
    modality: Modality,
) -> Diversity:
    """Measure generated sequences beside real ones; take as many of both, for a fair comparison."""
    return Diversity(
        generated=spread(made_NT, made_classes, modality),
        real=spread(real_NT, real_classes, modality),
    )
