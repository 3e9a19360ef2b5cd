"""What a clips table was cut from: every file of the data folder with its size, time and content.

``files.jsonl`` beside the shards: a header, then ``[name, size, mtime_ns, hash]`` a line; of a name
that stands in several lines the last one counts. The hash is taken when a clip has read the file.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nano4m.data.sources.base import ClipPlan
from nano4m.data.sources.listing import TABLES
from nano4m.data.sources.walk import Entry
from nano4m.media.gate import hash_of_file
from nano4m.storage.files import write_text

RECORD = "files.jsonl"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class KnownFile:
    """One file as it was read.

    Attributes:
        size: In bytes.
        mtime_ns: Time of its last change, in nanoseconds.
        content: See ``gate.hash_of_file``, "" for one that could not be read; None: nothing read
            it, so that it counts by name and size alone.
    """

    size: int
    mtime_ns: int
    content: str | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Content of a record.

    Attributes:
        data: Where the folder was last.
        files: Name relative to the folder -> what is known of it.
    """

    data: str
    files: Mapping[str, KnownFile]


def read_record(folder: Path) -> Known | None:
    """Return the record of a clips table; None if there is none that can be read.

    Tables of before have none; a line that a stopped process has cut off is passed over.
    """
    try:
        whole, _, _ = (folder / RECORD).read_text(encoding="utf-8").rpartition("\n")
        first, *lines = whole.split("\n")
        header = json.loads(first)
        if header["format"] > FORMAT:
            return None
        rows = json.loads(f"[{','.join(lines)}]")
        files = {str(name): KnownFile(int(size), int(time), own) for name, size, time, own in rows}
        return Known(data=str(header["data"]), files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(folder: Path, known: Known) -> None:
    """Write a record whole.

    Raises:
        OSError: The folder cannot be written.
    """
    lines = [json.dumps({"format": FORMAT, "data": known.data})]
    lines += [_line(name, file) for name, file in known.files.items()]
    write_text(folder / RECORD, "\n".join([*lines, ""]))


def _line(name: str, file: KnownFile) -> str:
    return json.dumps([name, file.size, file.mtime_ns, file.content])


class FileRecord:
    """The record of a table that is being made.

    Args:
        data: The data folder.
        entries: Its files, as ``listing.find_files`` found them before anything was read.
    """

    def __init__(self, data: Path, entries: Sequence[Entry]) -> None:
        self.data, self.entries = data, entries
        self._by_path = {str(entry.path): entry for entry in entries if not entry.fault}
        self._known: set[str] = set()

    def begin(self, folder: Path, is_resumed: bool) -> None:
        """Write all files; keep what an earlier call knew of their contents if it goes on.

        Tables (lists) are read by every plan, so their contents are known from here on.
        """
        found = read_record(folder) if is_resumed else None
        before = found.files if found else {}
        files = {}
        for entry in self.entries:
            own = before.get(entry.name)
            content = own.content if own else None
            if content is None and entry.suffix in TABLES:
                content = _content(entry)
            files[entry.name] = KnownFile(entry.size, entry.mtime_ns, content)
        self._known = {name for name, file in files.items() if file.content is not None}
        write_record(folder, Known(data=str(self.data.resolve()), files=files))

    def add(self, folder: Path, plans: Iterable[ClipPlan]) -> None:
        """Append the contents of the files that these clips have read, those that are new."""
        lines = []
        for entry in self._files_of(plans):
            self._known.add(entry.name)
            known = KnownFile(entry.size, entry.mtime_ns, _content(entry))
            lines.append(f"{_line(entry.name, known)}\n")
        if lines:
            with (folder / RECORD).open("a", encoding="utf-8") as file:
                file.writelines(lines)

    def _files_of(self, plans: Iterable[ClipPlan]) -> list[Entry]:
        """Return the files named in the details of clips that are not known yet, once each."""
        found: dict[str, Entry] = {}
        for plan in plans:
            for value in plan.details.values():
                for text in value if isinstance(value, list) else (value,):
                    entry = self._by_path.get(text) if isinstance(text, str) else None
                    if entry is not None and entry.name not in self._known:
                        found[entry.name] = entry
        return list(found.values())


def _content(entry: Entry) -> str:
    """Return the hash of a file; "" if it cannot be read or is not what was listed any more."""
    content = hash_of_file(entry.path)
    try:
        about = entry.path.stat()
    except OSError:
        return ""
    return content if (about.st_size, about.st_mtime_ns) == (entry.size, entry.mtime_ns) else ""
