"""How many work side by side: processes of one thread each, which end with the one that started
them, and threads that read ahead."""

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

from nano4m.errors import UserError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

MOST_WORKERS = 16
"""Of a machine that is asked for ``auto``: more wait for each other's disk and start for long."""

MOST_READERS = 8
"""Threads that decode media: each holds some hundred clips, and more wait for the interpreter."""

MEMORY_A_WORKER = 1 << 30
"""Bytes: what PyTorch and the media in work take in one process, at the sizes of the presets."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def count_workers(requested: int | str) -> int:
    """Return the number of processes: ``auto`` is one a core that this process may use, at most
    MOST_WORKERS and no more than there is memory for.
    """
    if isinstance(requested, int):
        return requested
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, MOST_WORKERS, _memory() // MEMORY_A_WORKER))


def count_readers() -> int:
    """Return the number of threads that decode media while a GPU computes."""
    return min(MOST_READERS, count_workers("auto"))


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container that it is seen through."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(found, int(text)) if text.isdigit() else found


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int
) -> Iterator[_Result]:
    """Yield ``work(item)`` of all items in order, at most ``threads`` of them worked on in advance.

    For what leaves the interpreter alone, such as decoding media. With 0 threads nothing is done
    before it is asked for.
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
    """Leave Ctrl-C to the parent, and end with it even where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def worker_pool(workers: int, option: str = "--clips.workers") -> Iterator[ProcessPoolExecutor]:
    """Start a pool of processes; all of them have ended when the context has.

    Args:
        workers: Processes.
        option: Of the command line that sets their number.

    Raises:
        UserError: A worker was killed.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ |= dict.fromkeys(THREADS, "1")
    # Spawned, not forked: a fork of a process with threads may inherit a lock that nobody frees.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker was killed, most often for want of memory; run the same command again with "
            f"fewer processes: {option} {workers // 2}"
        ) from error
    except BaseException:
        # What is in work may take a minute; nothing half made is ever used, so it may end here.
        for child in multiprocessing.active_children():
            child.terminate()
        # One that ends while it hands a result over leaves the reader waiting for the rest, for as
        # long as this process itself holds the other end of the pipe.
        results: Any = pool._result_queue
        results._writer.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
