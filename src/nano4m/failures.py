"""Failures of the machine that are no bug of ours, each in one sentence: disks, memory, limits."""

import errno
import os
import resource
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM}
FAILING = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENXIO}
MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ETXTBSY, errno.EBUSY}
NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "bad_alloc")
"""What errors of PyTorch say that are no MemoryError."""

_AGAIN = "then run the same command again; it goes on from here"


def in_words(error: BaseException, place: str = "") -> str | None:
    """Return what the machine refused, and what to do about it; None for any other error.

    Args:
        error: Any error, also of PyTorch and of safetensors.
        place: What was written or read, for errors that do not say it.
    """
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, BrokenProcessPool):
        return "a worker process was killed, most often for lack of memory; use fewer: --help"
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in NO_MEMORY):
        return (
            f"no memory is left{f' ({first})' if first else ''}; end other programs, or ask for "
            "less: fewer processes (--clips.workers 0, --evaluate.workers 0), a smaller "
            "--train.batch-size or --size; of generate: a smaller --batch-size or --n"
        )
    if isinstance(error, RuntimeError) and "start new thread" in first:
        return f"the system starts no more threads; raise the limit (ulimit -u), {_AGAIN}"
    if isinstance(error, OSError):
        return _of_system(error, place)
    # safetensors has an error of its own, with the number in its text only.
    if "(os error " in str(error):
        number = str(error).rpartition("(os error ")[2].partition(")")[0]
        return _of_system(OSError(int(number), os.strerror(int(number))), place)
    return None


def _of_system(error: OSError, place: str) -> str | None:
    said, number = error.strerror or str(error), error.errno
    named = _short(error.filename) if error.filename is not None else place
    what = f"{named}: {said}" if named else said
    if number in FULL:
        return f"{what}; free some space, {_AGAIN}"
    if number in FORBIDDEN:
        return (
            f"{what}; another user may own it: change its owner or its permissions, or name a "
            "folder that you may write to"
        )
    if number == errno.EROFS:
        return f"{what}; name a folder on another disk"
    if number in (errno.EMFILE, errno.ENFILE):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{what} (a process may have {most}); raise the limit, such as ulimit -n 4096"
    if number == errno.ENAMETOOLONG:
        return f"{what}; most disks take names of up to 255 bytes: give a shorter one"
    if number == errno.ENOMEM:
        return f"{what}; no memory is left: end other programs, {_AGAIN}"
    if number in FAILING:
        return f"{what}; the disk or its connection fails: check it, {_AGAIN}"
    if number in MISPLACED:
        return f"{what}; name another place"
    return None


def _short(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-20:]}"


def where_now(handle: int) -> Path | None:
    """Return where an open folder is, whatever it was called; None if it was deleted or unknown."""
    try:
        found = os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return None
    return None if found.endswith(" (deleted)") else Path(found)
