"""95 % confidence intervals of shares, means, ratios and paired differences over clusters of clips.

All are computed without random numbers, from the same two facts: the clips of a cluster are no
independent clips, and the estimate of how dependent they are is itself uncertain.

**Effective number.** With intra-class correlation r and clusters of sizes m, the variance is that
of n / (1 + (sum(m^2) / n - 1) r) independent clips (Kish 1965). r comes from the variance within
clusters. That of the estimate itself, from the clusters' sums, fails where the largest clusters
happen to agree; one minus the share that lies within clusters sees that they agree too well. Two
corrections keep an r that is estimated too low from making the interval too narrow: the ratio of
variances is widened as Student's t widens a standard error, with the degrees of freedom of the
clusters that carry the variance; and with outcomes other than the common one in B clusters, r is
moved towards 1 by exp(2.5 (1 - B)), as so few cannot tell how alike the clips of a cluster are.
Outcomes that are all equal give r = 1: the clusters count.

**Shares.** Quantiles of the beta distribution with the effective number, as Korn and Graubard
(1998) have them for surveys, between the exact interval (Clopper and Pearson 1934), which covers
more than it says, and that of Jeffreys, which covers less near 0 and 1 (Brown, Cai and DasGupta
2001). Where outcomes are all equal it is the exact one.

**Paired differences of shares.** The score interval of Tango (1998) of the effective number.

**Means and ratios.** The wider, at each end, of two intervals around a jackknife over clusters
(MacKinnon, Nielsen and Webb 2023): Student's t, which holds where clusters differ in size, and the
t corrected for skewness by the cubic of Hall (1992), which holds where values are skewed; for both
the number of clusters is Kish's, sum(m)^2 / sum(m^2).

`benchmarks/interval_coverage.py` measures the coverage of each.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, ndtri, stdtrit

LEVEL = 0.95
"""Coverage of every interval."""
TAIL = (1 - LEVEL) / 2
Z = float(ndtri(1 - TAIL))
FEW = 2.5
"""How fast further clusters with an uncommon outcome tell how alike the clips of a cluster are."""
ADDED = 0.35
"""Hits and misses that the interval of a share adds to those seen: 0 is exact, 0.5 Jeffreys'."""


class Interval(NamedTuple):
    """A 95 % confidence interval.

    Attributes:
        low, high: Its ends.
        clusters: Number of clusters.
        effective: Number of independent clips that would be as informative.
    """

    low: float
    high: float
    clusters: int
    effective: float


class _Sums(NamedTuple):
    """Values by cluster: the cluster of each clip (n,), sizes and sums of the clusters (G,)."""

    values: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    sums: np.ndarray


def _by_cluster(values: np.ndarray, clusters: np.ndarray) -> _Sums:
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values of {len(clusters)} clips have no interval")
    place = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(place).astype(np.float64)
    return _Sums(values, place, sizes, np.bincount(place, values))


