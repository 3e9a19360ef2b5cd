"""How many independent clips would be as informative as clips in clusters.

With intra-class correlation r and clusters of sizes m, the variance of a mean is that of
n / (1 + (sum(m^2) / n - 1) r) independent clips (Kish 1965). r comes from the variance within
clusters. That of the estimate itself, from the clusters' sums, fails where the largest clusters
happen to agree; one minus the share that lies within clusters sees that they agree too well. Two
corrections keep an r that is estimated too low from making an interval too narrow: the ratio of
variances is widened as Student's t widens a variance, with the degrees of freedom of the clusters
that carry it (of differences as t widens a standard error: a share that errs towards 0 or 1 looks
less variable too, a difference does not); and with outcomes other than the common one in B
clusters, r is moved towards 1 by exp(2.5 (1 - B)), as so few cannot tell how alike the clips of a
cluster are. Outcomes that are all equal give r = 1: the clusters count.

Shapes: R samples of outcomes, n clips, G clusters.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
"""Coverage of every interval."""
TAIL = (1 - LEVEL) / 2
Z = float(ndtri(1 - TAIL))
FEW = 2.5
"""How fast further clusters with an uncommon outcome tell how alike the clips of a cluster are."""


class Clustered(NamedTuple):
    """Outcomes by cluster.

    Attributes:
        values_Rn: Clips of a cluster side by side.
        sizes_G: Clips of each cluster.
        starts_G: First clip of each cluster.
    """

    values_Rn: np.ndarray
    sizes_G: np.ndarray
    starts_G: np.ndarray

    def sums(self, values_Rn: np.ndarray) -> np.ndarray:
        """Return the sums of each cluster, (R, G)."""
        return np.add.reduceat(values_Rn, self.starts_G, axis=1)


def by_cluster(values_Rn: np.ndarray, clusters: np.ndarray) -> Clustered:
    """Return outcomes (R, n) of clips in clusters, int (n,).

    Raises:
        ValueError: Different numbers of values and clusters, or none.
    """
    values_Rn = np.asarray(values_Rn, dtype=np.float64)
    if values_Rn.shape[1:] != np.shape(clusters) or not values_Rn.size:
        raise ValueError(f"{values_Rn.shape[1]} values of {len(clusters)} clips have no interval")
    clusters = np.asarray(clusters)
    if (clusters[1:] < clusters[:-1]).any():
        order = np.argsort(clusters, kind="stable")
        values_Rn, clusters = values_Rn[:, order], clusters[order]
    starts = np.flatnonzero(np.concatenate([[True], clusters[1:] != clusters[:-1]]))
    return Clustered(values_Rn, np.diff(starts, append=len(clusters)), starts)


def uncommon(outcomes: Clustered) -> np.ndarray:
    """Return which outcomes are not the median, bool (R, n)."""
    values = outcomes.values_Rn
    return np.abs(values - np.median(values, axis=1, keepdims=True)) > 1e-9


def effective_numbers(outcomes: Clustered, widening: int = 2) -> np.ndarray:
    """Return how many independent clips would be as informative, float64 (R,), at most n.

    ``widening`` is the power of Student's t over the normal quantile that corrects the ratio of
    variances.
    """
    values, sizes = outcomes.values_Rn, outcomes.sizes_G
    n, groups = values.shape[1], len(sizes)
    excess = float((sizes**2).sum() / n - 1)  # of a cluster's size, seen from its clips
    if n == groups:
        return np.full(len(values), float(n))
    centred = values - values.mean(1, keepdims=True)
    variance = (centred**2).mean(1)
    varies = np.ptp(values, axis=1) > 0
    sums = outcomes.sums(centred)
    residual = ((centred - np.repeat(sums / sizes, sizes, axis=1)) ** 2).sum(1)
    within = residual / ((n - groups) * np.where(varies, variance, 1))
    alike = 1 - within
    for _ in range(3):  # the variance of n clips is too low by their effective number
        lost = (1 + excess * np.clip(alike, 0, 1)) / n
        alike = 1 - within * (1 - np.minimum(lost, 0.95))
    alike = np.clip(alike, 0, 1)
    is_between = varies & (alike > 0) & (alike < 1)
    squares = np.where(is_between[:, None], sums**2, 1)
    fourth = np.maximum((squares**2).sum(1), np.finfo(np.float64).tiny)
    freedom = np.maximum(1, squares.sum(1) ** 2 / fourth)
    ratio = (1 + excess * alike) / np.where(is_between, 1 - alike, 1)
    ratio = 1 + (ratio - 1) * (stdtrit(freedom, 1 - TAIL) / Z) ** widening
    alike = np.where(is_between, (ratio - 1) / (ratio + excess), alike)
    other = np.logical_or.reduceat(uncommon(outcomes), outcomes.starts_G, axis=1).sum(1)
    alike = alike + (1 - alike) * np.exp(FEW * (1 - np.maximum(other, 1)))
    return n / (1 + excess * np.where(varies, alike, 1))


def intraclass_correlation(outcomes: Clustered, number_R: np.ndarray) -> np.ndarray:
    """Return the intra-class correlations, (R,), of which effective numbers came."""
    n = outcomes.values_Rn.shape[1]
    excess = float((outcomes.sizes_G**2).sum() / n - 1)
    return np.zeros(len(number_R)) if excess == 0 else (n / number_R - 1) / excess


def effective_number(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return how many independent clips would be as informative as these, at most n.

    Args:
        values: Outcomes (n,).
        clusters: Cluster of each clip, int (n,).

    Raises:
        ValueError: Different numbers of values and clusters, or none.
    """
    return float(effective_numbers(by_cluster(np.asarray(values)[None], clusters))[0])
