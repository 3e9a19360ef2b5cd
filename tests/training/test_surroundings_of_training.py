"""What happens to a training from outside: a terminal that closes, a killed process, odd names."""

import multiprocessing
import os
import pty
import signal
import sys

import numpy as np
import pytest
import torch

from conftest import small_config, tiny_table
from nano4m.compute.distributed import DistributedContext
from nano4m.tokens.table import write_table
from nano4m.training.interrupt import Interrupt
from nano4m.training.state import newest_state, save_state
from nano4m.training.trainer import Trainer

# -- a terminal that is closed -----------------------------------------------------------------

TRAIN = """
import signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from conftest import small_config, tiny_table
from nano4m import cli
from nano4m.training.trainer import train_model

signal.signal(signal.SIGHUP, signal.{action})

def at(step):
    if step == 2:
        print("two steps", flush=True)
        time.sleep(1)
    return False

def train(*_):
    train_model(small_config(steps=6, save_every=6), tiny_table(), Path({folder!r}), stop=at)

cli.COMMANDS["show"] = (train, "")
cli.main(["show"])
"""


@pytest.mark.parametrize(
    ("action", "code", "left"),
    [("SIG_DFL", 130, {"step-000003"}), ("SIG_IGN", 0, {"step-000006", "checkpoint"})],
)
def test_a_terminal_that_closes_loses_no_step(tmp_path, action, code, left):
    """Training saves its state, or goes on without a terminal where nohup says so."""
    script = TRAIN.format(paths=sys.path, folder=str(tmp_path), action=action)
    process, terminal = pty.fork()
    if not process:
        os.execv(sys.executable, [sys.executable, "-c", script])
    shown = b""
    while b"two steps" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)  # the kernel sends SIGHUP, and every write fails
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
    assert {path.name for path in tmp_path.iterdir()} - {"log.jsonl"} == left


def test_a_terminal_that_closes_says_so_several_times():
    with Interrupt().watch() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.requested
        os.kill(os.getpid(), signal.SIGTERM)  # as a machine does that shuts down
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 0.1)


# -- names beside ours -------------------------------------------------------------------------


def test_names_beside_training_states_are_left_alone(tmp_path):
    theirs = ["step-old", "step-000001.bak", "step-1", "step-\u0661\u0662\u0663\u0664\u0665\u0666"]
    theirs += ["part-of-it", "part-000002.bak"]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / "step-000000").write_text("a file")
    for step in (1, 2, 3, 4):
        save_state(tmp_path, step, {"w": torch.full((2,), float(step))}, {"skipped": 0})
        (tmp_path / f"part-{step:06d}").mkdir()  # of a process that was killed
    found = newest_state(tmp_path)
    assert found is not None and found[0] == 4 and found[1]["w"].tolist() == [4.0, 4.0]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*theirs, "step-000000", "step-000003", "step-000004", "part-000004"}


def test_a_state_does_not_bring_back_a_folder_that_was_moved(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_state(tmp_path / "moved", 1, {"w": torch.zeros(2)}, {"skipped": 0})
    assert not (tmp_path / "moved").exists()


# -- a worker that is killed -------------------------------------------------------------------


def test_training_goes_on_when_a_process_that_makes_batches_is_killed(tmp_path):
    table = tiny_table()
    write_table(table, tmp_path)
    trainer = Trainer(
        small_config(), table, tmp_path / "run", DistributedContext(torch.device("cpu"))
    )
    steps = list(enumerate(trainer.sampler.steps(0, 12)))
    made = []
    for number, _, packed in trainer.maker.ahead(table, tmp_path, steps, 1, 2):
        made.append(packed)
        if number == 1:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
    wanted = [trainer.maker.packed(table, *step) for step in steps]
    assert len(made) == 12
    for own, other in zip(made, wanted, strict=True):
        assert [p.shape for p in own] == [p.shape for p in other]
        assert all(np.array_equal(a.flat, b.flat) for a, b in zip(own, other, strict=True))
