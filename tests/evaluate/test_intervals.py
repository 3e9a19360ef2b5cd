"""Intervals: against scipy where clips are independent, over clusters, and where nothing varies."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from scipy.stats import t as student

from nano4m.evaluate.effective_number import effective_number
from nano4m.evaluate.intervals import (
    difference_interval,
    difference_intervals,
    ratio_interval,
    ratio_intervals,
    share_interval,
    share_intervals,
)


def mean_interval(values, clusters):
    """The interval of a mean: a ratio to counts of one."""
    return ratio_interval(values, np.ones(len(values)), clusters)


@pytest.mark.parametrize("n", [20, 300])
@pytest.mark.parametrize("share", [0, 0.05, 0.35, 0.95, 1])
def test_of_independent_clips_it_lies_between_the_exact_interval_and_jeffreys(n, share):
    found = round(share * n)
    ends = share_interval(np.arange(n) < found, np.arange(n))
    exact = binomtest(found, n).proportion_ci(0.95, method="exact")
    inner = beta.interval(0.95, found + 0.5, n - found + 0.5)
    assert exact.low - 1e-9 <= ends.low and ends.high <= exact.high + 1e-9
    if 0 < share < 1:
        assert ends.low < inner[0] and inner[1] < ends.high
    else:
        assert ends[:2] == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert (ends.clusters, ends.effective) == (n, n)


def test_copies_of_clips_add_nothing():
    rng = np.random.default_rng(0)
    for p in (0.0, 0.3, 0.8, 1.0):
        hits = rng.random(40) < p
        fewer = rng.random(40) < 0.5
        clusters = np.repeat(np.arange(40), 9)
        one, many = share_interval(hits, np.arange(40)), share_interval(hits.repeat(9), clusters)
        assert many == pytest.approx(one)
        one = difference_interval(hits, fewer, np.arange(40))
        assert difference_interval(hits.repeat(9), fewer.repeat(9), clusters) == pytest.approx(one)
        nats = rng.gamma(4, size=40)
        one = mean_interval(nats, np.arange(40))
        assert mean_interval(nats.repeat(9), clusters) == pytest.approx(one)


def test_the_effective_number_follows_the_correlation():
    rng = np.random.default_rng(1)
    clusters = np.arange(300).repeat(10)
    for alike in (0.0, 0.3, 1.0):
        shared = rng.random(300)[clusters]
        own = rng.random(3000)
        hits = np.where(rng.random(3000) < np.sqrt(alike), shared, own) < 0.5
        assert effective_number(hits, clusters) == pytest.approx(3000 / (1 + 9 * alike), rel=0.15)


def test_equal_outcomes_are_not_certain():
    hits, clusters = np.ones(64), np.arange(64) % 18
    ends = share_interval(hits, clusters)
    assert ends.high == 1 and ends.low == pytest.approx(0.025 ** (1 / ends.effective))
    assert ends.effective == pytest.approx(64**2 / (np.bincount(clusters) ** 2).sum())
    none = share_interval(1 - hits, clusters)
    assert none[:2] == pytest.approx((0, 1 - ends.low))
    same = difference_interval(hits, hits, clusters)
    assert same.high == pytest.approx(-same.low) and 0.1 < same.high < 0.25
    always = difference_interval(hits, 0 * hits, clusters)
    assert always.high == 1 and 0.6 < always.low < 0.9


@pytest.mark.parametrize("seed", range(5))
def test_many_samples_at_once_have_the_intervals_of_each(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 12, size=40)
    chance = rng.random((30, 12))[:, clusters] ** rng.choice([0.02, 1, 40], size=(30, 1))
    hits, fewer = rng.random((30, 40)) < chance, rng.random((30, 40)) < 0.5
    fewer[:10] = hits[:10]
    nats, tokens = rng.gamma(2, size=(30, 40)), rng.integers(1, 9, size=(30, 40))
    for many, one, parts in (
        (share_intervals, share_interval, (hits,)),
        (share_intervals, share_interval, ((hits + fewer.astype(float)) / 2,)),
        (difference_intervals, difference_interval, (hits, fewer)),
        (ratio_intervals, ratio_interval, (nats * tokens, tokens)),
    ):
        found = many(*parts, clusters)
        for row in range(30):
            low, high, groups, effective = one(*(part[row] for part in parts), clusters)
            assert (low, high) == pytest.approx((found.low_R[row], found.high_R[row]), abs=1e-9)
            assert groups == found.clusters
            assert effective == pytest.approx(found.effective_R[row])


def test_tied_outcomes_vary_less_than_hits_and_misses():
    rng = np.random.default_rng(0)
    both = rng.random((2, 400)) < 0.7
    width = [np.diff(share_interval(own, np.arange(400))[:2])[0] for own in (both[0], both.mean(0))]
    assert width[1] == pytest.approx(width[0] / np.sqrt(2), rel=0.1)
    # Where the variance is that of hits and misses a fraction among them changes next to nothing.
    hits = both[0].astype(float)
    hits[0] = 0.999
    ends = share_interval(np.round(hits), np.arange(400))
    assert share_interval(hits, np.arange(400))[:2] == pytest.approx(ends[:2], abs=1e-3)


@pytest.mark.parametrize("clips", [2, 6, 20, 200])
def test_a_small_sample_of_ties_is_not_certain(clips):
    """Ties alone say no more than as many hits and misses, and ties but for one not much more."""
    tied = np.full(clips, 0.5)
    hits = np.arange(clips) % 2
    same = share_interval(tied, np.arange(clips))
    assert same[:2] == pytest.approx(share_interval(hits, np.arange(clips))[:2], abs=0.2 / clips)
    if clips > 2:
        tied[0] = 1
        width = np.diff(share_interval(tied, np.arange(clips))[:2])[0]
        assert 0.5 * (same.high - same.low) < width


def test_the_interval_of_a_difference_is_of_pairs():
    rng = np.random.default_rng(0)
    fewer = rng.random(400) < 0.5
    more = fewer | (rng.random(400) < 0.1)
    found = difference_interval(more, fewer, np.arange(400))
    assert 0 < found.low < (more & ~fewer).mean() < found.high < 0.09
    # Unpaired, the interval would be three times as wide and hold 0.
    other = difference_interval(more, rng.permutation(fewer), np.arange(400))
    assert other.low < 0 < other.high
    swapped = difference_interval(fewer, more, np.arange(400))
    assert swapped[:2] == pytest.approx((-found.high, -found.low))


def test_a_mean_of_symmetric_values_has_students_interval():
    values = np.concatenate([1 - np.arange(20), 3 + np.arange(20)]).astype(float)
    found = mean_interval(values, np.arange(40))
    error = values.std(ddof=1) / np.sqrt(40)
    ends = student.interval(0.95, 39, values.mean(), error)
    assert found[:2] == pytest.approx(ends, rel=1e-6)


def test_a_skewed_mean_has_the_longer_side_above():
    values = np.random.default_rng(0).exponential(size=60)
    found = mean_interval(values, np.arange(60))
    assert found.high - values.mean() > values.mean() - found.low


def test_the_interval_of_a_ratio():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, size=400)
    sums = counts * rng.normal(2.0, 0.5, size=400)
    found = ratio_interval(sums, counts, np.arange(400))
    assert (
        found.low < sums.sum() / counts.sum() < found.high and 0.05 < found.high - found.low < 0.2
    )
    scaled = ratio_interval(3 * sums, counts, np.arange(400))
    assert scaled[:2] == pytest.approx((3 * found.low, 3 * found.high))


def test_what_cannot_be_computed_is_refused():
    some = np.ones(3)
    for call in (
        lambda: share_interval(some[:0], some[:0]),
        lambda: share_interval(some, some[:2]),
        lambda: mean_interval(some, some[:2]),
        lambda: ratio_interval(some, some[:2], some),
        lambda: ratio_interval(some, some, np.zeros(3)),
        lambda: difference_interval(some, some[:2], some),
    ):
        with pytest.raises(ValueError, match="interval|ratio|pairs|cluster"):
            call()
