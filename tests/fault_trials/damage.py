"""Damage to files of a run."""

import random
import shutil
from pathlib import Path

WAYS = ("emptied", "halved", "replaced", "removed")


def own_files(out: Path) -> list[Path]:
    """Return every file of a run that this program reads again, or writes for the user."""
    found = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink()]
    return [p for p in found if "tensorboard" not in p.parts]


def relatives(path: Path, out: Path) -> list[Path]:
    """Return other files of the same kind, of another stage or modality if there are any."""
    found = [p for p in own_files(out) if p.suffix == path.suffix and p != path]
    same = [p for p in found if p.name == path.name]
    content = path.read_bytes()
    return [p for p in same or found if p.read_bytes() != content]


def damage(path: Path, way: str, source: Path | None = None) -> None:
    """Damage a file, in place or by another one.

    Args:
        path: It exists.
        way: One of ``WAYS``.
        source: What takes its place if it is replaced.
    """
    content = path.read_bytes()
    if way == "emptied":
        path.write_bytes(b"")
    elif way == "halved":
        path.write_bytes(content[: len(content) // 2])
    elif way == "removed":
        path.unlink()
    else:
        assert source is not None
        shutil.copyfile(source, path)


def random_damage(
    rng: random.Random,
    files: list[Path],
    out: Path,
    way: str | None = None,
) -> str:
    """Damage one of ``files`` at random, or in a certain way; return what was done, in words."""
    path = rng.choice(files)
    way = way or rng.choice(WAYS)
    source = None
    if way == "replaced":
        found = relatives(path, out)
        if not found:
            way = "halved"
        else:
            source = rng.choice(found)
    damage(path, way, source)
    by = f" by {source.relative_to(out)}" if source else ""
    return f"{path.relative_to(out)} {way}{by}"
