"""Sources of clips, by name."""

from dataclasses import dataclass
from importlib import import_module
from typing import cast

from nano4m.data.sources.base import Source
from nano4m.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One source.

    Attributes:
        module: Path of the module with ``plan`` and ``load``; imported on request.
        description: One line for a person.
        licence: Of the media.
        is_distinct: Whether all clips are distinct by construction; then no duplicates are
            searched for.
    """

    module: str
    description: str
    licence: str
    is_distinct: bool = False


SOURCES: dict[str, SourceEntry] = {
    "farm": SourceEntry(
        module="nano4m.data.sources.farm",
        description="eleven toy animals, ray-traced and voiced on the fly; nothing to download",
        licence="none needed: made by this program",
        is_distinct=True,
    ),
    "digits": SourceEntry(
        module="nano4m.data.sources.digits",
        description="spoken digits (Free Spoken Digit Dataset) with handwritten ones",
        licence="sounds CC BY-SA 4.0, pictures CC BY 4.0",
    ),
    "folder": SourceEntry(
        module="nano4m.data.sources.folder",
        description="a folder of videos, of sounds and pictures by class, or with a pairs.csv",
        licence="of the files, which is yours to check",
    ),
}


def source(name: str) -> Source:
    """Import and return the source of this name.

    Raises:
        UserError: No source has this name.
    """
    if name not in SOURCES:
        raise UserError(f"unknown source {name!r}; {nearest(name, SOURCES)}")
    return cast(Source, import_module(SOURCES[name].module))
