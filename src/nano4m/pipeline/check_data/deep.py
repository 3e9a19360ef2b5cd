"""A check that decodes: the clips of a run are cut into a folder that is removed afterwards."""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nano4m.compute.workers import ahead, count_readers
from nano4m.config.run import Config
from nano4m.data.build import build_clips
from nano4m.data.clip_counts import ClipCounts
from nano4m.data.clip_shards import manifest_shards
from nano4m.data.duplicate_rules import DUPLICATE
from nano4m.data.duplicates import read_settled
from nano4m.errors import BadMedia, UserError
from nano4m.media.sound_file import read_sound
from nano4m.pipeline.check_data.facts import FolderCheck, counted, spread
from nano4m.pipeline.check_data.planned import Planned
from nano4m.progress import collected_log, track

FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
"""Share of samples at full scale from which on a recording is clipped."""

OTHER_LENGTH = 0.1
"""Share by which a length differs from that of the header before it is named."""

FIRST = 3
"""Names that are listed."""


def decode(check: FolderCheck, config: Config, planned: Planned, data: Path) -> None:
    """Cut all clips as a run would, and set ``check.decoded`` and what is lost in ``planned``.

    ``decoded`` has clips ([kept, planned]), by_class_and_split ("cat, val" -> [kept, planned]),
    reasons (reason -> clips that are not kept), files_left_out (file and reason -> clips that have
    another one instead), duplicates (left out as they are in two splits: count, first), moved (into
    the split of another that they are one with: count, first), lengths (files, seconds, shortest,
    median, longest, as decoded), other_lengths (recordings that are not as long as their header
    says: count, first), clipped (count, first) and level_db (of the windows: quietest, median,
    loudest).
    """
    with tempfile.TemporaryDirectory(prefix="nano4m-check-data-") as made:
        folder = Path(made) / "clips"
        with collected_log():
            try:
                build_clips(config, data, folder)
            except UserError as error:
                check.refuse(str(error).split(f" See {folder}")[0])
            try:
                rows = [row for shard in manifest_shards(folder) for row in shard]
            except UserError:
                return
        settled = read_settled(folder)
    tally = ClipCounts()
    for row in rows:
        tally.add(row)
    planned.lost = {row["clip_id"]: row["reason"] for row in rows if not row["kept"]}
    moved = settled[0].moved if settled else {}
    # A row is a window; the first has the id of its recording's plan.
    recorded = {plan.clip_id: plan for plan in planned.plans}
    planned.plans[:] = [
        replace(
            recorded[re.sub(r"\.w\d+$", "", row["clip_id"])]
            if row["clip_id"] not in recorded
            else recorded[row["clip_id"]],
            clip_id=row["clip_id"],
            split=row["split"],
        )
        for row in rows
    ]
    same = [
        f"{clip}: {why.removeprefix(f'{DUPLICATE}: ')}"
        for clip, why in planned.lost.items()
        if why.startswith(f"{DUPLICATE}:")
    ]
    levels = [row["rms_db"] for row in rows if row["rms_db"] is not None]
    check.decoded = {
        "clips": [tally.kept.total(), tally.planned.total()],
        "by_class_and_split": tally.by_label_and_split(),
        "reasons": dict(tally.reasons.most_common()),
        "files_left_out": dict(tally.left_out.most_common()),
        "duplicates": {"count": len(same), "first": same[:FIRST]},
        "moved": {
            "count": len(moved),
            "first": [f"{clip} {move}" for clip, move in moved.items()][:FIRST],
        },
        "level_db": _levels(levels),
        **_sounds(planned),
    }


def _levels(levels: Sequence[float]) -> dict[str, float]:
    found = spread([float(level) for level in levels], 1)
    names = {"shortest": "quietest", "median": "median", "longest": "loudest"}
    return {names[key]: value for key, value in found.items()}


class _Heard(NamedTuple):
    """Length of a recording, and its share of samples at full scale."""

    path: str
    seconds: float
    full: float


def _hear(path: str) -> _Heard | None:
    try:
        sound, rate = read_sound(Path(path))
    except BadMedia:
        return None
    full = float((np.abs(sound) >= FULL_SCALE).mean()) if sound.size else 0.0
    return _Heard(path, len(sound) / rate, full)


def _sounds(planned: Planned) -> dict[str, Any]:
    """Return lengths and clipping of all sounds that are no films, decoded whole."""
    paths = [str(p.details["file"]) for p in planned.plans if "file" in p.details]
    films = {str(p.details["file"]) for p in planned.plans if p.details.get("is_video")}
    sounds = [path for path in dict.fromkeys(paths) if path not in films]
    heard = ahead(_hear, sounds, min(2, count_readers()))
    found = [own for own in track(heard, "lengths", len(sounds), "files") if own]
    other = []
    for own in found:
        header = planned.headers.get(own.path)
        if header and header.seconds and abs(own.seconds / header.seconds - 1) > OTHER_LENGTH:
            name = Path(own.path).name
            other.append(f"{name}: {own.seconds:.2f} s, and its header says {header.seconds:.2f} s")
    clipped = [Path(own.path).name for own in found if own.full > CLIPPED_SHARE]
    seconds = [own.seconds for own in found]
    return {
        "lengths": {"files": len(found), "seconds": round(sum(seconds), 1)} | spread(seconds),
        "other_lengths": {"count": len(other), "first": other[:FIRST]},
        "clipped": {"count": len(clipped), "first": clipped[:FIRST]},
    }


def warnings_of_decoded(check: FolderCheck) -> list[str]:
    """Return what of the decoded media looks like a mistake, a sentence each."""
    decoded = check.decoded or {}
    texts = {
        "moved": ("clip", "with the sound or picture of one of another split, moved into that"),
        "duplicates": ("clip", "with the sound or picture of one of another split, left out"),
        "other_lengths": ("recording", "not as long as its header says"),
        "clipped": ("recording", "clipped: many samples are at full scale"),
    }
    found = [
        f"{counted(own['count'], noun)} {text} (first {own['first'][0]})"
        for name, (noun, text) in texts.items()
        if (own := decoded.get(name)) and own["count"]
    ]
    silent: Counter[str] = Counter(decoded.get("reasons", {}))
    if silent["silent"]:
        found.append(f"{counted(silent['silent'], 'silent clip')}")
    return found
