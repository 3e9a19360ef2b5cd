"""States are saved by time as well as by steps: when, at what cost, and no bit depends on it."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import small_config, tiny_table
from nano4m.config.presets import FARM
from nano4m.pipeline.run import Run, settings_of
from nano4m.training.schedule import LEAST_SHARE, Request, SaveClock, Schedule
from nano4m.training.state import newest_state
from nano4m.training.trainer import train_model

TIMING = {"tokens_per_second", "mfu", "memory_gb"}


class Simulated:
    """A training of steps and saves of random length on a clock of its own."""

    def __init__(self, seed: int, minutes: float, step: float, cost: float) -> None:
        self.now, self.spent, self.saves = 1e6 * seed, 0.0, []
        self.rng, self.step, self.cost = np.random.default_rng(seed), step, cost
        self.clock = SaveClock(minutes, lambda: self.now)
        self.begun = self.now

    def _pass(self, mean: float) -> float:
        seconds = float(self.rng.uniform(0.5, 1.5) * mean)
        self.now += seconds
        return seconds

    def _save(self) -> None:
        self.saves.append(self.now)
        self.spent += self._pass(self.cost)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._pass(self.step)
            if self.clock.is_due:
                self.clock.saving(self._save)


@pytest.mark.parametrize("seed", range(8))
def test_no_more_than_the_interval_and_a_step_is_lost(seed):
    run = Simulated(seed, minutes=5, step=40, cost=3)
    run.run(500)
    gaps = np.diff([run.begun, *run.saves])
    assert len(run.saves) > 40 and gaps.max() <= 300 + 1.5 * 40 + 1.5 * 3
    assert gaps.min() >= 300


@pytest.mark.parametrize("minutes, step, cost", [(1e-9, 0.1, 2), (5, 1, 400), (0.01, 0.01, 30)])
def test_saving_by_time_takes_at_most_a_tenth_however_slow_the_disk(minutes, step, cost):
    for seed in range(8):
        run = Simulated(seed, minutes, step, cost)
        run.run(20_000)
        # The cost of the next save is not known before it: a share of 1 / (1 + LEAST_SHARE) times
        # what it may be above the last one, on average over many.
        assert run.saves and run.spent < (run.now - run.begun) / LEAST_SHARE * 1.15 + 1.5 * cost


def test_a_save_by_steps_starts_the_interval_again():
    now = [0.0]
    clock = SaveClock(5, lambda: now[0])
    now[0] = 290
    clock.saving(lambda: None)
    now[0] = 310
    assert not clock.is_due
    now[0] = 590
    assert clock.is_due


def test_the_default_clock_advances():
    clock = SaveClock(1e-9)
    assert clock.is_due
    assert not SaveClock(5).is_due


def test_steps_of_the_schedule():
    schedule = Schedule(small_config(steps=10, save_every=4, val_every=6).train)
    steps = range(1, 11)
    assert [s for s in steps if schedule.is_saved(s, Request.NOTHING)] == [4, 8, 10]
    assert all(schedule.is_saved(s, r) for s in steps for r in (Request.SAVE, Request.STOP))
    assert [s for s in steps if schedule.is_validated(s)] == [6, 10]


def _due_at(monkeypatch, steps):
    """Let a state be due by time after each of ``steps``."""
    calls = iter(range(1, 10_000))
    monkeypatch.setattr(SaveClock, "is_due", property(lambda self: next(calls) in steps))


def _finished(folder):
    tensors = load_file(folder / "checkpoint" / "model.safetensors")
    _, state, progress = newest_state(folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k not in TIMING} for line in lines]
    return tensors | {f"state.{k}": v for k, v in state.items()}, progress | {"seconds": 0}, log


def _assert_same(one, other):
    assert one[0].keys() == other[0].keys()
    assert not [n for n, tensor in one[0].items() if not torch.equal(tensor, other[0][n])]
    assert one[1:] == other[1:]


# At 100 steps a line of the log is two of them, so an odd step is in the middle of one.
@pytest.mark.parametrize(
    "packed, steps, due, killed, left",
    [("off", 100, [1, 7, 8, 27], 36, (27, 34)), ("on", 24, [5, 11], 14, (11, 13))],
)
def test_a_kill_costs_what_came_after_the_last_state_by_time_and_changes_no_bit_and_no_line(
    tmp_path, monkeypatch, packed, steps, due, killed, left
):
    sizes = {"steps": steps, "batch_size": 8, "val_every": 40, "val_samples": 8, "save_every": 90}
    config = small_config(**sizes, packed=packed)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train_model(config, tiny_table(), tmp_path / "whole")
    child = os.fork()
    if not child:  # SIGKILL cannot be caught
        try:
            _due_at(monkeypatch, due)
            train_model(
                config, tiny_table(), tmp_path / "killed",
                stop=lambda done: done == killed and os.kill(os.getpid(), signal.SIGKILL),
            )  # fmt: skip
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    logged = [json.loads(s)["step"] for s in (tmp_path / "killed" / "log.jsonl").open()]
    assert (newest_state(tmp_path / "killed")[0], logged[-1]) == left
    # Lines after the state are logged again; the one that it stands in the middle of is whole.
    _due_at(monkeypatch, [2, 3, steps - left[0] - 1])
    train_model(config, tiny_table(), tmp_path / "killed")
    states = sorted(int(p.name[5:]) for p in (tmp_path / "killed").glob("step-*"))
    assert states == [steps - 1, steps]
    whole = _finished(tmp_path / "whole")
    assert [line["step"] for line in whole[2]] == list(
        range(steps // 50 or 1, steps + 1, steps // 50 or 1)
    )
    _assert_same(_finished(tmp_path / "killed"), whole)


def test_minutes_do_not_make_another_configuration(tmp_path):
    other = FARM.model_copy(update={"train": FARM.train.model_copy(update={"save_minutes": 0.1})})
    assert other != FARM
    found = [settings_of(Run(config, tmp_path), "report") for config in (FARM, other)]
    assert found[0] == found[1]
