"""Listing of a source's folder, to notice that files were added, changed or removed."""

import hashlib
from pathlib import Path
from typing import TypedDict

from nano4m.data.sources.video import VIDEOS
from nano4m.data.sources.walk import walk
from nano4m.media.image_file import SUFFIXES as PICTURES
from nano4m.media.sound import SUFFIXES as SOUNDS

TABLES = frozenset({".csv"})


class Listing(TypedDict):
    """Number of files that a source may read, and a digest of their names, sizes and times."""

    files: int
    digest: str


def list_files(data: Path, without: Path | None = None) -> Listing:
    """Return the listing of media and tables below a folder; nothing is opened.

    Args:
        data: The folder; a missing one has no files. Its location does not matter.
        without: A folder in it that is left out, such as that of a run.
    """
    read = PICTURES | SOUNDS | VIDEOS | TABLES
    found = sorted(
        f"{entry.name}\0{entry.size}\0{entry.mtime_ns}"
        for entry in walk(data, without).files
        if entry.suffix in read
    )
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
    return {"files": len(found), "digest": digest}
