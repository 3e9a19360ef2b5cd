"""The first stage: cut the clips of a source into the clips table.

Every planned clip becomes a row, kept or not; a clip that is not kept has a reason, decoder errors
included. Shards are written atomically, so a stopped build resumes and gives the same bytes as an
uninterrupted one.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from nano4m.compute.workers import count_workers, worker_pool
from nano4m.config.clips import ClipsConfig
from nano4m.config.run import Config
from nano4m.config.section import Section
from nano4m.data.clip_counts import (
    MANIFEST,
    ClipCounts,
    log_counts,
    write_manifest,
)
from nano4m.data.clip_ids import window_id
from nano4m.data.clip_shards import (
    FORMAT,
    read_about,
    shard_path,
    shard_paths,
    to_batch,
    write_batches,
)
from nano4m.data.cut import cut_windows
from nano4m.data.duplicates import without_duplicates
from nano4m.data.plan_checks import check_planned, least_clips
from nano4m.data.sources import source
from nano4m.data.sources.base import ClipPlan, ClipPlans
from nano4m.data.sources.file_record import FileRecord
from nano4m.errors import BadMedia, UserError
from nano4m.failures import is_of_machine
from nano4m.progress import bar, log_info
from nano4m.storage.damage import DamagedFile
from nano4m.storage.replaced import ways_on

SHARD_CLIPS = 256
"""Recordings per shard; a stopped build loses at most one shard and the pieces in progress."""

LATER = {"search_seconds", "group_by", "split_column", "windows_per_recording"}
"""Options that came after the first tables: with their defaults the clips are those of before."""

PIECE_CLIPS = 64
"""Most encoded clips that a worker returns at once."""

AHEAD = 4
"""Pieces per worker that are in progress or wait to be written; this bounds the memory."""

MakePiece = Callable[[Sequence[ClipPlan]], pa.RecordBatch]


def make_rows(
    plan: ClipPlan, *, name: str, settings: object, clips: ClipsConfig
) -> list[dict[str, Any]]:
    """Return the rows of one recording, one a window; an error in its media becomes a ``reason``.

    There is at least one. All have the plan's caption, label and split, and ids of ``window_id``.

    Raises:
        UserError: The settings are wrong for all clips.
    """
    row: dict[str, Any] = {
        "clip_id": plan.clip_id,
        "source": plan.source,
        "video_id": plan.video_id,
        "group": plan.group or plan.video_id,
        "start_s": plan.start_s,
        "label": plan.label,
        "caption": plan.caption,
        "captions": list(plan.captions) if plan.more_captions else None,
        "split": plan.split,
        "licence": plan.licence,
        "measures": dict(plan.measures),
        "kept": False,
        "reason": None,
        "left_out": None,
    }
    if plan.reason:
        return [row | {"reason": plan.reason}]
    try:
        raw = source(name).load(plan, settings)
        windows = list(cut_windows(raw, clips))
    except UserError:
        raise
    except BadMedia as error:
        return [row | {"reason": str(error)}]
    except Exception as error:  # one bad clip becomes a row with a reason, not a crash
        if is_of_machine(error):
            raise
        return [row | {"reason": f"{type(error).__name__}: {error}"}]
    row["left_out"] = "; ".join(raw.left_out) or None
    row["measures"] |= raw.measures
    return [_window_row(row, number, columns) for number, columns in enumerate(windows)]


def _window_row(row: Mapping[str, Any], number: int, columns: dict[str, Any]) -> dict[str, Any]:
    found = {**row, "clip_id": window_id(row["clip_id"], number)} | columns
    start = row["start_s"] + found.pop("offset_s", 0.0)
    return found if "reason" in columns else found | {"start_s": start, "kept": True}


def make_piece(plans: Sequence[ClipPlan], **settings: Any) -> pa.RecordBatch:
    """Return the rows of some recordings (``make_rows``) as one piece of a shard."""
    return to_batch([row for plan in plans for row in make_rows(plan, **settings)])


# -- the pool ----------------------------------------------------------------------------------


@contextmanager
def _mapper(
    make: MakePiece, workers: int
) -> Iterator[Callable[[Iterator[Sequence[ClipPlan]]], Iterator[pa.RecordBatch]]]:
    """Yield a function that maps ``make`` over pieces in order, in this process or in a pool."""
    if workers == 0:
        yield lambda pieces: map(make, pieces)
        return
    with worker_pool(workers) as pool:

        def in_order(pieces: Iterator[Sequence[ClipPlan]]) -> Iterator[pa.RecordBatch]:
            waiting: deque[Any] = deque()
            for piece in pieces:
                waiting.append(pool.submit(make, piece))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield in_order


def _piece_clips(clips: int, workers: int) -> int:
    """Return the clips of one piece; few for a small table, so that workers get equal shares."""
    return max(4, min(PIECE_CLIPS, clips // (4 * max(1, workers))))


def _cut_up(parts: Sequence[Sequence[ClipPlan]], size: int) -> Iterator[Sequence[ClipPlan]]:
    """Yield the shards cut into pieces; no piece spans two shards."""
    for part in parts:
        for start in range(0, len(part), size):
            yield part[start : start + size]


# -- checks ------------------------------------------------------------------------------------


def plan_clips(config: Config, data: Path | None) -> Sequence[ClipPlan]:
    """Return the checked plan of a run.

    Raises:
        UserError: As ``check_plans``, or a split that is needed has too few clips.
    """
    plans = source(config.dataset.name).plan(config.dataset, data, config.seed)
    check_planned(plans, config)
    return plans


def _check_kept(tally: ClipCounts, config: Config, out: Path) -> None:
    by_split = tally.by_split()
    empty = [s for s, least in least_clips(config).items() if by_split.get(s, [0])[0] < least]
    if empty:
        listed = "; ".join(f"{count} x {reason}" for reason, count in tally.reasons.most_common())
        planned = {split: count for split, (_, count) in by_split.items()}
        raise UserError(
            f"too few clips for {', '.join(empty)}: kept {tally.kept.total()} of "
            f"{tally.planned.total()}, planned {planned}. "
            f"Reasons: {listed or 'none, the source plans no clip there'}. See {out / MANIFEST}; "
            f"fix the media or the settings and run nano4m clips {config.preset} --overwrite"
        )


def _as_before(section: Section) -> dict[str, Any]:
    """Return the settings of a section, without those of LATER that have their default."""
    fields = type(section).model_fields
    found = section.model_dump(mode="json", exclude={"workers"})
    return {k: v for k, v in found.items() if k not in LATER or v != fields[k].default}


def _fingerprint(
    config: Config, plans: Sequence[ClipPlan], listing: Mapping[str, Any] | None
) -> str:
    """Return a hash of settings, seed, plan and files, without their location."""
    settings = {
        "format": FORMAT,
        "seed": config.seed,
        "source": _as_before(config.dataset),
        "clips": _as_before(config.clips),
        "files": listing,
        "plans": [
            [p.clip_id, p.video_id, p.group, p.label, p.caption, p.split, dict(p.measures)]
            + list(p.more_captions)
            for p in plans
        ],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _to_do(out: Path, count: int, fingerprint: str) -> list[int]:
    """Return the numbers of the missing shards.

    Raises:
        UserError: An existing shard belongs to other settings.
    """
    for path in shard_paths(out):
        try:
            found = read_about(path)["fingerprint"]
        except DamagedFile as error:
            log_info(f"clips: {path} is damaged ({error.what}), so it is made again")
            path.unlink()
            continue
        if found != fingerprint:
            raise UserError(
                f"{out} holds clips of other settings or data (fingerprint {found}, this run "
                f"{fingerprint}); {ways_on(out.parent, out.name)}"
            )
    return [index for index in range(count) if not shard_path(out, index).exists()]


# -- the stage ---------------------------------------------------------------------------------


def build_clips(
    config: Config,
    data: Path | None,
    out: Path,
    listing: Mapping[str, Any] | None = None,
    record: FileRecord | None = None,
) -> dict[str, Any]:
    """Cut the clips of ``config.dataset`` into a clips table in ``out``; resume an unfinished one.

    Args:
        config: Of the run; the sections dataset and clips and the seed decide what is written.
        data: Folder of the source's own media; None if it needs none.
        out: Folder of the table.
        listing: Files in ``data``, see ``sources.listing``; shards of two listings do not mix.
        record: What remembers the contents of the files that are read; None: nothing does.

    Returns:
        Counts: clips, kept, by_split and by_label ({name: [kept, planned]}), reasons
        ({reason: count}), files_not_read ({reason: {class: count}}), duplicates, a sentence, and
        moved ({"from val to train": count}).

    Raises:
        UserError: The data or the folder are invalid, or a required split has too few clips left;
            the reasons are listed.
    """
    plans = plan_clips(config, data)
    fingerprint = _fingerprint(config, plans, listing)
    count = -(-len(plans) // SHARD_CLIPS)
    todo = _to_do(out, count, fingerprint)
    make = partial(
        make_piece, name=config.dataset.name, settings=config.dataset, clips=config.clips
    )
    left = [plans[i * SHARD_CLIPS : (i + 1) * SHARD_CLIPS] for i in todo]
    to_make = sum(map(len, left))
    workers = min(count_workers(config.clips.workers), to_make)
    size = _piece_clips(to_make, workers)
    pieces = _cut_up(left, size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if record:
            record.begin(out, is_resumed=len(todo) < count)
        with (
            bar("clips", len(plans), "clip", len(plans) - to_make) as progress,
            _mapper(make, workers) as made,
        ):
            batches = made(pieces)
            for index, part in zip(todo, left, strict=True):
                rows: list[pa.RecordBatch] = []
                for start in range(0, len(part), size):
                    rows.append(next(batches))
                    progress.advance(min(size, len(part) - start))
                if record:
                    record.add(out, part)
                write_batches(
                    out,
                    index,
                    rows,
                    sample_rate=config.clips.sample_rate,
                    num_shards=count,
                    fingerprint=fingerprint,
                )
        if record:
            # Those of shards that an earlier version has cut.
            record.add(out, plans)
        duplicates = without_duplicates(config, out, plans, make, fingerprint)
        tally = write_manifest(out)
    except OSError as error:
        raise UserError(
            f"cannot write clips to {out}: {error.strerror or error}; it must be a folder that you "
            "may write to, on a disk with some 50 kB free a clip"
        ) from error
    log_counts(tally, out)
    _check_kept(tally, config, out)
    unread = plans.unread if isinstance(plans, ClipPlans) else {}
    return tally.summary() | {"files_not_read": unread} | duplicates
