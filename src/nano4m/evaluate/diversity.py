"""Diversity of generated ids, compared with real ids, to detect mode collapse.

A sampler that always generates the most likely clip of a class can score well with a classifier;
collapse shows as fewer tokens in use, equal sequences, and no distance within a class.

Shapes: N sequences, T tokens of one modality.
"""

from collections.abc import Sequence

import numpy as np

from nano4m.evaluate.sample_results import Diversity, Spread
from nano4m.modalities import TEXT_END, Modality

MOST_SEQUENCES = 256
"""Maximum sequences for pairwise distances, whose number is quadratic."""


def real_tokens(ids_NT: np.ndarray, modality: Modality) -> np.ndarray:
    """Return which tokens count, bool (N, T): in a text those up to its end token."""
    if not modality.is_text:
        return np.ones(ids_NT.shape, dtype=bool)
    is_end = ids_NT == TEXT_END
    before = np.cumsum(is_end, axis=1) - is_end
    return before == 0


def hamming(ids_NT: np.ndarray, real_NT: np.ndarray) -> np.ndarray:
    """Return the share of tokens in which two sequences differ, float64 (N, N).

    A token that only the longer of two texts has differs; positions after both ends do not count.
    """
    plain = np.where(real_NT, ids_NT.astype(np.int64), -1)
    found = np.empty((len(plain), len(plain)))
    for i, (own, real) in enumerate(zip(plain, real_NT, strict=True)):
        found[i] = (plain != own).sum(1) / np.maximum((real_NT | real).sum(1), 1)
    return found


def spread(ids_NT: np.ndarray, classes: Sequence[object], modality: Modality) -> Spread:
    """Return the diversity of one set of sequences.

    Args:
        ids_NT: Integer ids, one or more sequences.
        classes: Class of each sequence, for distances within and between classes.
        modality: Modality of the ids.

    Raises:
        ValueError: No sequences, or not one class for each.
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
    """Return the diversity of generated and of real sequences; use equally many of both."""
    return Diversity(
        generated=spread(made_NT, made_classes, modality),
        real=spread(real_NT, real_classes, modality),
    )
