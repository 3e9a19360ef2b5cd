"""Scores with chance, majority baseline and interval."""

from collections.abc import Mapping

import numpy as np

from nano4m.evaluate.intervals import difference_interval, share_interval
from nano4m.evaluate.probe_results import Control, Score
from nano4m.evaluate.results import Difference


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean accuracy over the classes that occur."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


def score(
    correct: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    clusters: np.ndarray,
    round_trip: float | None = None,
    controls: Mapping[str, Control] | None = None,
) -> Score:
    """Return the score of a classification.

    Args:
        correct: bool (n,), whether each clip's class was predicted.
        labels: int (n,), the true classes.
        num_classes: Number of classes to choose from.
        clusters: int (n,), the cluster of each clip.
        round_trip: The same score on tokenizer round trips of real media.
        controls: The same score with control inputs.
    """
    correct, labels = np.asarray(correct), np.asarray(labels)
    return Score(
        value=float(correct.mean()),
        **share_interval(correct, clusters)._asdict(),
        n=len(correct),
        chance=1 / num_classes,
        majority=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        balanced=balanced_accuracy(correct, labels),
        round_trip=round_trip,
        controls=dict(controls or {}),
    )


def hits_at(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that each query's own candidate is among its k best, float64 (n,).

    Args:
        scores: (n, n), scores[i, j] of candidate j for query i; j = i is the correct one.
        k: Number of best candidates.

    Ties are broken at random, in expectation: of m equal candidates for r places, the correct one
    gets a place with probability r / m.
    """
    own = np.diag(scores)[:, None]
    better = (scores > own).sum(1)
    equal = (scores == own).sum(1)
    return np.clip((k - better) / equal, 0, 1)


def difference(more: np.ndarray, fewer: np.ndarray, clusters: np.ndarray) -> Difference:
    """Return mean(more) - mean(fewer), outcomes (n,) of the same clips in clusters int (n,)."""
    ends = difference_interval(more, fewer, clusters)
    return Difference(value=float(np.mean(more) - np.mean(fewer)), **ends._asdict(), n=len(more))


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random permutation (n,) that moves every entry (one cycle through all).

    Raises:
        ValueError: Fewer than two entries.
    """
    if n < 2:
        raise ValueError(f"{n} clips cannot be shuffled; a probe needs two or more")
    order = rng.permutation(n)
    moved = np.empty(n, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved
