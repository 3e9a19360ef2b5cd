"""One owner of a folder: a command that writes holds its lock, and a dead process holds none.

The lock is an advisory one of the kernel (``flock``) on ``.nano4m.lock``, which names its owner.
Linux passes it on to the other machines of an NFS disk. Where a disk keeps such locks to one
machine, the file alone shows an owner elsewhere: it is touched every few seconds while that lives,
so a file of another machine that stays untouched for a while has no owner.
"""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nano4m.errors import UserError

LOCK = ".nano4m.lock"
"""Name of the file in a folder that is being written."""

BEAT_SECONDS = 5.0
"""Time between two touches of the lock by its owner."""

WATCH_SECONDS = 15.0
"""How long the lock of another machine must stay untouched until its owner counts as dead."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}

_held: dict[Path, int] = {}
"""Folders that this process holds, and how often."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it is missing.

    A process can hold a folder several times. Processes that it starts need no lock of their own.
    A folder that may not be written to is not locked: whoever writes there fails by itself. A
    lock is gone when its process ends, however it ends.

    Args:
        folder: To be written by this process alone.

    Raises:
        UserError: Another process has it; the message names that.
        OSError: The folder cannot be created.
    """
    folder = folder.resolve()
    if folder in _held:
        _held[folder] += 1
        try:
            yield
        finally:
            _held[folder] -= 1
        return
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _acquire(path, folder)
    if handle is None:
        yield
        return
    _held[folder] = 1
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(handle, stop), daemon=True)
    try:
        _sign(handle)
        beats.start()
        yield
    finally:
        stop.set()
        del _held[folder]
        _release(path, handle)
        if created:
            with suppress(OSError):  # not if anything was written
                folder.rmdir()


def owner_of(folder: Path) -> str | None:
    """Return who holds the lock of a folder, in words, or None."""
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in NO_LOCKS else _in_words(_read(handle))
    finally:
        os.close(handle)
    return None


def _acquire(path: Path, folder: Path) -> int | None:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in NOT_WRITABLE:
                return None
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                owner = _read(handle)
                os.close(handle)
                raise UserError(_in_use(folder, owner)) from error
            # Without locks of the disk, what the file says decides.
            if _is_this_machine(owner := _read(handle)) and _is_alive(owner):
                os.close(handle)
                raise UserError(_in_use(folder, owner)) from error
        # The owner of before may have removed the file between the two calls.
        try:
            is_same = os.path.samestat(os.fstat(handle), os.stat(path))
        except FileNotFoundError:
            is_same = False
        if not is_same:
            os.close(handle)
            continue
        owner = _read(handle)
        if owner and not _is_this_machine(owner) and _beats(handle):
            os.close(handle)
            raise UserError(_in_use(folder, owner))
        return handle


def _release(path: Path, handle: int) -> None:
    # Removed while it is held: whoever opened it before sees that it is another file.
    with suppress(OSError):
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            path.unlink()
    with suppress(OSError):
        os.close(handle)


def _sign(handle: int) -> None:
    owner = {
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _machine(),
        "command": shlex.join(["nano4m", *sys.argv[1:]]),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    # On a full disk the lock holds all the same, it only says nothing.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)


def _beat(handle: int, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        try:
            os.utime(handle)
        except OSError:
            return


def _beats(handle: int) -> bool:
    """Whether the owner on another machine touches the file."""
    first, end = os.fstat(handle).st_mtime_ns, time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH_SECONDS / 5))
        if os.fstat(handle).st_mtime_ns != first:
            return True
    return False


def _read(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _machine() -> str:
    return socket.gethostname()


def _is_this_machine(owner: dict[str, Any]) -> bool:
    return owner.get("machine") == _machine()


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process runs; a later one of the same number started at another time."""
    process = owner.get("process")
    found = _started(process) if isinstance(process, int) else None
    return found is not None and found == owner.get("started")


def _started(process: int) -> str | None:
    """Return when a process started, in ticks since the machine did, or None if there is none."""
    try:
        # The name, in parentheses, may hold anything.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _in_words(owner: dict[str, Any]) -> str:
    if "process" not in owner:
        return "another process"
    command = textwrap.shorten(str(owner.get("command")), 100, placeholder=" ...")
    where, since = owner.get("machine"), owner.get("since")
    return f"process {owner['process']} on {where} since {since} ({command})"


def _in_use(folder: Path, owner: dict[str, Any]) -> str:
    end = ""
    if not _is_this_machine(owner) and owner:
        end = f"; if that process is dead and the disk does not know, delete {folder / LOCK}"
    elif "process" in owner:
        end = f", or stop it: kill {owner['process']}"
    who = _in_words(owner)
    return f"{folder} is being written by {who}; wait for it, choose another folder{end}"
