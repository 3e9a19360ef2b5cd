"""Folders with a list: ``pairs.csv``, perhaps with ``metadata.csv``, or ``labels.csv``."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.base import Split
from nano4m.data.sources.folder_contents import (
    MEDIA_FOLDERS,
    NO_LICENCE,
    SPLIT_NAMES,
    UNLABELLED,
    Contents,
    Picture,
    Recording,
    caption_of,
    ending,
    is_medium,
    item_of,
    label_of,
    parted,
    shortened,
)
from nano4m.data.sources.folder_pictures import look_at
from nano4m.data.sources.list_captions import clips_of
from nano4m.data.sources.table_file import Files, Row, Table, read_table
from nano4m.data.sources.unread import Unread
from nano4m.data.sources.video import VIDEOS
from nano4m.data.sources.walk import Walk
from nano4m.errors import UserError
from nano4m.media.image_file import SUFFIXES as PICTURES
from nano4m.media.sound import SUFFIXES as SOUNDS
from nano4m.progress import log_info

GROUP_COLUMNS = ("group", "recording_group", "video_id", "speaker")
"""Columns that say what may not part, the first one that is there and not empty counts."""

NOBODY = Row({}, 0)


def stem_of(name: str, label: str = "") -> str:
    """Return a file's name in a list without media folder, class folder and ending."""
    parts = PurePosixPath(name).with_suffix("").parts
    if len(parts) > 1 and parts[0] in MEDIA_FOLDERS:
        parts = parts[1:]
    if len(parts) > 1 and label_of(parts[0]) == label:
        parts = parts[1:]
    return "/".join(parts)


# -- columns -----------------------------------------------------------------------------------


def _group_column(settings: FolderDataset, tables: Iterable[Table]) -> str:
    """Return the column of groups, or "" where there is none.

    Raises:
        UserError: ``--dataset.group-by`` names one that is nowhere.
    """
    tables = list(tables)
    if settings.group_by in ("auto", "off"):
        return next((c for c in GROUP_COLUMNS if any(t.has(c) for t in tables)), "")
    if not any(settings.group_by in table.columns for table in tables):
        raise UserError(
            f"--dataset.group-by {settings.group_by}: no such column in "
            f"{', '.join(table.path.name for table in tables)}; allowed: auto, off, or a column of "
            f"{', '.join(sorted({c for table in tables for c in table.columns}))}"
        )
    return settings.group_by


def _splits(settings: FolderDataset, table: Table, more: Table | None = None) -> str:
    """Return the column that says the splits, or "".

    ``split`` of the list itself; that of ``more`` only where ``--dataset.split-column`` names it. A
    column of one value is no split.

    Raises:
        UserError: The column is missing, or a value is no split.
    """
    if settings.split_column == "off":
        return ""
    column = "split" if settings.split_column == "auto" else settings.split_column
    owner = next((t for t in (table, more) if t and column in t.columns), None)
    if settings.split_column == "auto":
        owner = table if table.has(column) else None
        if owner is None:
            return ""
    if owner is None:
        raise UserError(
            f"--dataset.split-column {column}: no such column in {table.path.name}; allowed: auto, "
            f"off, or one of {', '.join(table.columns)}"
        )
    values = {row[column].lower() for row in owner.rows}
    if len(values) == 1:
        log_info(
            f"folder: column {column!r} of {owner.path.name} says {next(iter(values))!r} in every "
            "row, which is no split; not used"
        )
        return ""
    for row in owner.rows:
        if row[column].lower() not in SPLIT_NAMES and (row[column] or owner is table):
            raise UserError(
                f"{owner.path}, line {row.line}: {column} is {row[column]!r}; allowed: "
                f"{', '.join(SPLIT_NAMES)}; or give --dataset.split-column off"
            )
    log_info(f"folder: column {column!r} of {owner.path.name} gives the splits")
    return column


def _of_rows(row: Row, about: Row, column: str) -> str:
    return (row[column] or about[column]) if column else ""


