"""Coverage of the printed intervals by simulation: how often does each hold the truth?

python benchmarks/interval_coverage.py --repetitions 2000 --kind share

Prints one JSON object: for every kind of interval the least and the greatest coverage with their
corners, and every corner. Bounds: at least 92 % everywhere; at most 98 % where n_eff p (1 - p), the
expected hits and misses of independent clips, is 5 or more.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaincinv, ndtr

from nano4m.evaluate.intervals import (
    difference_interval,
    mean_interval,
    ratio_interval,
    share_interval,
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
PAIRS = ((0.5, 0.5), (0.8, 0.7), (0.95, 0.95), (0.99, 0.99), (0.95, 0.5), (0.99, 0.9))


class Corner(NamedTuple):
    """One simulated case: its name, how to draw an interval, and the true value.

    Attributes:
        name: What is simulated.
        draw: Random generator -> interval.
        truth: The value that the interval should hold.
        is_bounded: Whether at most 98 % of the intervals may hold it.
    """

    name: dict[str, Any]
    draw: Callable[[np.random.Generator], tuple[float, ...]]
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


def outcomes(p: float, clusters: np.ndarray, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Return beta-binomial hits (n,) with this share and intra-class correlation."""
    count = clusters[-1] + 1
    if alike >= 1:
        chance = (rng.random(count) < p).astype(float)
    elif alike > 0:
        chance = rng.beta(p * (1 / alike - 1), (1 - p) * (1 / alike - 1), count)
    else:
        chance = np.full(count, p)
    return rng.random(len(clusters)) < chance[clusters]


def normals(clusters: np.ndarray, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Return standard normal values (n,) with this intra-class correlation."""
    shared = rng.standard_normal(clusters[-1] + 1)[clusters]
    own = rng.standard_normal(len(clusters))
    return np.sqrt(alike) * shared + np.sqrt(1 - alike) * own


def share_corners() -> Iterator[Corner]:
    """Shares: hits are beta-binomial."""
    for name, clusters, alike in designs():
        for p in SHARES:

            def draw(rng, clusters=clusters, alike=alike, p=p):
                return share_interval(outcomes(p, clusters, alike, rng), clusters)

            expected = len(clusters) / name["design effect"] * p * (1 - p)
            about = name | {"p": p, "n_eff p (1 - p)": round(expected, 2)}
            yield Corner(about, draw, p, expected >= 5)


def fractional_corners() -> Iterator[Corner]:
    """Shares of hits that are 0, 1/2 or 1, as of tied candidates of retrieval."""
    for name, clusters, alike in designs():
        for p in SHARES:

            def draw(rng, clusters=clusters, alike=alike, p=p):
                pair = (outcomes(p, clusters, alike, rng) for _ in range(2))
                return share_interval(sum(pair) / 2, clusters)

            yield Corner(name | {"p": p}, draw, p, is_bounded=False)


def difference_corners() -> Iterator[Corner]:
    """Differences of two shares of the same clips, correlated or not."""
    for name, clusters, alike in designs():
        for more, fewer in PAIRS:
            for together in (0.0, 0.6, 0.95):

                def draw(rng, c=clusters, alike=alike, pair=(more, fewer), together=together):
                    one, other = normals(c, alike, rng), normals(c, alike, rng)
                    other = together * one + np.sqrt(1 - together**2) * other
                    return difference_interval(ndtr(one) < pair[0], ndtr(other) < pair[1], c)

                about = name | {"more": more, "fewer": fewer, "correlation": together}
                yield Corner(about, draw, more - fewer, is_bounded=False)


def nats_corners(weighted: bool) -> Iterator[Corner]:
    """Nats a token of clips, from symmetric to exponential; ``weighted`` by 4 to 24 tokens."""
    for name, clusters, alike in designs():
        for shape in (16, 4, 1):

            def draw(rng, c=clusters, alike=alike, shape=shape):
                nats = gammaincinv(shape, ndtr(normals(c, alike, rng)))
                if not weighted:
                    return mean_interval(nats, c)
                tokens = rng.integers(4, 25, len(c))
                return ratio_interval(nats * tokens, tokens, c)

            yield Corner(name | {"gamma shape": shape}, draw, shape, is_bounded=False)


KINDS: dict[str, Callable[[], Iterator[Corner]]] = {
    "share": share_corners,
    "fractional share": fractional_corners,
    "difference": difference_corners,
    "mean": lambda: nats_corners(weighted=False),
    "ratio": lambda: nats_corners(weighted=True),
}


def coverage(corner: Corner, repetitions: int, seed: int) -> float:
    """Return the share of simulated intervals that hold the truth."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repetitions):
        low, high = corner.draw(rng)[:2]
        held += low - 1e-9 <= corner.truth <= high + 1e-9
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
