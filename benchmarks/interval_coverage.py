"""Coverage of the printed intervals by simulation: how often does each hold the truth?

python benchmarks/interval_coverage.py --repetitions 2000 --kind share

Prints one JSON object: for every kind of interval the least and the greatest coverage with their
corners, and every corner. Bounds: at least 92 % everywhere; at most 98 % where n_eff p (1 - p), the
variance of the hits among independent clips, is 5 or more. 2,000 repetitions of all kinds take
about nine minutes of one core.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaincinv, ndtr, ndtri
from scipy.stats import multivariate_normal

from nano4m.evaluate.intervals import (
    Intervals,
    difference_intervals,
    ratio_intervals,
    share_intervals,
)

LIKE_ANIMALS = (18, 11, 6, 5, 4, 3, 3, 2, 2, 2, *[1] * 8)
"""64 clips over 18 pictures: of clips that all agree, a design effect of 8.75."""
SIZES: dict[str, Callable[[int], np.ndarray]] = {
    "1": lambda clusters: np.ones(clusters, dtype=np.int64),
    "3": lambda clusters: np.full(clusters, 3),
    "10": lambda clusters: np.full(clusters, 10),
    "20": lambda clusters: np.full(clusters, 20),
    "like animals": lambda clusters: np.resize(LIKE_ANIMALS, clusters),
    "1 to 20": lambda clusters: np.minimum(
        np.random.default_rng(1).geometric(0.25, clusters), 20
    ),
}  # fmt: skip
CLUSTERS = (18, 54, 100, 300)
EFFECTS = (1, 2, 4, 9)
SHARES = (0.5, 0.8, 0.95, 0.99)
VALUES = 250_000
"""Outcomes that are simulated at once."""
PAIRS = ((0.5, 0.5), (0.8, 0.7), (0.95, 0.95), (0.99, 0.99), (0.95, 0.5), (0.99, 0.9))


class Corner(NamedTuple):
    """One simulated case: its name, how to draw intervals, and the true value.

    Attributes:
        name: What is simulated.
        clips: Number of clips.
        draw: Random generator, R -> R intervals.
        truth: The value that the interval should hold.
        is_bounded: Whether at most 98 % of the intervals may hold it.
    """

    name: dict[str, Any]
    clips: int
    draw: Callable[[np.random.Generator, int], Intervals]
    truth: float
    is_bounded: bool


def designs() -> Iterator[tuple[dict[str, Any], np.ndarray, float]]:
    """Yield name, cluster of each clip (n,) and intra-class correlation of every design."""
    for kind, make in SIZES.items():
        for count in CLUSTERS:
            sizes = make(count)
            excess = float((sizes**2).sum() / sizes.sum() - 1)
            for effect in EFFECTS:
                alike = (effect - 1) / excess if excess else float(effect > 1) * 2
                if kind == "like animals" and effect == 9:
                    alike = 1.0
                if alike <= 1:
                    name = {"sizes": kind, "clusters": count, "design effect": 1 + excess * alike}
                    yield name, np.repeat(np.arange(count), sizes), alike


def outcomes(
    p: float, clusters: np.ndarray, alike: float, rng: np.random.Generator, samples: int
) -> np.ndarray:
    """Return beta-binomial hits (R, n) with this share and intra-class correlation."""
    shape = (samples, clusters[-1] + 1)
    if alike >= 1:
        chance = (rng.random(shape) < p).astype(float)
    elif alike > 0:
        chance = rng.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), shape)
    else:
        chance = np.full(shape, p)
    drawn = rng.random((samples, len(clusters)), dtype=np.float32)
    return drawn < np.repeat(chance, np.bincount(clusters), axis=1)


def normals(
    clusters: np.ndarray, alike: float, rng: np.random.Generator, samples: int
) -> np.ndarray:
    """Return standard normal values, float32 (R, n), with this intra-class correlation."""
    shared = rng.standard_normal((samples, clusters[-1] + 1), dtype=np.float32)
    own = rng.standard_normal((samples, len(clusters)), dtype=np.float32)
    own *= np.float32(np.sqrt(1 - alike))
    own += np.repeat(shared * np.float32(np.sqrt(alike)), np.bincount(clusters), axis=1)
    return own


@cache
def hits_together(p: float, q: float, correlation: float) -> float:
    """Return the covariance of two hits of normal values with this correlation."""
    if correlation > 1 - 1e-9:
        return min(p, q) - p * q
    both = multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    return float(both.cdf(ndtri([p, q]))) - p * q


def share_corners() -> Iterator[Corner]:
    """Shares: hits are beta-binomial."""
    for name, clusters, alike in designs():
        for p in SHARES:

            def draw(rng, samples, clusters=clusters, alike=alike, p=p):
                return share_intervals(outcomes(p, clusters, alike, rng, samples), clusters)

            expected = len(clusters) / name["design effect"] * p * (1 - p)
            about = name | {"p": p, "n_eff p (1 - p)": round(expected, 2)}
            yield Corner(about, len(clusters), draw, p, expected >= 5)


def fractional_corners() -> Iterator[Corner]:
    """Shares of hits that are 0, 1/2 or 1, as of tied candidates of retrieval."""
    for name, clusters, alike in designs():
        for p in SHARES:

            def draw(rng, samples, clusters=clusters, alike=alike, p=p):
                one, other = (outcomes(p, clusters, alike, rng, samples) for _ in range(2))
                return share_intervals((one.astype(np.float64) + other) / 2, clusters)

            expected = len(clusters) / name["design effect"] * p * (1 - p)
            about = name | {"p": p, "n_eff p (1 - p)": round(expected, 2)}
            yield Corner(about, len(clusters), draw, p, expected >= 5)


def difference_corners() -> Iterator[Corner]:
    """Differences of two shares of the same clips, correlated or not.

    In place of p (1 - p) stands the variance of one clip's difference, which is the same where all
    differences go one way.
    """
    for name, clusters, alike in designs():
        for more, fewer in PAIRS:
            for together in (0.0, 0.6, 0.95):

                def draw(rng, samples, c=clusters, r=alike, pair=(more, fewer), together=together):
                    one, other = normals(c, r, rng, samples), normals(c, r, rng, samples)
                    other *= np.float32(np.sqrt(1 - together**2))
                    other += np.float32(together) * one
                    edges = ndtri(pair).astype(np.float32)
                    return difference_intervals(
                        (one < edges[0]).view(np.int8), (other < edges[1]).view(np.int8), c
                    )

                variance, covariance = (
                    hits_together(more, more, r)
                    + hits_together(fewer, fewer, r)
                    - 2 * hits_together(more, fewer, r * together)
                    for r in (1.0, alike)
                )
                excess = (name["design effect"] - 1) / alike if alike else 0.0
                effect = 1 + excess * covariance / variance
                expected = len(clusters) / effect * variance
                about = name | {"more": more, "fewer": fewer, "correlation": together}
                about |= {"n_eff variance": round(expected, 2)}
                yield Corner(about, len(clusters), draw, more - fewer, expected >= 5)


def nats_corners(weighted: bool) -> Iterator[Corner]:
    """Nats a token of clips, from symmetric to exponential; ``weighted`` by 4 to 24 tokens."""
    grid = np.linspace(-6.5, 6.5, 8001)
    for name, clusters, alike in designs():
        for shape in (16, 4, 1):
            gamma = gammaincinv(shape, ndtr(grid))

            def draw(rng, samples, c=clusters, alike=alike, gamma=gamma):
                nats = np.interp(normals(c, alike, rng, samples), grid, gamma)
                if not weighted:
                    return ratio_intervals(nats, np.ones_like(nats), c)
                tokens = rng.integers(4, 25, nats.shape)
                return ratio_intervals(nats * tokens, tokens, c)

            yield Corner(name | {"gamma shape": shape}, len(clusters), draw, shape, False)


KINDS: dict[str, Callable[[], Iterator[Corner]]] = {
    "share": share_corners,
    "fractional share": fractional_corners,
    "difference": difference_corners,
    "mean": lambda: nats_corners(weighted=False),
    "ratio": lambda: nats_corners(weighted=True),
}


def coverage(corner: Corner, repetitions: int, seed: int) -> float:
    """Return the share of simulated intervals that hold the truth."""
    rng, held = np.random.default_rng(seed), 0
    at_once = max(1, VALUES // corner.clips)
    for begin in range(0, repetitions, at_once):
        low, high = corner.draw(rng, min(at_once, repetitions - begin))[:2]
        held += int(((low - 1e-9 <= corner.truth) & (corner.truth <= high + 1e-9)).sum())
    return held / repetitions


def main() -> None:
    """Print the coverage of every corner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--every", type=int, default=1, help="take every k-th corner only")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "repetitions": given.repetitions,
        "seed": given.seed,
        "every": given.every,
    }
    for kind in given.kind or KINDS:
        started = time.perf_counter()
        rows = []
        for corner in islice(KINDS[kind](), 0, None, given.every):
            held = coverage(corner, given.repetitions, given.seed)
            rows.append(corner.name | {"bounded": corner.is_bounded, "coverage": held})
        bounded = [row for row in rows if row["bounded"]]
        found[kind] = {
            "seconds": round(time.perf_counter() - started, 1),
            "corners": len(rows),
            "below 0.92": sum(row["coverage"] < 0.92 for row in rows),
            "bounded above 0.98": sum(row["coverage"] > 0.98 for row in bounded),
            "least": min(rows, key=lambda row: row["coverage"]),
            "greatest": max(bounded or rows, key=lambda row: row["coverage"]),
            "all": rows,
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
