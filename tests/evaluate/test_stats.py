"""Scores by hand."""

import numpy as np
import pytest

from nano4m.evaluate.probe_results import Control
from nano4m.evaluate.stats import (
    balanced_accuracy,
    derangement,
    hits_at,
    score,
)


def test_score_by_hand():
    labels = np.array([0, 0, 0, 1])
    correct = np.array([True, True, False, False])
    assert balanced_accuracy(correct, labels) == pytest.approx((2 / 3 + 0) / 2)
    found = score(
        correct,
        labels,
        4,
        np.array([0, 0, 1, 2]),
        round_trip=0.9,
        controls={"x": Control(value=0.1)},
    )
    assert (found.value, found.chance, found.majority, found.n) == (0.5, 0.25, 0.75, 4)
    assert found.balanced == pytest.approx(1 / 3) and found.round_trip == 0.9
    assert found.clusters == 3 and found.effective < 4
    assert found.low <= found.value <= found.high and found.controls == {"x": Control(value=0.1)}


def test_recall_by_hand_with_ties():
    scores = np.array([[3.0, 1, 0], [2, 2, 1], [5, 4, 0]])
    assert hits_at(scores, 1) == pytest.approx([1, 0.5, 0])
    assert hits_at(scores, 2) == pytest.approx([1, 1, 0])
    assert hits_at(np.zeros((8, 8)), 2) == pytest.approx([0.25] * 8)


def test_derangement_moves_every_clip():
    for n in (2, 3, 50):
        moved = derangement(n, np.random.default_rng(n))
        assert sorted(moved) == list(range(n)) and (moved != np.arange(n)).all()
    with pytest.raises(ValueError, match="two or more"):
        derangement(1, np.random.default_rng(0))
