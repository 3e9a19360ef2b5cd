"""Listing of a source's folder, to notice that files were added, changed or removed."""

import hashlib
import os
from pathlib import Path
from typing import TypedDict

from nano4m.data.sources.video import VIDEOS
from nano4m.media.picture import SUFFIXES as PICTURES
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
    found = []
    read = PICTURES | SOUNDS | VIDEOS | TABLES
    left_out = without.resolve() if without else None
    for folder, folders, names in os.walk(data, followlinks=True):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != left_out
        )
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in read:
                about = (here / name).stat()
                relative = (here / name).relative_to(data).as_posix()
                found.append(f"{relative}\0{about.st_size}\0{about.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:12]
    return {"files": len(found), "digest": digest}
