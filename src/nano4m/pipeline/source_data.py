"""The data that a run is made of: the same wherever they lie and whenever they were touched."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano4m.data.sources.file_changes import find_changes
from nano4m.data.sources.file_record import FileRecord, Known, read_record, write_record
from nano4m.data.sources.listing import TABLES, find_files, listing_of
from nano4m.data.sources.walk import Entry
from nano4m.errors import UserError
from nano4m.media.gate import printable
from nano4m.progress import log_info
from nano4m.stage import manifest_of, settings_there
from nano4m.storage.damage import DamagedFile
from nano4m.storage.replaced import is_begun


@dataclass(frozen=True, kw_only=True)
class SourceData:
    """The data folder of a run, compared with what its clips were cut from.

    Attributes:
        data: The folder; None: the source needs none.
        settings: ``data`` and ``data_files`` of the settings of all stages. Of equal data they are
            those that the clips were cut with, wherever the folder lies now.
        entries: Files of the folder.
        difference: What is not the same, in words; "": nothing, or there are no clips yet.
        has_lists: Whether a list is among what differs.
        note: For a person, where something moved, was touched or is passed over.
        known: The record to write, where it has other times or another place than the data.
    """

    data: Path | None
    settings: dict[str, Any]
    entries: Sequence[Entry] = ()
    difference: str = ""
    has_lists: bool = False
    note: str = ""
    known: Known | None = None

    def record(self) -> FileRecord | None:
        """Return the record that cutting the clips writes."""
        return FileRecord(self.data, self.entries) if self.data else None


def remembered_data(out: Path) -> Path | None:
    """Return where the data of a run were last, if it has any."""
    known = read_record(out / "clips")
    found = known.data if known else settings_of_clips(out).get("data")
    return Path(found) if isinstance(found, str) else None


def settings_of_clips(out: Path) -> dict[str, Any]:
    """Return what the clips were made with; nothing if no file tells: they can be mended then."""
    with suppress(FileNotFoundError, DamagedFile):
        return settings_there(out / "clips")
    with suppress(DamagedFile):
        settings = (manifest_of(out, "clips") or {}).get("settings", {})
        return settings if isinstance(settings, dict) else {}
    return {}


def _is_finished(out: Path) -> bool:
    try:
        return manifest_of(out, "clips") is not None
    except DamagedFile:
        return False


def look_at_data(data: Path | None, out: Path, is_given: bool) -> SourceData:
    """Return the data of a run and whether its clips were cut from them; nothing is written.

    Args:
        data: The folder; one that is gone does not spoil what was made of it.
        out: Folder of the run.
        is_given: Whether somebody asks for this folder. The one that a run remembers counts as it
            was when the clips were cut, once these are finished.
    """
    if data is None:
        return SourceData(data=None, settings={"data": None, "data_files": None})
    stored = settings_of_clips(out)
    before = {key: stored.get(key) for key in ("data", "data_files")}
    place = str(data.resolve())
    if not data.is_dir():
        if stored and (not is_given or place == before["data"]):
            return SourceData(data=data, settings=before)
        now = {"data": place, "data_files": before["data_files"]}
        gone = f"--data {printable(data)} is not a folder" if stored else ""
        return SourceData(data=data, settings=now, difference=gone)
    entries = find_files(data, out)
    now = {"data": place, "data_files": dict(listing_of(entries))}
    if not before["data_files"]:
        return SourceData(data=data, settings=now, entries=entries)
    known = read_record(out / "clips")
    if known is None:
        # Clips of before the record: names, sizes and times count.
        if before["data_files"] == now["data_files"]:
            return SourceData(data=data, settings=before, entries=entries)
        difference, has_lists = _by_times(before["data_files"], len(entries)), False
    else:
        changes = find_changes(known.files, entries)
        if changes.is_same:
            notes = []
            if changes.touched:
                notes.append(f"{changes.touched} files have another time and the same contents")
            if known.data != place:
                notes.append(f"the folder is {place} now, it was {known.data}")
            return SourceData(
                data=data,
                settings=before,
                entries=entries,
                note="; ".join(notes),
                known=Known(data=place, files=changes.files)
                if notes or changes.files != known.files
                else None,
            )
        names = [*changes.added, *changes.gone, *changes.changed]
        has_lists = any(Path(name).suffix.lower() in TABLES for name in names)
        difference = changes.in_words()
    if not is_given and _is_finished(out):
        note = f"{difference} in {place}; this run goes on with its clips, cut before that"
        return SourceData(data=data, settings=before, entries=entries, note=note)
    return SourceData(
        data=data, settings=now, entries=entries, difference=difference, has_lists=has_lists
    )


def _by_times(before: Any, count: int) -> str:
    files = before.get("files") if isinstance(before, dict) else None
    if files != count:
        return f"there are {count} files, and there were {files}"
    return (
        "names, sizes or times are not those of before; contents cannot be compared, as these "
        "clips are of an earlier version, which did not remember them"
    )


def check_data(found: SourceData, out: Path, overwrite: bool) -> None:
    """Refuse data that are not those of the clips, and remember where the same ones are now.

    Raises:
        UserError: What differs, what it means, and how to go on without losing anything.
    """
    if found.difference and not overwrite and is_begun(out / "clips"):
        raise UserError(_refusal(found, out))
    if found.note:
        log_info(f"data: {found.note}")
    if found.known is not None:
        with suppress(OSError):
            write_record(out / "clips", found.known)


def _refusal(found: SourceData, out: Path) -> str:
    lists = "\nA list has changed: classes, captions, groups and splits may be others."
    text = (
        f"the data are not those that the clips of {out} were cut from: {found.difference}."
        f"{lists if found.has_lists else ''}\n"
    )
    trained = is_begun(out / "train")
    if _is_finished(out):
        made = "Clips, tokenizers and training" if trained else "The clips"
        text += (
            f"{made} of this run are of the data of before, and stay as they are. To go on with "
            "them, leave --data out; for a run of the data of now, choose another --out"
        )
    else:
        text += (
            "Not all clips are cut, and clips of two states of the data do not mix. To go on, "
            "bring the files of before back; for a run of the data of now, choose another --out"
        )
    return text if trained else f"{text}, or add --overwrite (nothing is trained yet)"