def effective_number(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return how many independent clips would be as informative, at most n; see the module.

    Args:
        values: Outcomes (n,).
        clusters: Cluster of each clip, int (n,).

    Raises:
        ValueError: Different numbers of values and clusters, or none.
    """
    return _effective(_by_cluster(values, clusters))


def _effective(outcomes: _Sums) -> float:
    values, place, sizes, sums = outcomes
    n, groups = len(values), len(sizes)
    excess = float((sizes**2).sum() / n - 1)  # of a cluster's size, seen from its clips
    centred = values - values.mean()
    variance = float((centred**2).mean())
    if n == groups:
        return float(n)
    if np.ptp(values) == 0:
        return n / (1 + excess)
    within = float(((values - (sums / sizes)[place]) ** 2).sum()) / ((n - groups) * variance)
    alike = 1 - within
    for _ in range(3):  # the variance of n clips is too low by their effective number
        lost = (1 + excess * min(1.0, max(0.0, alike))) / n
        alike = 1 - within * (1 - min(lost, 0.95))
    alike = min(1.0, max(0.0, alike))
    if 0 < alike < 1:
        squares = np.bincount(place, centred) ** 2
        freedom = max(1.0, float(squares.sum() ** 2 / (squares**2).sum()))
        ratio = (1 + excess * alike) / (1 - alike)
        ratio = 1 + (ratio - 1) * (stdtrit(freedom, 1 - TAIL) / Z) ** 2
        alike = float((ratio - 1) / (ratio + excess))
    other = np.abs(values - np.median(values)) > 1e-9
    alike += (1 - alike) * math.exp(FEW * (1 - np.count_nonzero(np.bincount(place[other]))))
    return n / (1 + excess * alike)


def share_interval(hits: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of a share.

    Args:
        hits: Outcomes (n,) in [0, 1].
        clusters: Cluster of each clip, int (n,).

    Raises:
        ValueError: Different numbers of hits and clusters, or none.
    """
    outcomes = _by_cluster(hits, clusters)
    number = _effective(outcomes)
    found = float(outcomes.values.mean()) * number
    missed = number - found
    both = ADDED if min(found, missed) > 1e-9 else 0.0
    low = float(betaincinv(found + both, missed + 1 - both, TAIL)) if found > 1e-9 else 0.0
    high = float(betaincinv(found + 1 - both, missed + both, 1 - TAIL)) if missed > 1e-9 else 1.0
    return Interval(low, high, len(outcomes.sizes), number)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of sum(sums) / sum(counts); all (n,), counts above 0.

    Raises:
        ValueError: Different numbers of values, none, or fewer than two clusters.
    """
    if len(sums) != len(counts):
        raise ValueError(f"{len(sums)} sums of {len(counts)} counts have no ratio")
    total, count = (_by_cluster(each, clusters).sums for each in (sums, counts))
    groups, whole = len(total), float(count.sum())
    if groups < 2:
        raise ValueError("one cluster says nothing about how much clusters differ")
    value = float(total.sum()) / whole
    without = (total.sum() - total) / (whole - count)
    error = math.sqrt((groups - 1) / groups * float(((without - value) ** 2).sum()))
    number = effective_number(np.asarray(sums) - value * np.asarray(counts), clusters)
    if error == 0:
        return Interval(value, value, groups, number)
    influence = without.mean() - without
    even = whole**2 / float((count**2).sum())  # clusters of one size that would say as much
    skew = float((influence**3).mean() / (influence**2).mean() ** 1.5) / math.sqrt(even)

    def corrected(t: float) -> float:
        if abs(skew) < 1e-6:
            return t
        return float(3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1))

    t = float(stdtrit(max(1.0, even - 1), 1 - TAIL))
    low = value - error * max(t, corrected(t))
    high = value + error * max(t, -corrected(-t))
    return Interval(low, high, groups, number)


def mean_interval(values: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of the mean of values (n,).

    Raises:
        ValueError: Different numbers of values and clusters, none, or fewer than two clusters.
    """
    return ratio_interval(values, np.ones(len(values)), clusters)


def difference_interval(more: np.ndarray, fewer: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of mean(more) - mean(fewer), outcomes in [0, 1] (n,) of the same clips.

    Raises:
        ValueError: Different numbers of values, or none.
    """
    if len(more) != len(fewer):
        raise ValueError(f"{len(more)} and {len(fewer)} values are no pairs")
    change = np.asarray(more, dtype=np.float64) - np.asarray(fewer, dtype=np.float64)
    outcomes = _by_cluster(change, clusters)
    n = _effective(outcomes)
    up, down = (n * float(np.maximum(sign * change, 0).mean()) for sign in (1, -1))

    def score(difference: float) -> float:
        # Tango's (1998) statistic: q is the share of pairs that change down, given the difference.
        b = -up - down + (2 * n - up + down) * difference
        root = math.sqrt(max(0.0, b**2 + 8 * n * down * difference * (1 - difference)))
        q = (root - b) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return (up - down - n * difference) / math.sqrt(max(variance, 1e-12))

    value, edge = (up - down) / n, 1 - 1e-9
    low = -1.0 if score(-edge) <= Z else brentq(lambda d: score(d) - Z, -edge, value)
    high = 1.0 if score(edge) >= -Z else brentq(lambda d: score(d) + Z, value, edge)
    return Interval(float(low), float(high), len(outcomes.sizes), n)
