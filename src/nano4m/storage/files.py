"""Files and folders that are there whole or not at all, whatever stops the process or the machine.

New content is made aside, in the same folder, brought to the disk and renamed into place. What it
replaces is removed after that.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""Suffix of a file, and of a folder, that is being made."""

OLD = ".old"
"""Suffix of a folder that another one takes the place of."""


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; do nothing where that does not exist."""
    # Not every file system lets a folder be opened or synchronised.
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where to write the new content of ``path``, and put it into place at the end.

    If the block raises, the file of before stays and what was written is removed.

    Raises:
        OSError: The folder cannot be written.
    """
    part = path.with_name(f"{path.name}{PART}")
    try:
        yield part
        sync(part)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with whole_file(path) as part:
        part.write_bytes(content)


def drop(path: Path) -> None:
    """Remove a file or a folder; of a link, the link alone. Errors are ignored."""
    if path.is_symlink() or path.is_file():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the folder of before back if a replacement was stopped between its two renames."""
    old = _old(folder)
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)


def exchange(part: Path, folder: Path) -> None:
    """Put the finished folder ``part`` into the place of ``folder``, and drop that.

    Between two renames there is no folder of this name; ``recover`` mends a process that was
    stopped there.

    Raises:
        OSError: The parent folder cannot be written.
    """
    for path in [*part.rglob("*"), part]:
        sync(path)
    old = _old(folder)
    if folder.exists():
        drop(old)
        os.replace(folder, old)
    os.replace(part, folder)
    sync(folder.parent)
    drop(old)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``folder`` at the end.

    Args:
        folder: It may be missing, or hold what is replaced.

    Raises:
        OSError: The parent folder cannot be written.
    """
    part = folder.with_name(f".{folder.name}{PART}")
    recover(folder)
    drop(part)
    part.mkdir(parents=True)
    try:
        yield part
        exchange(part, folder)
    except BaseException:
        drop(part)
        raise


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{OLD}")
