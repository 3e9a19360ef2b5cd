"""What is found in a user's folder: recordings, pictures, and what is not read."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nano4m.data.sources.base import Split
from nano4m.data.sources.unread import Unread
from nano4m.data.sources.video import VIDEOS
from nano4m.errors import UserError
from nano4m.media.gate import printable
from nano4m.media.image_file import SUFFIXES as PICTURES
from nano4m.media.sound import SUFFIXES as SOUNDS
from nano4m.progress import log_info

NO_LICENCE = "not stated"

UNLABELLED = "unlabelled"
"""Class of a recording that has none."""

MEDIA_FOLDERS = frozenset({"audio", "images", "video"})
"""Folders that hold class folders of one kind of media."""

MOST_SHOWN = 12
"""Classes, reasons and the like that one line of the console lists."""

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
}
"""Name of a folder, or value of a column, in lower case -> the split that it means."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sound or video, which becomes one clip.

    Attributes:
        key: Unique name in the folder.
        name: Of its file, relative to the folder, see ``walk.plain_name``.
        stem: What of the name lies below the class, without the ending: sounds and pictures
            of equal stems belong together, and names of recordings are looked for in it.
        group: Recordings of one group are in one split; "": not stated.
        label: Class, one lower-case word.
        caption, more_captions: See ``ClipPlan``.
        pictures: Names of the files paired with this sound; () means any of its class.
        split: That the folder or the list says; None: it is dealt.
    """

    key: str
    name: str
    path: Path
    stem: str
    label: str
    caption: str
    more_captions: tuple[str, ...] = ()
    group: str = ""
    licence: str = NO_LICENCE
    is_video: bool = False
    pictures: tuple[str, ...] = ()
    split: Split | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One still picture of a class; fields as those of ``Recording``.

    Attributes:
        is_lowres: Whether it is used only if there are too few others.
        size: Width and height in pixels, of its header; None: it was not looked at.
    """

    name: str
    path: Path
    stem: str
    label: str
    caption: str = ""
    more_captions: tuple[str, ...] = ()
    group: str = ""
    is_lowres: bool = False
    size: tuple[int, int] | None = None
    split: Split | None = None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Recordings and pictures of a folder.

    Attributes:
        unread: Files that are not read, and rows of a list that name one: (class or "", reason)
            -> how many.
        form: One line that says how the folder was read.
    """

    recordings: list[Recording] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    unread: Unread = field(default_factory=Unread)
    form: str = ""

    def unread_by_reason(self) -> dict[str, dict[str, int]]:
        """Return reason -> class, or "" -> how many files, the most frequent reason first."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for (label, why), count in self.unread.items():
            found[why][label] += count
        ordered = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
        return {why: dict(by_class.most_common()) for why, by_class in ordered}


def item_of(
    name: str,
    path: Path,
    *,
    stem: str,
    label: str,
    caption: str,
    more_captions: tuple[str, ...] = (),
    group: str = "",
    split: Split | None = None,
) -> Recording | Picture:
    """Return a file as what its ending says; a recording has its name for a key."""
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return Picture(
            name=name,
            path=path,
            stem=stem,
            label=label,
            caption=caption,
            more_captions=more_captions,
            group=group,
            split=split,
        )
    return Recording(
        key=name,
        name=name,
        path=path,
        stem=stem,
        label=label,
        caption=caption,
        more_captions=more_captions,
        group=group,
        is_video=suffix in VIDEOS,
        split=split,
    )


def parted(items: Iterable[Recording | Picture]) -> tuple[list[Recording], list[Picture]]:
    """Return the recordings and the pictures."""
    items = list(items)
    recordings = [item for item in items if isinstance(item, Recording)]
    return recordings, [item for item in items if isinstance(item, Picture)]


def ending(path: Path) -> str:
    """Return the ending of a file's name, for people."""
    return printable(path.suffix.lower()) or "(none)"


def is_medium(suffix: str) -> bool:
    """Whether files of this ending (lower case, with its dot) are read."""
    return suffix in SOUNDS or suffix in PICTURES or suffix in VIDEOS


def label_of(name: str) -> str:
    """Return a class name as one lower-case word; signs other than spaces and dashes stay."""
    text = unicodedata.normalize("NFC", printable(name.strip()))
    return re.sub(r"[\s_-]+", "_", text.lower()).strip("_") or text


def caption_of(name: str) -> str:
    """Return the caption of a class folder: its name, underscores as spaces, in Unicode NFC."""
    return unicodedata.normalize("NFC", printable(name.strip())).replace("_", " ")


def check_spellings(names: Iterable[str]) -> None:
    """Refuse names of class folders that differ and would be one class.

    Raises:
        UserError: Such as of ``Dog`` and ``dog``.
    """
    spelled: dict[str, set[str]] = defaultdict(set)
    for name in names:
        spelled[label_of(name)].add(unicodedata.normalize("NFC", name))
    for label, found in sorted(spelled.items()):
        if len(found) > 1:
            listed = ", ".join(repr(printable(name)) for name in sorted(found))
            raise UserError(
                f"the folders {listed} would all be the class {label!r}; if they are one class, "
                "give them the same name, else names that differ in more than capitals, spaces, "
                "dashes and underscores"
            )


def log_contents(contents: Contents) -> None:
    """Log how a folder was read, its classes with their counts, and what is not read."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in contents.recordings:
        counts[recording.label]["films" if recording.is_video else "sounds"] += 1
    for picture in contents.pictures:
        counts[picture.label]["pictures"] += 1
    if contents.form:
        log_info(f"folder: {contents.form}")
    told = [
        f"{label} ({', '.join(f'{n} {kind}' for kind, n in sorted(own.items(), reverse=True))})"
        for label, own in sorted(counts.items())
    ]
    log_info(f"folder: {len(counts)} classes: {shortened(told)}")
    for why, by_class in contents.unread_by_reason().items():
        of = shortened([f"{n} of {label}" for label, n in by_class.items() if label])
        count = sum(by_class.values())
        log_info(f"folder: {count} files not read: {why}{f' ({of})' if of else ''}")


def shortened(parts: list[str]) -> str:
    """Return the first parts, separated by commas, and how many more there are."""
    more = len(parts) - MOST_SHOWN
    return ", ".join(parts[:MOST_SHOWN]) + (f", and {more} more" if more > 0 else "")
