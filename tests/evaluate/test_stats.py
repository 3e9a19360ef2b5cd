"""Intervals and scores, by hand and against the normal approximation."""

import numpy as np
import pytest

from nano4m.evaluate.stats import (
    balanced_accuracy,
    bootstrap,
    bootstrap_difference,
    derangement,
    hits_at,
    recall_at,
    score,
)


def test_the_interval_of_a_difference_is_of_pairs():
    rng = np.random.default_rng(0)
    fewer = rng.random(400) < 0.5
    more = fewer | (rng.random(400) < 0.1)
    found = bootstrap_difference(more, fewer, np.random.default_rng(1), 1000)
    assert found["value"] == pytest.approx((more & ~fewer).mean())
    assert 0 < found["low"] < found["value"] < found["high"] < 0.09
    # Unpaired, the interval would be three times as wide and hold 0.
    other = bootstrap_difference(more, rng.permutation(fewer), np.random.default_rng(1), 1000)
    assert other["low"] < 0 < other["high"]
    same = bootstrap_difference(more, more, rng, 100)
    assert same["value"] == 0 and same["high"] == -same["low"] == pytest.approx(0.00918, abs=1e-4)
    for sign, pair in ((1, (True, False)), (-1, (False, True))):
        all_alike = bootstrap_difference(*(np.full(400, v) for v in pair), rng, 100)
        ends = sorted((sign, sign * (1 - same["high"])))
        assert [all_alike["low"], all_alike["high"]] == pytest.approx(ends)
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_difference(more, fewer[:3], rng, 100)


def test_bootstrap_is_seeded_and_agrees_with_the_normal_interval():
    values = np.arange(400) % 2
    interval = bootstrap(values, np.random.default_rng(0), 2000)
    assert interval == bootstrap(values, np.random.default_rng(0), 2000)
    assert interval == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.006)


def test_outcomes_without_spread_are_not_certain():
    low, high = bootstrap(np.ones(20), np.random.default_rng(0), 100)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 20))
    assert bootstrap(np.zeros(20), np.random.default_rng(0), 100) == pytest.approx((0, 1 - low))
    with pytest.raises(ValueError, match="no values"):
        bootstrap(np.zeros(0), np.random.default_rng(0), 100)


def test_score_by_hand():
    labels = np.array([0, 0, 0, 1])
    correct = np.array([True, True, False, False])
    assert balanced_accuracy(correct, labels) == pytest.approx((2 / 3 + 0) / 2)
    found = score(
        correct, labels, 4, np.random.default_rng(0), 200, round_trip=0.9, controls={"x": 0.1}
    )
    assert (found.value, found.chance, found.majority, found.n) == (0.5, 0.25, 0.75, 4)
    assert found.balanced == pytest.approx(1 / 3) and found.round_trip == 0.9
    assert found.low <= found.value <= found.high and found.controls == {"x": 0.1}


def test_recall_by_hand_with_ties():
    scores = np.array([[3.0, 1, 0], [2, 2, 1], [5, 4, 0]])
    assert hits_at(scores, 1) == pytest.approx([1, 0.5, 0])
    assert hits_at(scores, 2) == pytest.approx([1, 1, 0])
    assert hits_at(np.zeros((8, 8)), 2) == pytest.approx([0.25] * 8)
    assert recall_at(np.zeros((8, 8)), 2, np.random.default_rng(0), 100).chance == 0.25


def test_derangement_moves_every_clip():
    for n in (2, 3, 50):
        moved = derangement(n, np.random.default_rng(n))
        assert sorted(moved) == list(range(n)) and (moved != np.arange(n)).all()
    with pytest.raises(ValueError, match="two or more"):
        derangement(1, np.random.default_rng(0))
