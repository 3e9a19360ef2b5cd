"""Layouts of a folder of media, and the recordings and pictures in it.

Nothing is decoded here but the size of a picture.
"""

import csv
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nano4m.data.sources.video import VIDEOS
from nano4m.errors import UserError
from nano4m.media.picture import SUFFIXES as PICTURES
from nano4m.media.picture import picture_size
from nano4m.media.sound import SUFFIXES as SOUNDS
from nano4m.progress import log_info

LOWRES = 48
"""Pictures with a side shorter than this are used only if there are too few others."""

NO_LICENCE = "not stated"

FORMS = """a folder of one of these forms:
  pairs.csv with columns audio_id,class,audio,images,caption (images separated by ';'), perhaps
    video/<class>/* and a metadata.csv with id,class,kind,file,recording_group,license_note,quality
  audio/<class>/* with images/<class>/*, or <class>/* with sounds and pictures, or with videos
  labels.csv with columns file,label,caption beside videos or sounds"""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One sound or video, which becomes one clip.

    Attributes:
        key: Unique name in the folder.
        group: Recordings of one group are in one split.
        label: Class, one lower-case word.
        pictures: Names of the files paired with this sound; () means any of its class.
    """

    key: str
    path: Path
    group: str
    label: str
    caption: str
    licence: str = NO_LICENCE
    is_video: bool = False
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One still picture of a class; ``name`` is relative to the data, as keys and groups are."""

    name: str
    path: Path
    group: str
    label: str
    is_lowres: bool


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Recordings and pictures of a folder."""

    recordings: list[Recording] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def label_of(name: str) -> str:
    """Return a class name as one lower-case word."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, without hidden ones, in the same order everywhere.

    Linked folders are entered, as in ``listing``; one that contains itself is entered once.
    """
    found: list[Path] = []
    entered = {folder.resolve()}
    for here, folders, names in os.walk(folder, followlinks=True):
        below = {name: (Path(here) / name).resolve() for name in sorted(folders)}
        folders[:] = [n for n, real in below.items() if n[0] != "." and real not in entered]
        entered |= {below[name] for name in folders}
        found += [Path(here) / name for name in names if name[0] != "."]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.as_posix())


def _name(path: Path, data: Path) -> str:
    """Return the name of a file in keys and groups: relative to the data, wherever those lie."""
    return Path(os.path.relpath(path, data)).as_posix()


def _read_csv(path: Path, required: set[str]) -> list[dict[str, str]]:
    """Return the rows of a table whose columns include ``required``.

    Raises:
        UserError: It is not text, or a column is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} is not a UTF-8 table of comma-separated values: {error}"
        ) from error
    if not required <= columns:
        raise UserError(
            f"{path} has the columns {sorted(columns)}; missing {sorted(required - columns)}"
        )
    if not rows:
        raise UserError(f"{path} has no row below its header; give one row a recording")
    return rows


def _picture(
    name: str, data: Path, label: str, group: str = "", quality: str = ""
) -> Picture | None:
    """Return the entry of a picture, or None, with a message, if it cannot be opened."""
    path, name = data / name, _name(data / name, data)
    if quality:
        is_lowres = quality == "lowres"
    else:
        size = picture_size(path)
        if size is None:
            log_info(f"picture left out, it cannot be opened: {path}")
            return None
        is_lowres = min(size) < LOWRES
    return Picture(name=name, path=path, group=group or name, label=label, is_lowres=is_lowres)


