"""Threads that compute side by side, each on one core.

A team of OpenMP threads meets at the end of every operation: a thread that has no core then keeps
the others, which wait by spinning or wake up late. Work that is laid out in a few independent tasks
meets once, and a thread that waits for its end uses no core.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from nano4m.compute.cores import usable_cores
from nano4m.compute.precision import flushes_denormals

_Result = TypeVar("_Result")

MOST_LANES = 8
"""Tasks that a step is laid out for, at most."""


def count_lanes() -> int:
    """Return how many tasks work is laid out for: a power of 2, at most MOST_LANES and the cores.

    It depends on the machine only, not on how many threads the user or a container allows, because
    sums over tasks are rounded in their order: so results do not depend on these either.
    """
    return min(MOST_LANES, 1 << ((os.cpu_count() or 1).bit_length() - 1))


class Threads:
    """Runs tasks side by side, each thread on its own cores.

    Results do not depend on the number of threads while ``cores`` is 1. Denormal numbers count as 0
    in all threads if they do in the one that makes this.

    Args:
        lanes: Tasks that work is laid out for; 1 changes nothing about how operations are computed.
        available: Cores to use; None: as many as PyTorch would use here.

    Attributes:
        number: Threads; with 1 tasks run one after the other in the calling thread.
        cores: Threads of a single operation.
    """

    def __init__(self, lanes: int, available: int | None = None) -> None:
        available = available or min(torch.get_num_threads(), usable_cores())
        self.number = min(lanes, available)
        self.cores = max(1, available // lanes)
        self._is_laid_out = lanes > 1
        flushed = flushes_denormals()
        # Threads of an executor end with it: when it is collected, or at the end of the process.
        self._pool = ThreadPoolExecutor(
            self.number, "nano4m-lane", lambda: torch.set_flush_denormal(flushed)
        )

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Let operations use ``cores`` threads inside the context, in all threads."""
        before = torch.get_num_threads()
        if self._is_laid_out:
            # A thread takes this number when it starts, and keeps it.
            torch.set_num_threads(self.cores)
        try:
            yield
        finally:
            if self._is_laid_out:
                torch.set_num_threads(before)

    def __call__(self, tasks: Sequence[Callable[[], _Result]]) -> list[_Result]:
        """Return the results of all tasks, in their order; the first error is raised at the end."""
        with self.limited():
            if self.number == 1 or len(tasks) == 1:
                return [task() for task in tasks]
            running = [self._pool.submit(task) for task in tasks]
            # All of them end before an error is raised: they may write to shared tensors.
            for future in running:
                future.exception()
            return [future.result() for future in running]
