"""Cores that this process may use: of the machine, of its affinity, and of a container's quota."""

import os
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