def _from_pairs(data: Path) -> Contents:
    rows = _read_csv(data / "pairs.csv", {"audio_id", "class", "audio", "images", "caption"})
    known: dict[str, dict[str, str]] = {}
    if (data / "metadata.csv").is_file():
        known = {row["file"]: row for row in _read_csv(data / "metadata.csv", {"file"})}
    recordings: list[Recording] = []
    labels: dict[str, str] = {}
    for row in rows:
        label, about = label_of(row["class"]), known.get(row["audio"], {})
        images = [name.strip() for name in row["images"].split(";") if name.strip()]
        labels |= dict.fromkeys(images, label)
        recordings.append(
            Recording(
                key=row["audio_id"],
                path=data / row["audio"],
                group=about.get("recording_group") or _name(data / row["audio"], data),
                label=label,
                caption=row["caption"] or row["class"],
                licence=about.get("license_note") or NO_LICENCE,
                pictures=tuple(_name(data / image, data) for image in images),
            )
        )
    for name, about in known.items():
        if about.get("kind") == "image" and about.get("class"):
            labels.setdefault(name, label_of(about["class"]))
    pictures = []
    for name, label in labels.items():
        about = known.get(name, {})
        group, quality = about.get("recording_group", ""), about.get("quality", "")
        found = _picture(name, data, label, group, quality)
        pictures += [found] if found else []
    captions = {recording.label: recording.caption for recording in recordings}
    for path in _files(data / "video"):
        if path.suffix.lower() in VIDEOS and path.parent != data / "video":
            name = path.relative_to(data).as_posix()
            about, label = known.get(name, {}), label_of(path.relative_to(data).parts[1])
            recordings.append(
                Recording(
                    key=about.get("id") or name,
                    path=path,
                    group=about.get("recording_group") or name,
                    label=label,
                    caption=captions.get(label) or about.get("caption") or label,
                    licence=about.get("license_note") or NO_LICENCE,
                    is_video=True,
                )
            )
    return Contents(recordings=recordings, pictures=pictures)


def _from_files(data: Path, entries: list[tuple[Path, str, str]]) -> Contents:
    """Return the contents of (file, label, caption), sorted by kind."""
    contents = Contents()
    for path, label, caption in entries:
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            found = _picture(_name(path, data), data, label)
            contents.pictures.extend([found] if found else [])
        elif suffix in SOUNDS | VIDEOS:
            name = _name(path, data)
            contents.recordings.append(
                Recording(
                    key=name,
                    path=path,
                    group=name,
                    label=label,
                    caption=caption,
                    is_video=suffix in VIDEOS,
                )
            )
    return contents


def _from_labels(data: Path) -> Contents:
    rows = _read_csv(data / "labels.csv", {"file", "label", "caption"})
    entries = [
        (data / row["file"], label_of(row["label"]), row["caption"] or row["label"]) for row in rows
    ]
    wrong = [path.name for path, _, _ in entries if path.suffix.lower() not in SOUNDS | VIDEOS]
    if wrong:
        raise UserError(
            f"{data / 'labels.csv'} lists {wrong[0]!r}, which is no sound and no video; "
            f"allowed: {', '.join(sorted(SOUNDS | VIDEOS))}"
        )
    return _from_files(data, entries + _class_files(data, {"images"}))


def _class_files(data: Path, tops: set[str]) -> list[tuple[Path, str, str]]:
    """Return (file, label, caption) of <top>/<class>/*, or of <class>/* where ``tops`` is empty."""
    entries = []
    depth = 1 if tops else 0
    for path in _files(data):
        parts = path.relative_to(data).parts
        if len(parts) > depth + 1 and (not tops or parts[0] in tops):
            name = parts[depth]
            entries.append((path, label_of(name), name.strip().replace("_", " ")))
    return entries


def find_contents(data: Path | None) -> Contents:
    """Return the contents of a folder of any layout, in an order that depends on names alone.

    Raises:
        UserError: It is no folder, has none of the layouts, or holds an invalid table.
    """
    if data is None:
        raise UserError(f"the folder source needs --data: {FORMS}")
    if not data.is_dir():
        raise UserError(f"--data {data} is not a folder; give {FORMS}")
    if (data / "pairs.csv").is_file():
        contents = _from_pairs(data)
    elif (data / "labels.csv").is_file():
        contents = _from_labels(data)
    elif (data / "audio").is_dir():
        contents = _from_files(data, _class_files(data, {"audio", "images", "video"}))
    else:
        contents = _from_files(data, _class_files(data, set()))
    if not contents.recordings:
        kinds = Counter(path.suffix.lower() or "(none)" for path in _files(data))
        there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6)) or "no file"
        raise UserError(
            f"no sound and no video in a class directory of {data} (there: {there}); give {FORMS}\n"
            f"  sounds: {' '.join(sorted(SOUNDS))}; videos: {' '.join(sorted(VIDEOS))}"
        )
    return contents
