"""The result of a check: what is found in a folder, and what a run would make of it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
"""Of the JSON; a later one has a larger number."""

HEADERS = "of their headers"
"""Said with lengths that were not decoded."""


@dataclass(kw_only=True)
class FolderCheck:
    """Everything that ``nano4m check-data`` says; the fields of its JSON.

    Attributes:
        folder: As it was given.
        preset: Whose settings a run would have.
        ok: Whether a run would work.
        reason: Why it would not, else None.
        form: How the folder is read, one line.
        splits: Split -> clips that are planned and expected to be kept: ``{"train": [300, 310]}``
            is 300 kept of 310.
        classes: Class -> sounds, films and pictures (files), groups (of recordings), clips (split
            -> planned), kept (split -> expected), seconds (of all recordings, of their headers).
        groups: clips, groups, largest, name and example (two files) of the largest, in_two_splits.
        pairing: How clips have their pictures -> clips.
        durations: files, looked_at, seconds, shortest, median, longest; of headers.
        sample_rates: Hz -> recordings whose header says so.
        picture_sizes: pictures, looked_at, smallest, median, largest ([width, height]), small (how
            many have a shorter side below that of clips).
        left_out: What does not get into a run: what (files or clips), reason, count, classes
            (class -> count), first (names of the first ones).
        captions: captions, different, words and tokens (shortest, median, longest), all (tokens),
            too_long (captions), limit, policy (what becomes of them), first (their clips),
            longest (the caption).
        tokens: a_clip (one view of each modality), in_all (all views of all clips), modalities
            (name -> clips, tokens, views, in_all).
        time: seconds ([least, most]) of a run, stages (stage -> seconds), device; estimates.
        warnings: What looks like a mistake, a sentence each.
        notes: What a run says when it reads the folder, line by line.
        decoded: Of ``--deep`` alone, see ``deep.Decoded``.
    """

    folder: str
    preset: str
    ok: bool = True
    reason: str | None = None
    form: str = ""
    splits: dict[str, list[int]] = field(default_factory=dict)
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    pairing: dict[str, int] = field(default_factory=dict)
    durations: dict[str, Any] = field(default_factory=dict)
    sample_rates: dict[str, int] = field(default_factory=dict)
    picture_sizes: dict[str, Any] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    captions: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decoded: dict[str, Any] | None = None

    def refuse(self, reason: str) -> None:
        """Say why a run would not work; the first reason stays."""
        self.ok = False
        self.reason = self.reason or reason

    def as_json(self) -> dict[str, Any]:
        """Return all fields with the number of their format."""
        return {"format": FORMAT} | dataclasses.asdict(self)


def spread(values: list[float], digits: int = 2) -> dict[str, float]:
    """Return the shortest, the median and the longest of some values; of none nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    chosen = {"shortest": ordered[0], "median": ordered[len(ordered) // 2], "longest": ordered[-1]}
    return {name: round(value, digits) for name, value in chosen.items()}


def counted(count: int, noun: str) -> str:
    """Return ``1 file``, ``2 files`` or ``3 classes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"
