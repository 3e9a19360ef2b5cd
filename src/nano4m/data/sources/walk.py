"""One walk of a user's folder: every file by a name that is the same wherever the folder lies.

Nothing is opened. Hidden files and folders, ``__MACOSX`` and folders of runs are passed over.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nano4m.media.gate import printable, reason
from nano4m.storage.lock import LOCK

PACKERS = frozenset({"__MACOSX"})
"""Folders that a packer adds."""


def plain_name(name: str) -> str:
    """Return the relative path of a file as it stands in keys, groups and tables.

    Unicode NFC, as a Mac may have decomposed it; bytes that are not UTF-8 as escapes.
    """
    if name.isascii() and name.isprintable():
        return name
    return unicodedata.normalize("NFC", printable(name))


@dataclass(frozen=True, slots=True)
class Entry:
    """One file.

    Attributes:
        name: Relative to the folder, see ``plain_name``.
        path: Where it is.
        size: In bytes; 0 for one that is not there.
        mtime_ns: Time of its last change, in nanoseconds.
        fault: Why it cannot be a medium ("a link to nowhere", "a pipe or a device"); "": it can.
    """

    name: str
    path: Path
    size: int
    mtime_ns: int
    fault: str = ""

    @property
    def suffix(self) -> str:
        """Ending of the name in lower case, with its dot."""
        return self.path.suffix.lower()


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Files below a folder, sorted by name, and the folders that were not entered.

    Attributes:
        skipped: Name of a folder -> why ("the same folder as audio", "no permission to read it").
    """

    files: list[Entry] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def walk(data: Path, without: Path | None = None) -> Walk:
    """Return all files below ``data``, the same wherever it lies.

    Linked folders are entered. A folder that is reached twice (device and inode are remembered) is
    read where it comes first, real folders before links and then by name.

    Args:
        data: The folder; a missing one has no files.
        without: A folder in it that is left out, such as that of a run.
    """
    found = Walk()
    seen = {number for number in (_identity(data), _identity(without)) if number}
    where: dict[tuple[int, int], str] = {}
    waiting = [(data, "")]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: plain_name(entry.name))
        except OSError as error:
            if above:
                found.skipped[plain_name(above)] = reason(error, folder)
            continue
        if above and any(entry.name == LOCK for entry in entries):
            found.skipped[plain_name(above)] = "the folder of a run"
            continue
        below = [
            (entry, f"{above}/{entry.name}" if above else entry.name)
            for entry in entries
            if not entry.name.startswith(".") and entry.name not in PACKERS
        ]
        deeper = []
        for entry, name, number in _folders(below, found):
            if number in seen:
                if number in where:
                    found.skipped[plain_name(name)] = f"the same folder as {where[number]}"
                continue
            seen.add(number)
            where[number] = plain_name(name)
            deeper.append((Path(entry.path), name))
        # The last one is entered next; all of a level are remembered before any is entered.
        waiting += reversed(deeper)
    found.files.sort(key=lambda entry: entry.name)
    return found


def _identity(folder: Path | None) -> tuple[int, int] | None:
    """Return device and inode of a folder, or None where there is none."""
    try:
        about = folder.stat() if folder else None
    except OSError:
        return None
    return (about.st_dev, about.st_ino) if about else None


def _folders(
    below: list[tuple["os.DirEntry[str]", str]], found: Walk
) -> Iterator[tuple["os.DirEntry[str]", str, tuple[int, int]]]:
    """Add the files of a level to ``found``; yield its folders, the real ones before the links."""
    linked = []
    for entry, name in below:
        try:
            about = entry.stat()
        except OSError as error:
            is_gone = entry.is_symlink() and isinstance(error, FileNotFoundError)
            fault = "a link to nowhere" if is_gone else reason(error, entry.path)
            found.files.append(Entry(plain_name(name), Path(entry.path), 0, 0, fault))
            continue
        number = (about.st_dev, about.st_ino)
        if stat.S_ISDIR(about.st_mode):
            if entry.is_symlink():
                linked.append((entry, name, number))
            else:
                yield entry, name, number
            continue
        fault = "" if stat.S_ISREG(about.st_mode) else "a pipe, a socket or a device"
        found.files.append(
            Entry(plain_name(name), Path(entry.path), about.st_size, about.st_mtime_ns, fault)
        )
    yield from linked
