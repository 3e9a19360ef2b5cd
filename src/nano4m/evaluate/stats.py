"""Scores with chance, majority baseline and bootstrap interval."""

from collections.abc import Mapping

import numpy as np

from nano4m.evaluate.results import Score

LEVEL = 0.95
"""Coverage of every interval."""


def bootstrap(values: np.ndarray, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of ``values`` (n,) over clips.

    Outcomes that are all 0 or all 1 have no spread, which would suggest certainty; for these the
    exact binomial bound (Clopper and Pearson 1934) is used.

    Raises:
        ValueError: No values.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise ValueError("no values to resample")
    tail = (1 - LEVEL) / 2
    bound = tail ** (1 / len(values))
    if (values == 1).all():
        return bound, 1.0
    if (values == 0).all():
        return 0.0, 1 - bound
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_difference(
    more: np.ndarray, fewer: np.ndarray, rng: np.random.Generator, resamples: int
) -> dict[str, float]:
    """Return value, low and high of mean(more) - mean(fewer), bool (n,) of the same clips.

    Clips are resampled in pairs, so difficulty common to both does not widen the interval. If all
    pairs have the same difference there is no spread, which would suggest certainty: then the bound
    of ``bootstrap`` for a share of 0 is used on both sides.

    Raises:
        ValueError: Different numbers of values, or none.
    """
    if len(more) != len(fewer):
        raise ValueError(f"{len(more)} and {len(fewer)} values are no pairs")
    change = more.astype(np.float64) - fewer.astype(np.float64)
    low, high = bootstrap(change, rng, resamples)
    if (change == change[0]).all():
        slack = bootstrap(np.zeros(len(change)), rng, resamples)[1]
        low, high = max(-1.0, change[0] - slack), min(1.0, change[0] + slack)
    return {"value": float(change.mean()), "low": float(low), "high": float(high)}


def bootstrap_ratio(
    sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of sum(sums) / sum(counts), both (n,), over clips.

    Raises:
        ValueError: Different numbers of values, or none.
    """
    if len(sums) != len(counts) or not len(sums):
        raise ValueError(f"{len(sums)} sums of {len(counts)} counts cannot be resampled")
    rows = (rng.integers(len(sums), size=len(sums)) for _ in range(resamples))
    ratios = [sums[own].sum() / counts[own].sum() for own in rows]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean accuracy over the classes that occur."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


def score(
    correct: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    rng: np.random.Generator,
    resamples: int,
    round_trip: float | None = None,
    controls: Mapping[str, float] | None = None,
) -> Score:
    """Return the score of a classification.

    Args:
        correct: bool (n,), whether each clip's class was predicted.
        labels: int (n,), the true classes.
        num_classes: Number of classes to choose from.
        rng: Draws the resamples.
        resamples: Of the bootstrap.
        round_trip: The same score on tokenizer round trips of real media.
        controls: The same score with control inputs.
    """
    correct, labels = np.asarray(correct), np.asarray(labels)
    low, high = bootstrap(correct, rng, resamples)
    return Score(
        value=float(correct.mean()),
        low=low,
        high=high,
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


def recall_at(
    scores: np.ndarray,
    k: int,
    rng: np.random.Generator,
    resamples: int,
    controls: Mapping[str, float] | None = None,
) -> Score:
    """Return the score of retrieval, see ``hits_at``; chance is k / n."""
    hits = hits_at(scores, k)
    low, high = bootstrap(hits, rng, resamples)
    return Score(
        value=float(hits.mean()),
        low=low,
        high=high,
        n=len(hits),
        chance=min(1.0, k / len(hits)),
        majority=None,
        balanced=None,
        round_trip=None,
        controls=dict(controls or {}),
    )


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
