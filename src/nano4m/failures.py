"""Failures of the machine that are no bug of ours, each in one sentence: disks, memory, limits."""

import errno
import os
import resource
import shlex
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from nano4m.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM}
FAILING = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENXIO}
MISPLACED = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.EBUSY}
OF_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE, errno.ENOTCONN}
"""Numbers of errors that say nothing about the file that was opened."""
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
    if _is_no_memory(error):
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


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says nothing about the file that was read when it came."""
    return _is_no_memory(error) or (isinstance(error, OSError) and error.errno in OF_MACHINE)


def _is_no_memory(error: BaseException) -> bool:
    # An error of PyTorch for a device or for the CPU is a RuntimeError.
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or any(sign in said for sign in NO_MEMORY)


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
    if number == errno.ENOENT and "temporary directory" in said:
        return "there is no folder for temporary files; set TMPDIR to one that you may write to"
    if number == errno.ENOENT and not _has_current_folder():
        return "the current folder was deleted; go to another one (cd), then run the command again"
    return None


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _short(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-20:]}"


@contextmanager
def staying(folder: Path) -> Iterator[None]:
    """Explain errors by the folder if that was moved, deleted or replaced while the block ran.

    Raises:
        UserError: Where it is now, and where its newest training state.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        yield
    except Exception as error:
        if _is_there(folder, handle):
            raise
        raise UserError(_gone(folder, _where_now(handle))) from error
    finally:
        os.close(handle)


def _is_there(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except OSError:
        return False


def _where_now(handle: int) -> Path | None:
    """Return where an open folder is, whatever it was called; None if it was deleted or unknown."""
    try:
        found = os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return None
    return None if found.endswith(" (deleted)") else Path(found)


def _gone(folder: Path, now: Path | None) -> str:
    if now is None:
        return (
            f"{folder} was deleted while this command worked in it, with the training states that "
            "it held; run the same command again to make it anew"
        )
    states = sorted(now.glob("train/step-[0-9]*"), key=lambda path: (len(path.name), path.name))
    newest = f", its newest training state is {states[-1]}" if states else ""
    return (
        f"{folder} was moved while this command worked in it: it is {now} now{newest}; run the "
        f"same command with --out {shlex.quote(str(now))} to go on from there"
    )
