"""Counts of kept and other clips of a table, and the manifest with a line for each clip.

Tables are read shard by shard, so memory does not grow with their size.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano4m.data.clip_shards import MANIFEST_COLUMNS, manifest_shards
from nano4m.data.duplicates import read_settled
from nano4m.progress import log_info
from nano4m.storage.files import whole_file

MANIFEST = "manifest.csv"

MOST_LINES = 12
"""Files, and classes, that the console lists one by one; the manifest has all."""


@dataclass
class ClipCounts:
    """Counts over rows, added one after the other.

    Attributes:
        planned, kept: Clips by (label, split).
        media: Kept clips that have a kind of media, by its name.
        reasons: Clips that were not kept, by the part of their reason before the first colon.
        left_out: Clips that use another file instead of an unreadable one, by its name and reason.
    """

    planned: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)
    media: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of the manifest."""
        key = (row["label"], row["split"])
        self.planned[key] += 1
        if row["kept"]:
            self.kept[key] += 1
            self.media.update((row.get("media") or "").split())
        else:
            self.reasons[str(row["reason"]).split(":")[0]] += 1
        self.left_out.update(part for part in (row["left_out"] or "").split("; ") if part)

    def by_label(self) -> dict[str, list[int]]:
        """Return [kept, planned] of each class."""
        return self._by(lambda label, split: label)

    def by_split(self) -> dict[str, list[int]]:
        """Return [kept, planned] of each split."""
        return self._by(lambda label, split: split)

    def by_label_and_split(self) -> dict[str, list[int]]:
        """Return [kept, planned] of each class and split, such as "cat, val"."""
        return self._by(lambda label, split: f"{label}, {split}")

    def _by(self, name: Any) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for key, planned in self.planned.items():
            both = found.setdefault(name(*key), [0, 0])
            both[0] += self.kept[key]
            both[1] += planned
        return dict(sorted(found.items()))

    def summary(self) -> dict[str, Any]:
        """Return all counts by name, for the manifest of the stage."""
        return {
            "clips": self.planned.total(),
            "kept": self.kept.total(),
            "by_split": self.by_split(),
            "by_label": self.by_label(),
            "by_media": dict(sorted(self.media.items())),
            "by_label_and_split": self.by_label_and_split(),
            "reasons": dict(self.reasons.most_common()),
            "files_left_out": dict(self.left_out.most_common()),
        }


def write_manifest(out: Path) -> ClipCounts:
    """Write ``manifest.csv`` of a complete table atomically and return the counts of its rows.

    Raises:
        UserError: The table is not complete.
        OSError: The folder cannot be written.
    """
    tally = ClipCounts()
    with (
        whole_file(out / MANIFEST) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        # Clips of before have no record of duplicates.
        settled = read_settled(out)
        moved = settled[0].moved if settled else {}
        writer = csv.DictWriter(file, (*MANIFEST_COLUMNS, "moved"))
        writer.writeheader()
        for rows in manifest_shards(out):
            writer.writerows(
                row | {"moved": moved.get(row["clip_id"])} for row in _for_people(rows)
            )
            for row in rows:
                tally.add(row)
    return tally


def log_counts(tally: ClipCounts, out: Path) -> None:
    """Log how many clips were kept, why others were not, and what some clips or classes lack.

    That are files that were replaced, kinds of media that not all clips have, and classes without
    a clip to train on or to validate with.
    """
    kept, planned = tally.kept.total(), tally.planned.total()
    for kind, clips in sorted(tally.media.items()):
        if clips < kept:
            log_info(f"clips: {kind}: {clips} of {kept} clips")
    left_out = tally.left_out.most_common()
    for file, clips in left_out[:MOST_LINES]:
        log_info(f"clips: {file}; {clips} clips have another one, or none, instead")
    if len(left_out) > MOST_LINES:
        log_info(f"clips: and {len(left_out) - MOST_LINES} more such files, see {out / MANIFEST}")
    lost = [label for label in tally.by_label() if not tally.kept[label, "train"]]
    unchecked = [label for label in tally.by_label() if not tally.kept[label, "val"]]
    for label in lost[:MOST_LINES]:
        log_info(
            f"clips: class {label!r} has no training clip left, of "
            f"{tally.planned[label, 'train']} planned; the reasons are in {out / MANIFEST}"
        )
    for label in unchecked[:MOST_LINES]:
        log_info(
            f"clips: class {label!r} has no validation clip, of {tally.planned[label, 'val']} "
            f"planned; the reasons are in {out / MANIFEST}"
        )
    for labels, what in ((lost, "training"), (unchecked, "validation")):
        if len(labels) > MOST_LINES:
            log_info(f"clips: and {len(labels) - MOST_LINES} more classes have no {what} clip")
    if kept < planned:
        reasons = ", ".join(f"{count} {why}" for why, count in tally.reasons.most_common())
        log_info(f"clips: kept {kept} of {planned}; not kept: {reasons}; see {out / MANIFEST}")


def _for_people(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows for the manifest.

    Numbers are rounded to 0.001, ``kept`` is 0 or 1, and ``measures`` is JSON.
    """

    def short(value: Any) -> Any:
        return round(value, 3) if isinstance(value, float) else value

    return [
        {k: short(v) for k, v in row.items()}
        | {"kept": int(row["kept"])}
        | {"measures": json.dumps({k: short(v) for k, v in row["measures"] or ()})}
        for row in rows
    ]
