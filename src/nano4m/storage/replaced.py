"""Results that a command replaces: set aside until the new ones are done, then removed.

They lie in ``.replaced/1`` of the run, ``.replaced/2``, ...: a number for each command, with how
long that is kept in ``replaced.json``. A result that is asked for again while it lies there is
taken back.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano4m.storage.damage import DamagedFile
from nano4m.storage.files import drop
from nano4m.storage.json_files import read_object, write_json

ASIDE = ".replaced"
"""Folder in a run."""

NOTHING_BEGUN = {"settings.json", "inputs.json", "files.jsonl"}
"""What an attempt leaves that failed before it made anything."""

_RECORD = "replaced.json"


TRAINING = "train"
LOSES_TRAINING = ("clips", "tokenizers", "table", TRAINING)
"""Results whose replacement replaces the training too."""


def ways_on(out: Path, name: str) -> str:
    """Return how to go on beside a result that stays: another folder, or replacing it.

    Where that would cost a training, it is said and not advised.
    """
    if name in LOSES_TRAINING and is_begun(out / TRAINING):
        return "choose another --out (--overwrite would replace the training in it too)"
    return "choose another --out, or add --overwrite to replace it and the stages after it"


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def is_begun(folder: Path) -> bool:
    """Whether a folder holds more than the settings of an attempt that failed early."""
    return folder.is_dir() and bool({p.name for p in folder.iterdir()} - NOTHING_BEGUN)


@dataclass(frozen=True)
class Replaced:
    """Results that one command has set aside.

    Attributes:
        folder: Where they lie.
        until: The result that must be done before these are removed.
        fresh: Names that were to be made anew even with equal settings; never taken back.
    """

    folder: Path
    until: str
    fresh: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the results, sorted."""
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir())

    def put_back(self) -> "Replaced | None":
        """Exchange everything with what was begun instead, and return where that lies now."""
        out = self.folder.parent.parent
        names = self.names
        begun = set_aside(out, names, until="")
        for name in names:
            os.replace(self.folder / name, out / name)
        self.drop()
        return begun

    def drop(self) -> None:
        """Remove the results, and what holds them once it is empty."""
        # Renamed first: what a stopped removal has left is never taken back.
        gone = self.folder.with_name(f".{self.folder.name}")
        drop(gone)
        with suppress(FileNotFoundError):
            os.replace(self.folder, gone)
        drop(gone)
        with suppress(OSError):
            self.folder.parent.rmdir()


def set_aside(
    out: Path, names: Sequence[str], until: str, fresh: Sequence[str] = ()
) -> Replaced | None:
    """Move results of a run aside; return where they are, or None if there were none.

    Args:
        out: Folder of the run.
        names: Of its folders that are replaced; those in which nothing was begun are removed.
        until, fresh: See ``Replaced``.

    Raises:
        OSError: The folder cannot be written.
    """
    there = [name for name in names if is_begun(out / name)]
    for name in names:
        if name not in there:
            drop(out / name)
    if not there:
        return None
    aside = out / ASIDE
    taken = [int(p.name) for p in aside.glob("*") if p.name.isdigit()] if aside.is_dir() else []
    found = Replaced(aside / str(max(taken, default=0) + 1), until, tuple(fresh))
    found.folder.mkdir(parents=True)
    record = {"until": until, "fresh": list(fresh), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_json(found.folder / _RECORD, record)
    for name in there:
        os.replace(out / name, found.folder / name)
    return found


def replaced(out: Path) -> Iterator[Replaced]:
    """Yield what lies aside in a run, the newest first."""
    aside = out / ASIDE
    folders = [p for p in aside.glob("*") if p.name.isdigit()] if aside.is_dir() else []
    if not folders and aside.is_dir():
        # Removed, but for the end of it.
        drop(aside)
    for folder in sorted(folders, key=lambda p: -int(p.name)):
        record: dict[str, Any] = {}
        # Without a readable record the results are kept, and can be taken back.
        with suppress(OSError, DamagedFile):
            record = read_object(folder / _RECORD)
        yield Replaced(folder, str(record.get("until", "")), tuple(record.get("fresh", ())))


def folders_of(out: Path, name: str) -> Iterator[Path]:
    """Yield the folders of a result that lie aside, the newest first, parts of which may be used.

    Not those that were to be made anew with equal settings.
    """
    for found in replaced(out):
        if name not in found.fresh and is_begun(found.folder / name):
            yield found.folder / name


def take_back(out: Path, name: str, is_wanted: Callable[[Path], bool]) -> bool:
    """Move a result back into the run if one of those aside is what is wanted.

    Args:
        out: Folder of the run, in which nothing of this name was begun.
        name: Of the result.
        is_wanted: Whether the folder has the settings and inputs of now.
    """
    for found in replaced(out):
        folder = found.folder / name
        if name in found.fresh or not is_begun(folder) or not is_wanted(folder):
            continue
        drop(out / name)
        os.replace(folder, out / name)
        if not found.names:
            found.drop()
        return True
    return False
