"""The order of samples: every row equally often, from the seed and the step alone."""

import numpy as np
import pytest
import torch

from nano4m.tokens.table import FREE, Samples
from nano4m.training.batch_sampler import (
    DROPOUT,
    MASKS,
    ORDER,
    BatchSampler,
    derive_seed,
    generator,
)

UNEQUAL = [2] * 37 + [3] * 22 + [4] * 9 + [7] * 3 + [11]


def _order(lengths, group_size=8, groups_per_step=2, seed=0):
    rows = 100 + np.arange(len(lengths))
    samples = Samples(rows, np.full((len(rows), 1), FREE))
    return BatchSampler(samples, np.array(lengths)[:, None], group_size, groups_per_step, seed)


def _rows(order, start, stop):
    return [step.rows for step in order.steps(start, stop)]


@pytest.mark.parametrize("seed", [0, 1, 17])
@pytest.mark.parametrize("group_size, groups_per_step", [(8, 2), (4, 1), (5, 3), (100, 1)])
def test_rows_are_used_equally_often_over_many_epochs(group_size, groups_per_step, seed):
    order = _order(UNEQUAL, group_size, groups_per_step, seed)
    epochs = 40
    steps = epochs * len(UNEQUAL) // (group_size * groups_per_step)
    taken = np.concatenate(_rows(order, 0, steps))
    counts = np.bincount(taken - 100, minlength=len(UNEQUAL))
    # A pass of a length hands out each row once; only whole groups are taken, and the epoch that
    # the last step is in the middle of has groups of some lengths to come.
    for length in set(UNEQUAL):
        own = counts[np.array(UNEQUAL) == length]
        assert own.max() - own.min() <= 2 + group_size // len(own), length
        slack = 2 + 2 * group_size / len(own)
        assert abs(own.mean() - epochs) <= slack, length


@pytest.mark.parametrize("seed", range(5))
def test_groups_have_one_length_and_no_row_twice_within_a_pass(seed):
    lengths = np.array(UNEQUAL)
    order = _order(UNEQUAL, seed=seed)
    of_length: dict[int, list[int]] = {}
    for step in _rows(order, 0, 80):
        assert step.shape == (16,)
        for group in step.reshape(2, 8):
            (length,) = set(lengths[group - 100])
            of_length.setdefault(int(length), []).append(group)
    for length, groups in of_length.items():
        size = int((lengths == length).sum())
        if size >= 8:  # of a longer pass a group holds nothing twice, unless it spans two
            double = sum(len(set(g)) < 8 for g in groups)
            assert double <= len(groups) * 8 / size + 1
        else:
            assert all(np.bincount(g - 100).max() <= -(-8 // size) + 1 for g in groups)
    assert of_length.keys() == {2, 3, 4, 7, 11}


@pytest.mark.parametrize("start", [1, 7, 40, 399])
def test_a_later_start_gives_the_same_steps(start):
    order = _order(UNEQUAL)
    whole = _rows(order, 0, 400)
    again = _rows(_order(UNEQUAL), start, 400)
    assert len(again) == 400 - start
    assert all(np.array_equal(a, b) for a, b in zip(whole[start:], again, strict=True))


def test_seeds_and_passes_differ():
    def taken(seed):
        return [step.tolist() for step in _rows(_order([3] * 32, seed=seed), 0, 6)]

    assert taken(0) == taken(0) != taken(1)
    passes = [sum(taken(0)[i : i + 2], []) for i in (0, 2, 4)]
    assert [sorted(p) for p in passes] == [list(range(100, 132))] * 3
    assert passes[0] != passes[1] != passes[2]


@pytest.mark.parametrize("lengths", [[5], [5, 6], [5] * 3])
def test_fewer_rows_than_a_group_are_enough(lengths):
    steps = _rows(_order(lengths, group_size=4, groups_per_step=1), 0, 30)
    counts = np.bincount(np.concatenate(steps) - 100, minlength=len(lengths))
    assert counts.sum() == 120 and counts.max() - counts.min() <= 4


def test_streams_of_random_numbers_are_independent_of_each_other():
    seeds = [
        derive_seed(seed, stream, index)
        for seed in range(4)
        for stream in (ORDER, MASKS, DROPOUT)
        for index in range(50)
    ]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**63
    before = torch.get_rng_state()
    a, b = (torch.randn(4, generator=generator(0, MASKS, 3)) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), before)
