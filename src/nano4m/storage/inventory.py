"""What files a finished folder has, so that one that is missing, cut off or foreign is noticed."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nano4m.storage.damage import DamagedFile

HASHED_BYTES = 256 * 1024
"""Files up to this size are compared by their content, larger ones by their size and by parts."""

PARTS = 16
PART_BYTES = 4096
"""Parts of a larger file that are compared, evenly over it, the first and the last bytes too."""


def take_inventory(folder: Path, is_listed: Callable[[Path], bool]) -> dict[str, list[Any]]:
    """Return size and SHA-256, of a large file that of parts, by each file's path in ``folder``.

    Args:
        folder: It is finished.
        is_listed: Whether the file of a path relative to ``folder`` belongs to the result.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and is_listed(relative):
            found[relative.as_posix()] = _about(path)
    return found


def check_inventory(folder: Path, inventory: Mapping[str, Any]) -> None:
    """Compare a folder with its inventory; files that this does not list are ignored.

    Raises:
        DamagedFile: A file is missing, or another one.
    """
    for name, (size, digest) in inventory.items():
        path = folder / name
        try:
            now = _about(path)
        except FileNotFoundError as error:
            raise DamagedFile(path, "it is missing") from error
        if now[0] != size:
            raise DamagedFile(path, f"it has {now[0]:,} bytes, and had {size:,} when it was made")
        if digest is not None and now[1] != digest:
            raise DamagedFile(path, "its content is not what was made")


def _about(path: Path) -> list[Any]:
    size = path.stat().st_size
    if size <= HASHED_BYTES:
        return [size, hashlib.sha256(path.read_bytes()).hexdigest()]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in range(PARTS):
            file.seek((size - PART_BYTES) * part // (PARTS - 1))
            digest.update(file.read(PART_BYTES))
    return [size, digest.hexdigest()]
