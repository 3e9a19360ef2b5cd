"""A small disk that a process mounts for itself alone: nobody else sees it, and it ends with it."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
REMOUNT, RECURSIVE, PRIVATE = 32, 16384, 1 << 18
LARGE = 1 << 30

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk, with ``bytes`` free."""

    folder: Path
    bytes: int

    def enlarge(self) -> None:
        """Give it as much space as anybody needs."""
        _mount(self.folder, LARGE, REMOUNT)


def _mount(folder: Path, size: int, flags: int = 0) -> None:
    options = f"size={size}".encode()
    if _libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))


def own_mounts() -> bool:
    """Let this process mount disks that it alone sees; return whether it may."""
    flags = NEW_MOUNTS if os.geteuid() == 0 else NEW_MOUNTS | NEW_USER
    if _libc.unshare(flags):
        return False
    return not _libc.mount(b"none", b"/", None, RECURSIVE | PRIVATE, None)


@contextmanager
def small_disk(folder: Path, share: float, need: int) -> Iterator[SmallDisk | None]:
    """Have a folder, with what is in it, on a disk with space for a part of what is needed.

    The process keeps the right to mount for itself afterwards, so call this in one of its own.

    Args:
        folder: What is in it stays there, and comes back at the end as it was before.
        share: Of the space that is needed, 0 to 1.
        need: Bytes.

    Yields:
        The disk; None where processes may not mount.
    """
    if not own_mounts():
        yield None
        return
    aside = folder.with_name(f"{folder.name}-aside")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folder, aside)
    _mount(folder, LARGE)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        used = os.statvfs(folder)
        page = used.f_frsize
        taken = (used.f_blocks - used.f_bfree) * page
        free = int(share * need) // page * page
        _mount(folder, max(taken + free, page), REMOUNT)
        yield SmallDisk(folder, free)
    finally:
        _libc.umount2(str(folder).encode(), 2)
        shutil.rmtree(aside, ignore_errors=True)
