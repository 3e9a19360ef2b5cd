"""Cores that this process may use: of the machine, of its affinity, and of a container's quota."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores that this process may use, at least 1.

    Half a core, or a core and a half, counts as 1: a thread more would wait for its turn, and the
    others for it.

    Args:
        cgroup: Folder of the container's limits (version 2, or ``cpu`` of version 1).
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Return the cores of a container's quota, or None without one."""
    try:
        if (cgroup / "cpu.max").is_file():
            most, _, period = (cgroup / "cpu.max").read_text().strip().partition(" ")
        else:
            most = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return float(most) / float(period) if float(most) > 0 and float(period) > 0 else None
    except (OSError, ValueError):  # no container, or "max"
        return None


@contextmanager
def patient_threads() -> Iterator[None]:
    """Limit OpenMP threads of this program and of its children: their number, and how they wait.

    Long spinning takes cores from threads that work: steps were ten times slower on a busy machine.
    A thread that sleeps at once wakes up late: generation is a quarter slower on an idle one. What
    takes long does not wait in teams at all (``nano4m.compute.threads``). A container's quota of
    fewer cores than it sees would make threads wait for their turn. What the user has set is kept.
    """
    chosen = {}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        chosen["GOMP_SPINCOUNT"] = "100000"
    if "OMP_NUM_THREADS" not in os.environ and usable_cores() < (os.cpu_count() or 1):
        chosen["OMP_NUM_THREADS"] = str(usable_cores())
    os.environ |= chosen
    try:
        yield
    finally:
        for name in chosen:
            os.environ.pop(name, None)
