"""Processes side by side end when they are told to, whatever they were at."""

import os
import subprocess
import sys
from pathlib import Path

import nano4m

SCRIPT = """
import pathlib, sys, time
from nano4m.workers import worker_pool

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
