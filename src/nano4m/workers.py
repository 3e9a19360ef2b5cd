"""Processes that compute side by side, one thread each, and end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from nano4m.errors import UserError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
