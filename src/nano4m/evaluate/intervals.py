"""95 % confidence intervals of shares, means, ratios and paired differences over clusters of clips.

All are computed without random numbers, from the same two facts: the clips of a cluster are no
independent clips, and the estimate of how dependent they are is itself uncertain; see
``effective_number``.

**Shares.** Quantiles of the beta distribution with the effective number, as Korn and Graubard
(1998) have them for surveys, between the exact interval (Clopper and Pearson 1934), which covers
more than it says, and that of Jeffreys, which covers less near 0 and 1 (Brown, Cai and DasGupta
2001). Where outcomes are all equal it is the exact one. Outcomes between 0 and 1, of tied
candidates, vary less than the p (1 - p) of hits and misses: the number is p (1 - p) / s^2 times
as large, s^2 being their variance, moved towards p (1 - p) where few of them differ.

**Paired differences of shares.** The score interval of Tango (1998) of the effective number.

**Means and ratios.** The wider, at each end, of two intervals around a jackknife over clusters
(MacKinnon, Nielsen and Webb 2023): Student's t, which holds where clusters differ in size, and the
t corrected for skewness by the cubic of Hall (1992), which holds where values are skewed. The
number of clusters is Kish's for the skewness, sum(m)^2 / sum(m^2), and for t the mean of that and
of Satterthwaite's (1946), the same with the variance of each cluster's sum in place of m: large
clusters of clips that are alike carry nearly all of it.

`benchmarks/interval_coverage.py` measures the coverage of each.

Each function of one sample has a twin of many, R at once, that the measurement calls.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import elementwise
from scipy.special import betaincinv, stdtrit

from nano4m.evaluate.effective_number import (
    TAIL,
    Clustered,
    Z,
    by_cluster,
    effective_numbers,
    intraclass_correlation,
    uncommon,
)

ADDED = 0.35
"""Hits and misses that the interval of a share adds to those seen: 0 is exact, 0.5 Jeffreys'."""
FEW_VALUES = 1.0
"""Uncommon outcomes that are worth as much as the assumption that all are hits or misses."""


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


class Intervals(NamedTuple):
    """The intervals of R samples, see ``Interval``."""

    low_R: np.ndarray
    high_R: np.ndarray
    clusters: int
    effective_R: np.ndarray

    def first(self) -> Interval:
        """Return that of the first sample."""
        return Interval(
            float(self.low_R[0]), float(self.high_R[0]), self.clusters, float(self.effective_R[0])
        )


def _gain(outcomes: Clustered, number: np.ndarray) -> np.ndarray:
    """Return p (1 - p) over the variance of the outcomes, (R,): 1 of hits and misses."""
    values = outcomes.values_Rn
    is_fraction = ((values > 0) & (values < 1)).any(1)
    gain = np.ones(len(values))
    if is_fraction.any():
        own = Clustered(values[is_fraction], outcomes.sizes_G, outcomes.starts_G)
        p = own.values_Rn.mean(1)
        seen = number[is_fraction] * uncommon(own).mean(1)
        share = own.values_Rn.var(1) / (p * (1 - p))
        gain[is_fraction] = (seen + FEW_VALUES) / (seen * share + FEW_VALUES)
    return gain


def share_intervals(hits_Rn: np.ndarray, clusters: np.ndarray) -> Intervals:
    """Return the intervals of shares; see ``share_interval``."""
    outcomes = by_cluster(hits_Rn, clusters)
    number = effective_numbers(outcomes)
    value, as_hits = outcomes.values_Rn.mean(1), number * _gain(outcomes, number)
    found, missed = value * as_hits, (1 - value) * as_hits
    both = np.where(np.minimum(found, missed) > 1e-9, ADDED, 0.0)
    # Where the result is fixed, any parameters above 0 do.
    low = betaincinv(np.maximum(found + both, 1e-9), missed + 1 - both, TAIL)
    high = betaincinv(found + 1 - both, np.maximum(missed + both, 1e-9), 1 - TAIL)
    low, high = np.where(found > 1e-9, low, 0.0), np.where(missed > 1e-9, high, 1.0)
    return Intervals(low, high, len(outcomes.sizes_G), number)


