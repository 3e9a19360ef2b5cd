"""Freed memory stays with the process: seen from outside, in a process of its own."""

import subprocess
import sys

import pytest

from nano4m.compute.malloc import tune_malloc

STEPS = """
import resource, sys, torch
from nano4m.compute.malloc import tune_malloc
if sys.argv[1] == "keep":
    assert tune_malloc()
def step():
    for size in (10_000_000, 12_000_000, 9_000_000):
        torch.ones(size)
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(3):
    step()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux, for its C library")
def test_the_system_is_not_asked_for_the_same_pages_again():
    def pages_and_growth(mode: str) -> list[int]:
        words = [sys.executable, "-c", STEPS, mode]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return [int(n) for n in done.stdout.split()]

    # Nine tensors of 36 to 48 MB are 90,000 pages of 4 KiB.
    kept, growth = pages_and_growth("keep")
    assert kept < 1000 and growth < 1024
    assert pages_and_growth("plain")[0] > 10_000


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not tune_malloc()
