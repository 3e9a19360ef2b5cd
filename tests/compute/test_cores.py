"""Cores of the machine, of the process's affinity, and of a container's quota."""

import os
import subprocess
import sys

import pytest

from nano4m.compute.cores import usable_cores


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", 4),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("200000 100000", 2),
        ("900000 100000", 4),
        ("", 4),
        ("broken", 4),
    ],
)
def test_a_quota_limits_the_cores(four, tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("50000", 1), ("250000", 2)])
def test_a_quota_of_the_older_kind_limits_them_too(four, tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores


def test_without_a_container_or_affinity_all_cores_count(tmp_path, monkeypatch):
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cores(tmp_path) == 3


SEEN = "cores.usable_cores = lambda: {}; os.cpu_count = lambda: 4"
ASK = """
import os
from nano4m import cli
from nano4m.compute import cores
{patch}
cli.COMMANDS = {{"show": (lambda *_: print(
    os.environ.get("OMP_NUM_THREADS"), os.environ.get("GOMP_SPINCOUNT")), "")}}
cli.main(["show"])
print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("patch", "own", "inside"),
    [
        (SEEN.format(1), {}, "1 100000"),
        (SEEN.format(4), {}, "None 100000"),
        (SEEN.format(1), {"OMP_NUM_THREADS": "3"}, "3 100000"),
        (SEEN.format(1), {"OMP_WAIT_POLICY": "PASSIVE"}, "1 None"),
    ],
)  # fmt: skip
def test_a_command_limits_threads_and_keeps_what_the_user_set(patch, own, inside):
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(patch=patch)],
        env=clean | own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    before = " ".join(str(own.get(name)) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"))
    assert done.stdout.splitlines() == [inside, before]
