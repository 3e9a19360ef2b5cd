"""Worker processes of one thread each, which end with their parent, and threads that read ahead."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nano4m.compute.cores import usable_cores
from nano4m.errors import UserError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

MOST_WORKERS = 16
"""Maximum workers for ``auto``: more compete for the disk and take long to start."""

MOST_READERS = 8
"""Threads that decode media: each holds some hundred clips; more compete for the interpreter."""

MEMORY_A_WORKER = 1 << 30
"""Bytes of PyTorch and of the media in work in one process, at the sizes of the presets."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def count_workers(requested: int | str) -> int:
    """Return the number of processes; ``auto``: one a core, at most MOST_WORKERS, as memory allows.

    Only the cores that this process may use count (``usable_cores``).
    """
    if isinstance(requested, int):
        return requested
    return max(1, min(usable_cores(), MOST_WORKERS, _memory() // MEMORY_A_WORKER))


def count_readers() -> int:
    """Return the number of threads that decode media while a GPU computes."""
    return min(MOST_READERS, count_workers("auto"))


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container that it runs in."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(found, int(text)) if text.isdigit() else found


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield ``work(item)`` of all items in order, at most ``threads`` of them computed in advance.

    It is for work that releases the interpreter, such as decoding media. With 0 threads each item
    is computed when it is requested.
    """
    if not threads:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_worker() -> None:
    """Ignore Ctrl-C and a closed terminal, which the parent handles; exit when the parent has
    ended or was killed.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def worker_pool(workers: int, option: str = "--clips.workers") -> Iterator[ProcessPoolExecutor]:
    """Start a pool of processes, all of which have ended when the context exits.

    Args:
        workers: Number of processes.
        option: Command-line option that sets it.

    Raises:
        UserError: A worker was killed.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ |= dict.fromkeys(THREADS, "1")
    # Spawned, not forked: a fork of a process with threads may inherit a lock held forever.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker was killed, most often for lack of memory; run the same command again with "
            f"fewer processes: {option} {workers // 2}"
        ) from error
    except BaseException:
        # Running work may take a minute; unfinished results are never used, so it is terminated.
        for child in multiprocessing.active_children():
            child.terminate()
        # A worker that ends while it sends a result leaves the reader waiting for the rest, as long
        # as this process holds the other end of the pipe.
        results: Any = pool._result_queue
        results._writer.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
