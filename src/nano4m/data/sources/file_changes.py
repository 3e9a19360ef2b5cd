"""Whether a folder holds the files that a clips table was cut from, wherever it lies now."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nano4m.data.sources.file_record import KnownFile
from nano4m.data.sources.walk import Entry
from nano4m.media.gate import hash_of_file
from nano4m.progress import bar

MOST_NAMES = 3
"""Names of each kind of change that a message has."""

THREADS = 8
"""Files that are read at once; a disk far away answers each of them late."""

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What differs between a record and a folder.

    Attributes:
        added, gone: Names that only the folder, only the record has.
        changed: Names of files of another size or content.
        touched: How many files have another time and the same content.
        files: The record as it is now, where nothing differs.
    """

    added: Sequence[str] = ()
    gone: Sequence[str] = ()
    changed: Sequence[str] = ()
    touched: int = 0
    files: Mapping[str, KnownFile] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether the data are those of the record."""
        return not (self.added or self.gone or self.changed)

    def in_words(self) -> str:
        """Return what differs, with the first names."""
        told = [
            _named(self.changed, "has other contents", "have other contents"),
            _named(self.added, "is new", "are new"),
            _named(self.gone, "is gone", "are gone"),
        ]
        return "; ".join(filter(None, told))


def _named(names: Sequence[str], one: str, many: str) -> str:
    if not names:
        return ""
    shown = ", ".join([*sorted(names)[:MOST_NAMES], *["..."][: len(names) - MOST_NAMES]])
    said = f"1 file {one}" if len(names) == 1 else f"{len(names)} files {many}"
    return f"{said} ({shown})"


def find_changes(known: Mapping[str, KnownFile], entries: Iterable[Entry]) -> Changes:
    """Compare a record with the files of a folder.

    Names and sizes are compared at once; contents, by the hash of the record, only of files whose
    time is another one. A file of equal name, size and time is taken for the same.
    """
    there = {entry.name: entry for entry in entries}
    changed, unsure = [], []
    for name in known.keys() & there.keys():
        own, entry = known[name], there[name]
        if own.size != entry.size:
            changed.append(name)
        elif own.mtime_ns != entry.mtime_ns and own.content is not None:
            unsure.append(entry)
    touched = 0
    for entry, content in zip(unsure, _contents(unsure), strict=True):
        if content == known[entry.name].content:
            touched += 1
        else:
            changed.append(entry.name)
    return Changes(
        added=sorted(there.keys() - known.keys()),
        gone=sorted(known.keys() - there.keys()),
        changed=sorted(changed),
        touched=touched,
        files={
            name: KnownFile(entry.size, entry.mtime_ns, known[name].content)
            for name, entry in there.items()
            if name in known
        },
    )


def _contents(entries: Sequence[Entry]) -> list[str]:
    """Return the hash of each file."""
    batches = [entries[k : k + BATCH] for k in range(0, len(entries), BATCH)]
    found: list[str] = []
    with (
        bar("comparing contents", len(entries), "file") as progress,
        ThreadPoolExecutor(min(THREADS, 4 * (os.cpu_count() or 1))) as pool,
    ):
        for part in pool.map(_hashes, batches):
            found += part
            progress.advance(len(part))
    return found


def _hashes(entries: Sequence[Entry]) -> list[str]:
    return ["" if entry.fault else hash_of_file(entry.path) for entry in entries]