def share_interval(hits: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of a share.

    Args:
        hits: Outcomes (n,) in [0, 1].
        clusters: Cluster of each clip, int (n,).

    Raises:
        ValueError: Different numbers of hits and clusters, or none.
    """
    return share_intervals(np.asarray(hits)[None], clusters).first()


def ratio_intervals(sums_Rn: np.ndarray, counts_Rn: np.ndarray, clusters: np.ndarray) -> Intervals:
    """Return the intervals of ratios; see ``ratio_interval``."""
    if np.shape(sums_Rn) != np.shape(counts_Rn):
        raise ValueError(f"{np.shape(sums_Rn)} sums of {np.shape(counts_Rn)} counts have no ratio")
    parts, wholes = by_cluster(sums_Rn, clusters), by_cluster(counts_Rn, clusters)
    total, count = (own.sums(own.values_Rn) for own in (parts, wholes))
    groups, whole = total.shape[1], count.sum(1, keepdims=True)
    if groups < 2:
        raise ValueError("one cluster says nothing about how much clusters differ")
    value = total.sum(1, keepdims=True) / whole
    without = (total.sum(1, keepdims=True) - total) / (whole - count)
    error = np.sqrt((groups - 1) / groups * ((without - value) ** 2).sum(1))
    rest = parts._replace(values_Rn=parts.values_Rn - value * wholes.values_Rn)
    number = effective_numbers(rest)
    influence = without.mean(1, keepdims=True) - without
    even = whole[:, 0] ** 2 / (count**2).sum(1)  # clusters of one size that would say as much
    spread = np.maximum((influence**2).mean(1), np.finfo(np.float64).tiny ** 0.5)
    unbiased = np.sqrt(even * np.maximum(even - 1, 0)) / np.maximum(even - 2, 1)
    skew = unbiased * (influence**3).mean(1) / spread**1.5 / np.sqrt(even)
    slope = np.where(np.abs(skew) < 1e-6, 1.0, skew)

    def corrected(t: np.ndarray) -> np.ndarray:
        cubic = 3 / slope * (np.cbrt(1 + slope * (t - slope / 6)) - 1)
        return np.where(np.abs(skew) < 1e-6, t, cubic)

    carried = count * (1 + (parts.sizes_G - 1) * intraclass_correlation(rest, number)[:, None])
    few = carried.sum(1) ** 2 / (carried**2).sum(1)  # clusters that carry the variance
    t = stdtrit(np.maximum(1.0, (even + few) / 2 - 1), 1 - TAIL)
    low = value[:, 0] - error * np.maximum(t, corrected(t))
    high = value[:, 0] + error * np.maximum(t, -corrected(-t))
    return Intervals(low, high, groups, number)


def ratio_interval(sums: np.ndarray, counts: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of sum(sums) / sum(counts); all (n,), counts above 0.

    Raises:
        ValueError: Different numbers of values, none, or fewer than two clusters.
    """
    return ratio_intervals(np.asarray(sums)[None], np.asarray(counts)[None], clusters).first()


def _tango(
    d: np.ndarray, quantile: float, n: np.ndarray, up: np.ndarray, down: np.ndarray
) -> np.ndarray:
    """Return Tango's (1998) statistic of n pairs, if the difference is d, minus a quantile.

    Of the pairs, ``up`` and ``down`` differ; q is the share of the latter, given the difference.
    """
    b = -up - down + (2 * n - up + down) * d
    root = np.sqrt(np.maximum(0.0, b**2 + 8 * n * down * d * (1 - d)))
    q = (root - b) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    return np.asarray((up - down - n * d) / np.sqrt(np.maximum(variance, 1e-12)) - quantile)


def difference_intervals(
    more_Rn: np.ndarray, fewer_Rn: np.ndarray, clusters: np.ndarray
) -> Intervals:
    """Return the intervals of paired differences; see ``difference_interval``."""
    if np.shape(more_Rn) != np.shape(fewer_Rn):
        raise ValueError(f"{np.shape(more_Rn)} and {np.shape(fewer_Rn)} values are no pairs")
    change = np.subtract(more_Rn, fewer_Rn, dtype=np.float64)
    outcomes = by_cluster(change, clusters)
    n = effective_numbers(outcomes, widening=1)
    up, down = (n * np.maximum(sign * change, 0).mean(1) for sign in (1, -1))
    value, edge = (up - down) / n, np.full(len(n), 1 - 1e-9)
    ends = []
    for sign, bracket in ((1, (-edge, value)), (-1, (value, edge))):
        found = elementwise.find_root(_tango, bracket, args=(sign * Z, n, up, down)).x
        is_outside = sign * _tango(-sign * edge, sign * Z, n, up, down) <= 0
        ends.append(np.where(is_outside, -sign, found))
    return Intervals(ends[0], ends[1], len(outcomes.sizes_G), n)


def difference_interval(more: np.ndarray, fewer: np.ndarray, clusters: np.ndarray) -> Interval:
    """Return the interval of mean(more) - mean(fewer), outcomes in [0, 1] (n,) of the same clips.

    Raises:
        ValueError: Different numbers of values, or none.
    """
    return difference_intervals(np.asarray(more)[None], np.asarray(fewer)[None], clusters).first()
