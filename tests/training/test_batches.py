"""Batches made ahead of time are those of the step, whoever makes them."""

import time

import numpy as np
import pytest

from conftest import small_config, tiny_table
from nano4m.tokens.table import FREE, Samples, open_table, write_table
from nano4m.training.batches import BatchMaker
from nano4m.training.packed_batch import packer


def _maker(table, quantum=None):
    masking = small_config().masking
    own = packer(table.modalities, True, 16, masking, quantum)
    return BatchMaker(masking=masking, seed=3, steps=4000, packer=own)


def _steps(table, count=7):
    rows = table.rows("train")
    return [(number, _free(table, np.resize(np.roll(rows, number), 16))) for number in range(count)]


def _free(table, rows):
    return Samples(rows, np.full((len(rows), len(table.modalities)), FREE))


@pytest.mark.parametrize("workers, depth", [(0, 1), (0, 4), (2, 5)])
def test_batches_come_in_order_and_are_those_of_the_step(tmp_path, workers, depth):
    write_table(tiny_table(), tmp_path)
    table = open_table(tmp_path)
    maker, steps = _maker(table), _steps(table)
    made = list(maker.ahead(table, tmp_path, steps, workers, depth))
    assert [number for number, _, _ in made] == list(range(7))
    for (number, picked), (_, same, packed) in zip(steps, made, strict=True):
        assert np.array_equal(picked.rows, same.rows)
        for part, other in zip(maker.packed(table, number, picked), packed, strict=True):
            assert part.shape == other.shape and part.groups == other.groups
            assert np.array_equal(part.flat, other.flat)


def test_no_step_waits_for_processes_to_start(tmp_path, monkeypatch):
    write_table(tiny_table(), tmp_path)
    table = open_table(tmp_path)
    maker, own = _maker(table), []
    packed = BatchMaker.packed
    monkeypatch.setattr(BatchMaker, "packed", lambda *args: own.append(args[2]) or packed(*args))
    numbers = []
    for number, _, _ in maker.ahead(table, tmp_path, _steps(table, 4000), workers=1, depth=3):
        numbers.append(number)
        if len(numbers) > len(own):
            break  # this one came from the other process
        # As long as a step takes: the process starts meanwhile.
        time.sleep(0.02)
    assert numbers == list(range(len(numbers)))
    assert own == numbers[:-1] and own


def test_a_table_that_is_nowhere_is_masked_in_this_process():
    table = tiny_table()
    made = list(_maker(table).ahead(table, None, _steps(table), workers=4, depth=2))
    assert len(made) == 7


def test_a_mistake_in_another_process_is_told(tmp_path):
    write_table(tiny_table(), tmp_path)
    table = open_table(tmp_path)
    steps = [(0, _free(table, np.array([10**6] * 16)))]
    with pytest.raises(IndexError):
        # In this process or in the other, whichever comes to it.
        list(_maker(table).ahead(table, tmp_path, steps, workers=1, depth=2))


def test_more_samples_than_a_packed_batch_holds_are_refused():
    table = tiny_table()
    maker = _maker(table)
    groups = maker.masked(table, 0, _free(table, np.resize(table.rows("train"), 128)))
    with pytest.raises(ValueError, match="samples do not fit a packed batch of"):
        maker.packer(groups)
