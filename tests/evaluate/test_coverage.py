"""Intervals hold the truth as often as they say, over clusters and near 0 and 1."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from nano4m.evaluate.intervals import share_intervals

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import interval_coverage as simulation

REPETITIONS = 400
EFFECT = "design effect"
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


def test_tied_candidates_make_an_interval_narrower():
    (corner,) = corners("fractional share", sizes=["10"], clusters=[100], p=[0.8], **{EFFECT: [1]})
    assert corner.is_bounded
    assert LEAST <= simulation.coverage(corner, REPETITIONS, seed=1) <= 0.98


@pytest.mark.parametrize("value", [0.5, 0.25, 0.02])
@pytest.mark.parametrize("tied", [0.6, 0.95])
@pytest.mark.parametrize("clips", [20, 120])
def test_the_share_of_outcomes_that_are_mostly_ties_covers(value, tied, clips):
    rng = np.random.default_rng(0)
    hits = rng.random((2000, clips)) < 0.5
    drawn = np.where(rng.random(hits.shape) < tied, value, hits)
    ends = share_intervals(drawn, np.arange(clips))
    truth = tied * value + (1 - tied) * 0.5
    assert ((ends.low_R <= truth) & (truth <= ends.high_R)).mean() >= 0.92


def percentile_bootstrap(values, clusters):
    """The intervals of before: clips are resampled, whatever they share."""
    rng = np.random.default_rng(0)
    means = values[:, rng.integers(values.shape[1], size=(200, values.shape[1]))].mean(2)
    return np.quantile(means, [0.025, 0.975], axis=1)


def test_a_bootstrap_over_clips_is_caught(monkeypatch):
    monkeypatch.setattr(simulation, "share_intervals", percentile_bootstrap)
    for p, most in ((0.5, 0.6), (0.95, 0.8)):
        (corner,) = (
            corner
            for corner in corners("share", sizes=["like animals"], clusters=[18], p=[p])
            if corner.name[EFFECT] > 8
        )
        assert simulation.coverage(corner, REPETITIONS, seed=1) < min(most, LEAST)


@pytest.mark.parametrize(("kind", "truth"), [("share", 0.9), ("difference", 0.4), ("mean", 12)])
def test_a_wrong_truth_is_not_held(kind, truth):
    corner = corners(kind, sizes=["10"], clusters=[300], **{EFFECT: [1]})[0]
    assert corner.truth != truth
    assert simulation.coverage(corner._replace(truth=truth), 50, seed=1) == 0
