"""Listing of a source's folder, to notice that files were added, changed or removed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from nano4m.data.sources.video import VIDEOS
from nano4m.data.sources.walk import Entry, walk
from nano4m.media.image_file import SUFFIXES as PICTURES
from nano4m.media.sound import SUFFIXES as SOUNDS

TABLES = frozenset({".csv"})


class Listing(TypedDict):
    """Number of files that a source may read, and a digest of their names, sizes and times.

    It identifies the data of a run from the first cut on: while names and contents are those of
    ``file_record``, a run keeps the listing that it has, whatever the times of the files are.
    """

    files: int
    digest: str


def find_files(data: Path, without: Path | None = None) -> list[Entry]:
    """Return the media and tables below a folder; nothing is opened.

    Args:
        data: The folder; a missing one has no files. Its location does not matter.
        without: A folder in it that is left out, such as that of a run.
    """
    read = PICTURES | SOUNDS | VIDEOS | TABLES
    return [entry for entry in walk(data, without).files if entry.suffix in read]


def listing_of(entries: Iterable[Entry]) -> Listing:
    """Return the listing of files, see ``find_files``."""
    found = sorted(f"{entry.name}\0{entry.size}\0{entry.mtime_ns}" for entry in entries)
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
    return {"files": len(found), "digest": digest}


def list_files(data: Path, without: Path | None = None) -> Listing:
    """Return the listing of media and tables below a folder, see ``find_files``."""
    return listing_of(find_files(data, without))
