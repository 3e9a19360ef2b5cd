"""Forms of a folder of media: class folders, perhaps packed by kind or split, or a list."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.base import Split
from nano4m.data.sources.folder_contents import (
    MEDIA_FOLDERS,
    SPLIT_NAMES,
    UNLABELLED,
    Contents,
    caption_of,
    check_spellings,
    ending,
    is_medium,
    item_of,
    label_of,
    parted,
    shortened,
)
from nano4m.data.sources.folder_lists import from_labels, from_pairs
from nano4m.data.sources.folder_pictures import look_at
from nano4m.data.sources.unread import Unread
from nano4m.data.sources.video import VIDEOS
from nano4m.data.sources.walk import Entry, Walk, walk
from nano4m.errors import UserError
from nano4m.media.gate import printable
from nano4m.media.sound import SUFFIXES as SOUNDS
from nano4m.progress import log_info

LISTS = {"pairs.csv": from_pairs, "labels.csv": from_labels}

FORMS = """a folder of one of these forms:
  pairs.csv with columns audio_id,class,audio,images,caption (images separated by ';'), perhaps
    video/<class>/* and a metadata.csv with id,class,kind,file,recording_group,license_note,quality
  audio/<class>/* with images/<class>/*, or <class>/* with sounds and pictures, or with videos; each
    of them also below train, val (valid, dev) and test
  labels.csv with columns file,label,caption beside videos, sounds or pictures
  in both lists caption1,caption2,... or rows of the same clip are several captions of it"""


@dataclass(frozen=True)
class Place:
    """Where a file stands: its split, its class folder ("": none) and the path below that."""

    split: Split | None
    folder: str
    below: tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """What the first folders of a path are: media folders (audio, images, video), splits, both."""

    has_media_folders: bool
    splits: frozenset[str]

    def place(self, name: str) -> Place | str:
        """Return where a file stands, or why it is not read."""
        parts = name.split("/")
        split: Split | None = None
        is_sorted = not self.has_media_folders
        while len(parts) > 1:
            if not is_sorted and parts[0] in MEDIA_FOLDERS:
                is_sorted = True
            elif self.splits and split is None and parts[0] in self.splits:
                split = SPLIT_NAMES[parts[0].lower()]
            else:
                break
            parts = parts[1:]
        if not is_sorted:
            return "not in audio, images or video"
        if self.splits and split is None:
            return f"not in {', '.join(sorted(self.splits))}"
        folder, below = (parts[0], parts[1:]) if len(parts) > 1 else ("", parts)
        return Place(split, folder, tuple(below))

    def in_words(self) -> str:
        """Return the form as a line for a person."""
        above = f"{','.join(sorted(self.splits))}/" if self.splits else ""
        kinds = "audio,images,video/" if self.has_media_folders else ""
        said = "; its splits are those of the folder" if self.splits else ""
        return f"read as {above}{kinds}CLASS/*{said}"


def form_of(names: list[str], data: Path) -> Form:
    """Return the form of class folders from the names of all media.

    Folders named train, val, valid, dev and test are splits if class folders, and no files, lie in
    them, and there are two of them at least, train among them.

    Raises:
        UserError: Splits without one to train on.
    """
    tops = {"audio"} & {name.split("/", 1)[0] for name in names if "/" in name}
    paths = [name.split("/") for name in names]
    if tops:
        paths = [path[1:] for path in paths if path[0] in MEDIA_FOLDERS]
    direct = {path[0] for path in paths if len(path) == 2}
    deeper = {path[0] for path in paths if len(path) > 2}
    splits = {name for name in deeper - direct if name.lower() in SPLIT_NAMES}
    found = {SPLIT_NAMES[name.lower()] for name in splits}
    if splits and found != {"train"} and "train" not in found and not deeper - splits:
        raise UserError(
            f"{printable(data)} has the folders {', '.join(sorted(splits))} and no folder train; "
            "give one to train on, or --data one of them to read that as a whole"
        )
    if len(found) < 2 or "train" not in found:
        splits = set()
    inner = [path[1:] for path in paths if splits and path[0] in splits]
    has_inner = any(path[0] == "audio" and len(path) > 2 for path in inner)
    return Form(bool(tops) or has_inner, frozenset(splits))


def _class_folders(data: Path, found: Walk) -> Contents:
    """Return the contents of a folder without a list.

    Raises:
        UserError: Class folders whose names would be one class.
    """
    media = [entry for entry in found.files if is_medium(entry.suffix)]
    form = form_of([entry.name for entry in media], data)
    unread = Unread()
    placed: list[tuple[Entry, Place]] = []
    for entry in found.files:
        place = form.place(entry.name)
        if entry.suffix == ".csv" and isinstance(place, Place) and not place.folder:
            continue
        if isinstance(place, str):
            if is_medium(entry.suffix):
                unread.add("", place, entry.name)
        elif not is_medium(entry.suffix):
            if place.folder:
                why = f"no medium: {ending(entry.path)}"
                unread.add(label_of(place.folder), why, entry.name)
        else:
            placed.append((entry, place))
    if any(place.folder for _, place in placed):
        for entry, place in placed:
            if not place.folder:
                unread.add("", "not in a class folder", entry.name)
        placed = [(entry, place) for entry, place in placed if place.folder]
    check_spellings({place.folder for _, place in placed if place.folder})
    items = []
    for entry, place in sorted(placed, key=lambda pair: pair[0].name):
        label = label_of(place.folder) if place.folder else UNLABELLED
        stem = "/".join(PurePosixPath(*place.below).with_suffix("").parts)
        caption = caption_of(place.folder)
        items.append(
            item_of(
                entry.name,
                entry.path,
                stem=stem,
                label=label,
                caption=caption,
                split=place.split,
            )
        )
    recordings, pictures = parted(items)
    pictures = look_at(pictures, unread)
    return Contents(recordings=recordings, pictures=pictures, unread=unread, form=form.in_words())


def _lone_folder(found: Walk) -> str:
    """Return the one folder that holds all media and lists, or ""; a class folder is none."""
    names = [e.name for e in found.files if is_medium(e.suffix) or e.suffix == ".csv"]
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) != 1 or (top := next(iter(tops))) in MEDIA_FOLDERS:
        return ""
    below = [name.split("/")[1:] for name in names]
    is_list = any(path and path[-1] in LISTS and len(path) == 1 for path in below)
    is_class = any(len(path) < 2 for path in below)
    return top if is_list or not is_class else ""


def find_contents(data: Path | None, settings: FolderDataset | None = None) -> Contents:
    """Return the contents of a folder of any form, in an order that depends on names alone.

    A lone folder is stepped into. What is not read is counted in ``Contents.unread``.

    Raises:
        UserError: It is no folder, has none of the forms, or holds an invalid list.
    """
    if data is None:
        raise UserError(f"the folder source needs --data: {FORMS}")
    if not data.is_dir():
        raise UserError(f"--data {printable(data)} is not a folder; give {FORMS}")
    settings = settings or FolderDataset()
    found = walk(data)
    while lone := _lone_folder(found):
        inside = next(e.path for e in found.files if e.name.startswith(f"{lone}/"))
        data = data / inside.relative_to(data).parts[0]
        log_info(f"folder: all media lie in {printable(lone)}, so that folder is read")
        found = walk(data)
    there = {entry.name for entry in found.files}
    name = next((name for name in LISTS if name in there), "")
    contents = LISTS[name](data, found, settings) if name else _class_folders(data, found)
    for folder, why in sorted(found.skipped.items()):
        log_info(f"folder: {folder} is not entered: {why}")
    if not contents.recordings and not contents.pictures:
        kinds = Counter(ending(entry.path) for entry in found.files)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6)) or "no file"
        reasons = [f"{sum(n.values())} {why}" for why, n in contents.unread_by_reason().items()]
        listed += f"; not read: {shortened(reasons)}" if reasons else ""
        raise UserError(
            f"no sound, no video and no picture in {printable(data)} (there: {listed}); give "
            f"{FORMS}\n  sounds: {' '.join(sorted(SOUNDS))}; videos: {' '.join(sorted(VIDEOS))}"
        )
    return contents