def _split_of(row: Row, about: Row, column: str) -> Split | None:
    return SPLIT_NAMES.get(_of_rows(row, about, column).lower())


def _log_merged(labels: Iterable[str]) -> None:
    """Log classes of a list that are written in several ways."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        spelled[label_of(label)].add(label)
    merged = [
        f"{', '.join(map(repr, sorted(v)))} as {k}"
        for k, v in sorted(spelled.items())
        if len(v) > 1
    ]
    if merged:
        log_info(f"folder: classes written in several ways are read as one: {shortened(merged)}")


# -- the forms ---------------------------------------------------------------------------------


def from_pairs(data: Path, found: Walk, settings: FolderDataset) -> Contents:
    """Return the contents of a folder with a ``pairs.csv``.

    Raises:
        UserError: A table is wrong.
    """
    files = Files(data, found.files)
    table = read_table(data / "pairs.csv", {"audio_id", "class", "audio", "images", "caption"})
    clips = clips_of(
        table, key="audio_id", file="audio", label="class", name_of=files.name, joined="images"
    )
    more = read_table(data / "metadata.csv", {"file"}) if "metadata.csv" in files.paths else None
    known = {files.find(row["file"])[0]: row for row in more.rows if row["file"]} if more else {}
    by_group = _group_column(settings, [t for t in (table, more) if t])
    by_split = _splits(settings, table, more)
    _log_merged(row["class"] for row in table.rows if row["class"])
    recordings: list[Recording] = []
    pictures: dict[str, tuple[str, Split | None]] = {}
    paths: dict[str, Path] = {}
    for row, captions in clips:
        name, path = files.find(row["audio"]) if row["audio"] else ("", data)
        label, about = label_of(row["class"]) or UNLABELLED, known.get(name, NOBODY)
        images = [files.find(text.strip()) for text in row["images"].split(";") if text.strip()]
        paths |= dict(images)
        split = _split_of(row, about, by_split)
        pictures |= {image: (label, None) for image, _ in images}
        if not name:
            continue
        recordings.append(
            Recording(
                key=row["audio_id"],
                name=name,
                path=path,
                stem=stem_of(name, label),
                group=_of_rows(row, about, by_group),
                label=label,
                caption=next(iter(captions), ""),
                more_captions=captions[1:],
                licence=about["license_note"] or NO_LICENCE,
                pictures=tuple(image for image, _ in images),
                is_video=path.suffix.lower() in VIDEOS - SOUNDS and not images,
                split=split,
            )
        )
    for name, row in known.items():
        if row["kind"] == "image" and row["class"]:
            split = _split_of(NOBODY, row, by_split)
            pictures.setdefault(name, (label_of(row["class"]), split))
    listed: list[Picture] = []
    unread = Unread()
    for name, (label, split) in pictures.items():
        about = known.get(name, NOBODY)
        path = paths.get(name) or files.paths.get(name, data / name)
        listed.append(
            Picture(
                name=name,
                path=path,
                stem=stem_of(name, label),
                label=label,
                caption=label,
                group=_of_rows(NOBODY, about, by_group),
                is_lowres=about["quality"] == "lowres",
                split=split,
            )
        )
    unsure = {p.name for p in listed if not known.get(p.name, NOBODY)["quality"]}
    listed = look_at(listed, unread, unsure)
    recordings += _films(found, known, recordings, by_group, by_split)
    _log_partners(known, recordings, pictures, more)
    _count_others(found, {r.name for r in recordings} | set(pictures), table.path.name, unread)
    return Contents(
        recordings=recordings, pictures=listed, unread=unread, form="as its pairs.csv says"
    )


def _films(
    found: Walk,
    known: Mapping[str, Row],
    recordings: Iterable[Recording],
    by_group: str,
    by_split: str,
) -> list[Recording]:
    """Return the films of video/<class>/* beside a ``pairs.csv``."""
    captions = {recording.label: recording.caption for recording in recordings}
    listed = {recording.name for recording in recordings}
    films = []
    for entry in found.files:
        parts = entry.name.split("/")
        if parts[0] != "video" or len(parts) < 3 or entry.suffix not in VIDEOS:
            continue
        if entry.name in listed:
            continue
        about, label = known.get(entry.name, NOBODY), label_of(parts[1])
        films.append(
            Recording(
                key=about["id"] or entry.name,
                name=entry.name,
                path=entry.path,
                stem="/".join(PurePosixPath(*parts[2:]).with_suffix("").parts),
                group=_of_rows(NOBODY, about, by_group),
                label=label,
                caption=captions.get(label) or about["caption"] or label,
                licence=about["license_note"] or NO_LICENCE,
                is_video=True,
                split=_split_of(NOBODY, about, by_split),
            )
        )
    return films


def _log_partners(
    known: Mapping[str, Row],
    recordings: Iterable[Recording],
    pictures: Mapping[str, object],
    more: Table | None,
) -> None:
    """Log rows of the two tables that have no partner in the other one."""
    if more is None:
        return
    own = {recording.name for recording in recordings}
    alone = sorted(set(known) - own - set(pictures))
    if alone:
        log_info(
            f"folder: {len(alone)} rows of {more.path.name} name a file that pairs.csv does not "
            f"(first {alone[0]}); not used"
        )
    without = sorted(own - set(known))
    if without:
        log_info(
            f"folder: {len(without)} recordings have no row in {more.path.name} (first "
            f"{without[0]}), so no group and no licence from it"
        )


def _count_others(found: Walk, listed: set[str], table: str, unread: Unread) -> None:
    """Count media of the folder that no row names."""
    for entry in found.files:
        if is_medium(entry.suffix) and entry.name not in listed:
            kind = "picture" if entry.suffix in PICTURES else "recording"
            unread.add("", f"a {kind} that {table} does not name", entry.name)


def from_labels(data: Path, found: Walk, settings: FolderDataset) -> Contents:
    """Return the contents of a folder with a ``labels.csv``, and pictures of images/<class>/*.

    A row that names a file of an ending that is not read is left out, logged and counted.

    Raises:
        UserError: The table is wrong.
    """
    files = Files(data, found.files)
    table = read_table(data / "labels.csv", {"file", "label", "caption"})
    clips = clips_of(table, key="file", file="file", label="label", name_of=files.name)
    by_group, by_split = _group_column(settings, [table]), _splits(settings, table)
    _log_merged(row["label"] for row in table.rows if row["label"])
    unread = Unread()
    items: list[Recording | Picture] = []
    unknown: list[str] = []
    for row, captions in clips:
        name, path = files.find(row["file"])
        label = label_of(row["label"]) or UNLABELLED
        if not is_medium(path.suffix.lower()):
            unknown.append(f"{row['file'] or 'an empty cell'} (line {row.line})")
            unread.add(label, f"no medium: {ending(path)}", name)
            continue
        items.append(
            item_of(
                name,
                path,
                stem=stem_of(name, label),
                label=label,
                caption=next(iter(captions), ""),
                more_captions=captions[1:],
                group=row[by_group] if by_group else "",
                split=_split_of(row, NOBODY, by_split),
            )
        )
    if unknown:
        log_info(
            f"folder: {len(unknown)} rows of {table.path.name} name a file that is no sound, no "
            f"video and no picture; not used: {shortened(unknown)}"
        )
    listed = {item.name for item in items}
    for entry in found.files:
        parts = entry.name.split("/")
        is_pool = parts[0] == "images" and len(parts) > 2 and entry.suffix in PICTURES
        if is_pool and entry.name not in listed:
            stem = "/".join(PurePosixPath(*parts[2:]).with_suffix("").parts)
            label, caption = label_of(parts[1]), caption_of(parts[1])
            items.append(item_of(entry.name, entry.path, stem=stem, label=label, caption=caption))
            listed.add(entry.name)
    recordings, pictures = parted(items)
    pictures = look_at(pictures, unread)
    _count_others(found, listed, table.path.name, unread)
    form = "as its labels.csv says"
    return Contents(recordings=recordings, pictures=pictures, unread=unread, form=form)
