"""Files of a folder with the same bytes under several names."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from nano4m.errors import BadMedia
from nano4m.media.gate import gated

END_BYTES = 4096
"""How much of both ends of a file is compared before the whole file is read."""


def find_copies(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the sets of files with equal contents, each in the order given.

    Links to one file are no copies of it: who links means one file, and fingerprints find that
    when clips are cut. Only files of equal sizes are opened, and only those whose ends are equal
    are read. A file that cannot be read has no copy.
    """
    by_size: dict[object, list[Path]] = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            with gated(path):
                about = path.stat()
        except BadMedia:
            continue
        number = (about.st_dev, about.st_ino)
        if about.st_size and number not in seen:
            by_size[about.st_size].append(path)
        seen.add(number)
    sets = _parted(by_size.values(), _ends)
    return _parted(sets, _whole)


def _parted(sets: Iterable[list[Path]], key: Callable[[Path], bytes]) -> list[list[Path]]:
    """Return the sets parted by a key of their files, without those of one file."""
    parted = []
    for paths in sets:
        if len(paths) < 2:
            continue
        by_key: dict[bytes, list[Path]] = defaultdict(list)
        for path in paths:
            try:
                with gated(path):
                    by_key[key(path)].append(path)
            except BadMedia:
                continue
        parted += [found for found in by_key.values() if len(found) > 1]
    return parted


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(END_BYTES)
        file.seek(max(len(first), path.stat().st_size - END_BYTES))
        return hashlib.sha256(first + file.read(END_BYTES)).digest()


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
