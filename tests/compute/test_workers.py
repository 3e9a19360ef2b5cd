"""Processes side by side end when they are told to, whatever they were at."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import nano4m
from nano4m.compute.workers import MEMORY_A_WORKER, MOST_WORKERS, ahead, count_workers

SCRIPT = """
import pathlib, sys, time
from nano4m.compute.workers import worker_pool

def large(path):
    pathlib.Path(path).touch()
    return bytes(150_000_000)

if __name__ == "__main__":
    for attempt in range(4):
        mark = pathlib.Path(sys.argv[1]) / str(attempt)
        try:
            with worker_pool(1, "--clips.workers") as pool:
                pool.submit(large, str(mark))
                while not mark.exists():
                    time.sleep(0.001)
                time.sleep(0.03 + 0.03 * attempt)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("stopped", flush=True)
"""


def test_a_pool_that_is_stopped_while_a_result_is_handed_over_ends(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    source = str(Path(nano4m.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "script.py", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": source}, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["stopped"] * 4, done.stderr


@pytest.mark.parametrize(
    "cores, memory, expected", [(2, 24, 2), (64, 500, MOST_WORKERS), (8, 3, 3), (4, 0.5, 1)]
)
def test_auto_is_what_the_machine_has(monkeypatch, cores, memory, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr("nano4m.compute.workers._memory", lambda: int(memory * MEMORY_A_WORKER))
    assert count_workers("auto") == expected
    assert [count_workers(n) for n in (0, 1, 40)] == [0, 1, 40]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_is_read_ahead_comes_in_order_and_not_too_early(threads):
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item * item

    for place, result in enumerate(ahead(work, range(9), threads)):
        assert result == place * place
        assert len(begun) <= place + 1 + threads


@pytest.mark.parametrize("threads", [0, 2])
def test_a_mistake_while_reading_ahead_is_heard_and_leaves_no_thread(threads):
    def work(item):
        if item == 3:
            raise KeyError(item)
        return item

    before = threading.active_count()
    results = ahead(work, range(100), threads)
    with pytest.raises(KeyError):
        list(results)
    assert threading.active_count() == before
    stopped = ahead(work, range(100), threads)
    next(stopped)
    stopped.close()
    assert threading.active_count() == before
