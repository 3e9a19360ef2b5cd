"""Measures of collapse: by hand, on collapsed and on varied sequences."""

import math

import numpy as np
import pytest

from conftest import tiny_modalities
from nano4m.evaluate.diversity import diversity, hamming, real_tokens, spread

BY_NAME = {m.name: m for m in tiny_modalities()}
RGB, TEXT = BY_NAME["rgb"], BY_NAME["caption"]


def test_by_hand():
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 3], [5, 6, 2, 2], [5, 6, 2, 2]])
    found = spread(ids, ["a", "a", "b", "b"], RGB)
    counts = np.array([4, 7 - 0, 1, 2, 2])  # ids 1, 2, 3, 5, 6
    share = counts / 16
    assert found.entropy == pytest.approx(-(share * np.log(share)).sum())
    assert found.distinct_sequences == 3 / 4 and found.distinct_tokens == 5 / 11
    assert found.within == pytest.approx((1 / 4 + 0) / 2)
    assert found.between == pytest.approx((2 + 2 + 3 + 3) / 16)


def test_texts_are_compared_up_to_their_ends():
    ids = np.array([[3, 4, 0, 0, 0, 0], [3, 4, 5, 0, 0, 0], [3, 4, 0, 9, 9, 9]])
    real = real_tokens(ids, TEXT)
    assert real.sum(1).tolist() == [3, 4, 3]
    distance = hamming(ids, real)
    assert distance[0, 1] == pytest.approx(2 / 4)  # an end, a word and an end
    assert distance[0, 2] == 0, "what stands behind the end does not count"
    assert spread(ids, "aaa", TEXT).distinct_sequences == 2 / 3


def test_a_collapsed_sampler_is_seen():
    rng = np.random.default_rng(0)
    labels = [str(i % 4) for i in range(80)]
    real = rng.integers(0, 11, (80, 4))
    modes = rng.integers(0, 11, (4, 4))
    collapsed = modes[[int(label) for label in labels]]
    found = diversity(collapsed, labels, real, labels, RGB)
    assert found.generated.within == 0 and found.real.within > 0.8
    assert found.generated.distinct_sequences == 4 / 80 and found.real.distinct_sequences > 0.9
    assert found.generated.entropy < found.real.entropy <= math.log(11)
    same = spread(np.zeros((5, 4), np.int64), "aaaaa", RGB)
    assert (same.entropy, same.within, same.between) == (0, 0, None)


def test_one_class_has_no_other_and_one_sequence_no_pair():
    one = spread(np.array([[1, 2, 3, 4]]), ["a"], RGB)
    assert one.within is None and one.between is None
    apart = spread(np.array([[1, 2, 3, 4], [1, 2, 3, 5]]), ["a", "b"], RGB)
    assert apart.within is None and apart.between == 0.25
    for ids, classes in (
        (np.zeros((0, 4), np.int64), []),
        (np.zeros((2, 4), np.int64), ["a"]),
    ):
        with pytest.raises(ValueError):
            spread(ids, classes, RGB)
