"""Intervals hold the truth as often as they say, over clusters and near 0 and 1."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import interval_coverage as simulation

REPETITIONS = 400
LEAST = float(binom.ppf(1e-3, REPETITIONS, 0.93) / REPETITIONS)
"""What an interval that holds the truth in 93 % still reaches in all but a thousandth of runs."""


def corners(kind: str, **wanted) -> list[simulation.Corner]:
    return [
        corner
        for corner in simulation.KINDS[kind]()
        if all(corner.name.get(key) in values for key, values in wanted.items())
    ]


CHOSEN = {
    "share": {"sizes": ["1", "10", "like animals"], "clusters": [18], "p": [0.5, 0.95]},
    "fractional share": {"sizes": ["10"], "clusters": [18], "p": [0.8]},
    "difference": {"sizes": ["10"], "clusters": [54], "more": [0.8, 0.95], "correlation": [0.6]},
    "mean": {"sizes": ["1", "like animals"], "clusters": [18], "gamma shape": [4]},
    "ratio": {"sizes": ["1", "like animals"], "clusters": [18], "gamma shape": [4]},
}


@pytest.mark.parametrize("kind", simulation.KINDS)
def test_every_interval_covers(kind):
    chosen = corners(kind, **CHOSEN[kind])
    assert len(chosen) >= 3
    for corner in chosen:
        assert simulation.coverage(corner, REPETITIONS, seed=1) >= LEAST, corner.name


def test_an_interval_is_no_wider_than_it_must_be():
    for corner in corners("share", sizes=["1", "10"], clusters=[18], p=[0.5, 0.8]):
        held = simulation.coverage(corner, REPETITIONS, seed=1)
        assert not corner.is_bounded or held <= 0.99, corner.name


def percentile_bootstrap(values, clusters):
    """The interval of before: clips are resampled, whatever they share."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(200, len(values)))].mean(1)
    return np.quantile(means, [0.025, 0.975])


def test_a_bootstrap_over_clips_is_caught(monkeypatch):
    monkeypatch.setattr(simulation, "share_interval", percentile_bootstrap)
    for p, most in ((0.5, 0.6), (0.95, 0.8)):
        (corner,) = (
            corner
            for corner in corners("share", sizes=["like animals"], clusters=[18], p=[p])
            if corner.name["design effect"] > 8
        )
        assert simulation.coverage(corner, REPETITIONS, seed=1) < min(most, LEAST)
