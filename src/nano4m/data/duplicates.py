"""Clips that occur in two splits are moved into one of them, or left out of the table.

One recording may have two names: uploaded twice, listed in two data sets, saved again. Such a pair
across splits would inflate the scores.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nano4m.config.run import Config
from nano4m.data.clip_shards import find_shards, read_rows, write_batches
from nano4m.data.duplicate_pairs import find_pairs
from nano4m.data.duplicate_rules import (
    DUPLICATE,
    ClipFacts,
    Pair,
    choose_excluded,
    choose_moves,
)
from nano4m.data.sources import SOURCES, source
from nano4m.data.sources.base import ClipPlan
from nano4m.progress import log_info
from nano4m.storage.damage import DamagedFile
from nano4m.storage.json_files import read_object, write_json

SETTLED = "duplicates.json"
"""What was done with duplicates, beside the shards: a stopped build does the same again."""

FILTERS = {
    "duplicates": {
        "description": "what has the sound or picture of a clip of another split moves into one "
        "split with its recording; where a split is given, or a class would lose most of its "
        "clips there, it is not kept, and its reason names that clip",
        "licence": "Apache-2.0",
    }
}
"""The filter of ``settle_duplicates``."""

COLUMNS = (
    "clip_id",
    "split",
    "video_id",
    "label",
    "kept",
    "reason",
    "audio_fingerprint",
    "image_fingerprints",
)

Redraw = Callable[[Sequence[ClipPlan], Mapping[str, str]], pa.RecordBatch]
"""Plans, and recording -> split that it moves to -> the rows of those clips with their pictures
drawn from those of that split."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A clip that moved: the split it was dealt to, the one it is in now, and why."""

    before: str
    now: str
    why: str

    def __str__(self) -> str:
        return f"from {self.before} to {self.now}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was done with duplicates: clip_id -> its move; clip_id -> reason of one left out."""

    moved: Mapping[str, Move] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)

    def moves(self) -> dict[str, int]:
        """Return how many clips moved, such as ``{"from val to train": 2}``."""
        return dict(Counter(f"from {m.before} to {m.now}" for m in self.moved.values()))


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Facts of all clips of a table and the pairs across its splits."""

    ids: list[str]
    facts: ClipFacts
    pairs: list[Pair]


def _look(folder: Path, plans: Sequence[ClipPlan]) -> _Table:
    shards = [path for path, _ in find_shards(folder)]
    tables = [pq.read_table(path, columns=list(COLUMNS)) for path in shards]
    places = [
        (path, row) for path, t in zip(shards, tables, strict=True) for row in range(t.num_rows)
    ]
    whole = pa.concat_tables(tables)
    groups = whole["video_id"].to_pylist()
    fixed = {plan.video_id for plan in plans if plan.is_split_given}
    draws = {plan.video_id for plan in plans if plan.draws_pictures}
    facts = ClipFacts(
        splits=whole["split"].to_pylist(),
        labels=whole["label"].to_pylist(),
        groups=groups,
        kept=whole["kept"].to_pylist(),
        fixed=[name in fixed for name in groups],
        draws=[name in draws for name in groups],
    )
    return _Table(ids=whole["clip_id"].to_pylist(), facts=facts, pairs=find_pairs(whole, places))


# -- the stage ---------------------------------------------------------------------------------


def without_duplicates(
    config: Config,
    out: Path,
    plans: Sequence[ClipPlan],
    make: Callable[[Sequence[ClipPlan]], pa.RecordBatch],
    fingerprint: str,
) -> dict[str, Any]:
    """Settle duplicates across splits, unless the source has none; return what was done.

    ``make`` makes the rows of some clips; the others are of the table, see ``settle_duplicates``.
    """
    name = config.dataset.name
    if SOURCES[name].is_distinct:
        return {
            "duplicates": f"not looked for: no two clips of the source {name} are one, by "
            "construction"
        }

    def redraw(chosen: Sequence[ClipPlan], splits: Mapping[str, str]) -> pa.RecordBatch:
        return make(source(name).in_split(chosen, splits, plans))

    done = settle_duplicates(out, plans, redraw, fingerprint)
    _log(done)
    return {
        "duplicates": f"looked for: {len(done.moved)} moved, {len(done.excluded)} excluded",
        "moved": done.moves(),
    }


def _log(done: Settled) -> None:
    """Log which clips moved into one split or were left out, as they are found in two."""
    for clip, move in list(done.moved.items())[:1]:
        counts = ", ".join(f"{count} {way}" for way, count in done.moves().items())
        log_info(
            f"clips: {len(done.moved)} moved with their recordings, as they are found in two "
            f"splits: {counts} (first {clip}: {move.why}); all are in manifest.csv"
        )
    for clip, reason in list(done.excluded.items())[:1]:
        log_info(
            f"clips: {len(done.excluded)} excluded, as they are also in another split (first "
            f"{clip}: {reason}); all are in manifest.csv"
        )


def settle_duplicates(
    folder: Path, plans: Sequence[ClipPlan], redraw: Redraw, fingerprint: str = ""
) -> Settled:
    """Move clips of a complete table that are found in two splits, or leave them out.

    Shards are replaced atomically; a second call, and one after a stop, ends in the same bytes.

    Args:
        folder: Of the table.
        plans: Of all its clips.
        redraw: Makes clips again whose pictures are drawn from those of their split.
        fingerprint: Of the table; what was done to another one does not count.

    Raises:
        UserError: The table is not complete.
        OSError: A shard cannot be written.
    """
    done, is_whole = read_settled(folder, fingerprint) or _decide(_look(folder, plans))
    if not done.moved and not done.excluded:
        return done
    _write_settled(folder, done, fingerprint, is_whole)
    _apply(folder, done, plans, redraw)
    if not is_whole:
        # Pictures that moved clips have drawn may be found twice as well.
        done = _with_excluded(done, _look(folder, plans))
        _write_settled(folder, done, fingerprint, is_whole=True)
        _apply(folder, done, plans, redraw)
    return done


def _decide(table: _Table) -> tuple[Settled, bool]:
    """Return what moves; where nothing does, what is left out, and that this is all."""
    moves = choose_moves(table.pairs, table.facts)
    if not moves:
        return _with_excluded(Settled(), table), True
    moved = {
        table.ids[i]: Move(before=table.facts.splits[i], now=split, why=_shared(pair, table))
        for i, (split, pair) in sorted(moves.items())
    }
    return Settled(moved=moved), False


def _shared(pair: Pair, table: _Table) -> str:
    first, second, what = pair
    return f"the {what} of {table.ids[first]} is that of {table.ids[second]}"


def _with_excluded(done: Settled, table: _Table) -> Settled:
    facts, ids = table.facts, table.ids
    reasons: dict[str, str] = {}
    for gone, (first, second, what) in sorted(choose_excluded(table.pairs, facts).items()):
        is_first = facts.groups[first] == facts.groups[gone]
        own, other = (first, second) if is_first else (second, first)
        if gone in (first, second):
            twin = second if gone == first else first
            reasons[ids[gone]] = (
                f"{DUPLICATE}: the {what} is that of {ids[twin]} of {facts.splits[twin]}"
            )
        elif facts.kept[gone]:
            reasons[ids[gone]] = (
                f"{DUPLICATE}: of one recording with {ids[own]}, whose {what} is that of "
                f"{ids[other]} of {facts.splits[other]}"
            )
    return Settled(moved=done.moved, excluded=reasons)


def read_settled(folder: Path, fingerprint: str | None = None) -> tuple[Settled, bool] | None:
    """Return what was done with duplicates, and whether that is all of it; None: nothing yet.

    Args:
        folder: Of the table.
        fingerprint: Of the table; None: any.
    """
    with suppress(FileNotFoundError, DamagedFile, KeyError, TypeError, AttributeError):
        found = read_object(folder / SETTLED)
        if fingerprint in (None, found["fingerprint"]):
            moved = {clip: Move(**move) for clip, move in found["moved"].items()}
            return Settled(moved=moved, excluded=found["excluded"]), found["is_whole"]
    return None


def _write_settled(folder: Path, done: Settled, fingerprint: str, is_whole: bool) -> None:
    moved = {clip: vars(move) for clip, move in done.moved.items()}
    about = {"fingerprint": fingerprint, "is_whole": is_whole, "moved": moved}
    write_json(folder / SETTLED, about | {"excluded": dict(done.excluded)})


def _apply(folder: Path, done: Settled, plans: Sequence[ClipPlan], redraw: Redraw) -> None:
    """Bring the shards into the state that was decided."""
    drawn: dict[str, pa.RecordBatch] | None = None
    for index, (path, about) in enumerate(find_shards(folder)):
        now = pq.read_table(path, columns=["clip_id", "split", "reason", "video_id"]).to_pylist()
        is_due = [
            row["split"] != getattr(done.moved.get(row["clip_id"]), "now", row["split"])
            or row["reason"] != done.excluded.get(row["clip_id"], row["reason"])
            for row in now
        ]
        if not any(is_due):
            continue
        if drawn is None:
            drawn = _drawn(folder, done, plans, redraw)
        table = read_rows(path)
        rows = [
            _row(table.slice(number, 1), row["clip_id"], done, drawn)
            for number, row in enumerate(now)
        ]
        write_batches(
            folder,
            index,
            [batch for row in rows for batch in row.to_batches()],
            sample_rate=about["sample_rate"],
            num_shards=about["num_shards"],
            fingerprint=about["fingerprint"],
        )


def _drawn(
    folder: Path, done: Settled, plans: Sequence[ClipPlan], redraw: Redraw
) -> dict[str, pa.RecordBatch]:
    """Return the new rows of moved clips that draw their pictures, by clip_id."""
    splits: dict[str, str] = {}
    for path, _ in find_shards(folder):
        for row in pq.read_table(path, columns=["clip_id", "video_id"]).to_pylist():
            if row["clip_id"] in done.moved:
                splits[row["video_id"]] = done.moved[row["clip_id"]].now
    chosen = [plan for plan in plans if plan.video_id in splits and plan.draws_pictures]
    if not chosen:
        return {}
    made = redraw(chosen, splits)
    return {clip: made.slice(k, 1) for k, clip in enumerate(made["clip_id"].to_pylist())}


def _row(row: pa.Table, clip: str, done: Settled, drawn: Mapping[str, pa.RecordBatch]) -> pa.Table:
    """Return a table of one row as it was decided."""
    changed: dict[str, Any] = {}
    if clip in done.moved:
        if clip in drawn:
            row = pa.Table.from_batches([drawn[clip]]).cast(row.schema)
        changed["split"] = done.moved[clip].now
    if clip in done.excluded:
        changed |= {"kept": False, "reason": done.excluded[clip]}
    for name, value in changed.items():
        index = row.schema.get_field_index(name)
        cell = pa.array([value], row.schema.field(name).type)
        row = row.set_column(index, row.schema.field(name), cell)
    return row
