"""Clips of a user's folder, split by group of recordings and by picture, fixed by the seed."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.base import ClipPlan, ClipPlans, RawMedia, Split
from nano4m.data.sources.folder_contents import Contents, Picture, Recording, log_contents
from nano4m.data.sources.folder_groups import find_groups, join_groups
from nano4m.data.sources.folder_layouts import find_contents
from nano4m.data.sources.folder_splits import (
    given_splits,
    names_rng,
    prefer_full,
    split_pictures,
    split_recordings,
    without_given_val,
)
from nano4m.errors import BadMedia, UserError
from nano4m.media.film import is_sound
from nano4m.media.picture import read_picture
from nano4m.progress import log_info

SPARE = 4
"""Spare pictures of a sound, used if some cannot be read."""

LARGE_POOL = 4096
"""Pools with more pictures are not permuted as a whole for every sound."""

LONGEST_ID = 120
"""Letters of a clip id; a longer one is cut and has a hash."""


def _clip_id(key: str) -> str:
    """Return ``key`` if it is short and its characters are allowed, else a form with its hash."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", key)
    if readable == key and len(key) <= LONGEST_ID:
        return key
    return f"{readable[:LONGEST_ID]}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _enough(contents: Contents, least: int) -> Contents:
    """Return contents without classes of fewer than ``least``; log these.

    A class is as large as it has recordings, or pictures where it has none.
    """
    recorded = Counter(recording.label for recording in contents.recordings)
    counts = {
        label: recorded[label] or count
        for label, count in (Counter(p.label for p in contents.pictures) | recorded).items()
    }
    for label, count in sorted(counts.items()):
        if count < least:
            kind = "recordings" if recorded[label] else "pictures and no recording"
            log_info(
                f"class {label!r} left out: {count} {kind}, --dataset.min-per-class is {least}"
            )
    if max(counts.values()) < least:
        raise UserError(
            f"no class has {least} recordings ({dict(sorted(counts.items()))}); add recordings or "
            "lower --dataset.min-per-class"
        )
    items: list[Recording | Picture] = [*contents.recordings, *contents.pictures]
    unread = contents.unread.copy()
    why = f"a class with fewer than {least}, see --dataset.min-per-class"
    for item in items:
        if counts[item.label] < least:
            unread.add(item.label, why, item.name)
    return replace(
        contents,
        recordings=[r for r in contents.recordings if counts[r.label] >= least],
        pictures=[p for p in contents.pictures if counts[p.label] >= least],
        unread=unread,
    )


def pair_by_name(contents: Contents) -> Contents:
    """Return contents in which a recording has the pictures of its class, split and name.

    Only where a list says no pictures of it, and in a class most of whose sounds have one: where
    fewer do, as of 96 sounds and 8 pictures that are all numbered from 0, names agree by chance
    and the pictures are for all sounds. Pictures that cannot be opened are none.
    """
    there = {picture.name for picture in contents.pictures}
    named: dict[tuple[str, str, Split | None], list[str]] = defaultdict(list)
    for picture in contents.pictures:
        named[picture.label, picture.stem, picture.split].append(picture.name)
    sounds = [r for r in contents.recordings if not r.is_video]
    every = Counter(r.label for r in sounds)
    agreeing = Counter(r.label for r in sounds if (r.label, r.stem, r.split) in named)
    recordings = []
    for r in contents.recordings:
        listed = tuple(name for name in r.pictures if name in there)
        is_paired = r.is_video or 2 * agreeing[r.label] >= every[r.label]
        found = named.get((r.label, r.stem, r.split), ()) if is_paired else ()
        recordings.append(replace(r, pictures=listed or tuple(found)))
    return replace(contents, recordings=recordings)


def _draw(pool: Sequence[Picture], count: int, seed: int, key: str) -> list[str]:
    """Return the paths of pictures for a sound, drawn without replacement."""
    rng = names_rng(seed, "draw", key)
    if len(pool) <= LARGE_POOL:
        chosen = rng.permutation(len(pool))[:count]
    else:
        chosen = rng.choice(len(pool), count, replace=False, shuffle=True)
    return [str(pool[i].path) for i in chosen]


def plan(settings: FolderDataset, data: Path | None, seed: int) -> ClipPlans:
    """Return the clips of a folder, see ``plan_contents``.

    Raises:
        UserError: ``data`` is missing, empty or of an unknown layout, or no class is large enough.
    """
    return plan_contents(find_contents(data, settings), settings, seed)


def plan_contents(found: Contents, settings: FolderDataset, seed: int) -> ClipPlans:
    """Return one clip a recording; sounds are paired with pictures of their class and split.

    A picture belongs to the sound of its name, where there is one; other sounds draw from the
    pictures of their class and split. A sound without a picture, and each picture of a class
    without recordings, is a clip of its own: ``clips.require`` decides whether it is kept.

    Raises:
        UserError: No class is large enough.
    """
    log_contents(found)
    contents = find_groups(pair_by_name(_enough(found, settings.min_per_class)), settings)
    unused: Mapping[str, str] = {}
    given: Mapping[str, Split] = {}
    dealt = settings
    items: list[Recording | Picture] = [*contents.recordings, *contents.pictures]
    if any(item.split for item in items):
        dealt = settings.model_copy(update={"test_share": 0.0})
        contents, given, unused = given_splits(without_given_val(contents, settings))
    else:
        contents = join_groups(contents, settings)
    recordings = contents.recordings
    used = [recording for recording in recordings if recording.key not in unused]
    splits = split_recordings(used, dealt, seed, given)
    # A picture that is paired with one sound alone is in its split.
    owned = {name for recording in used for name in recording.pictures}
    pictures = [picture for picture in contents.pictures if picture.name not in owned]
    pools = split_pictures(prefer_full(pictures, settings.pictures_per_sound), dealt, seed, splits)
    paths = {picture.name: str(picture.path) for picture in contents.pictures}
    with_pictures = {picture.label for picture in pictures}
    plans = []
    kinds: Counter[str] = Counter()
    for recording in recordings:
        if recording.key in unused:
            plans.append(_unused(recording, unused[recording.key]))
            continue
        split = splits[recording.group]
        order = [paths[name] for name in recording.pictures]
        kind = "have the picture of their list or name"
        if not order:
            pool = pools.get((recording.label, split), [])
            order = _draw(
                pool, min(len(pool), settings.pictures_per_sound + SPARE), seed, recording.key
            )
            kind = "draw from the pictures of their class and split" if order else "have no picture"
        is_drawn = bool(order) and not recording.pictures and not recording.is_video
        kinds["are films" if recording.is_video else kind] += 1
        missing = f" left for {split}" if recording.label in with_pictures else ""
        made = _clip(recording, split, order, settings, missing)
        is_given = recording.split is not None or recording.group in given
        plans.append(replace(made, is_split_given=is_given, draws_pictures=is_drawn))
    recorded = {recording.label for recording in found.recordings}
    for (label, split), pool in sorted(pools.items()):
        if label not in recorded:
            kinds["are pictures of a class without a recording"] += len(pool)
            plans += [
                replace(_still(p, split), is_split_given=p.split is not None or p.group in given)
                for p in pool
            ]
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    log_info(f"folder: of {len(plans)} clips {told}")
    return ClipPlans(plans, contents.unread_by_reason(), kinds)


def _clip(
    recording: Recording, split: Split, order: list[str], settings: FolderDataset, missing: str
) -> ClipPlan:
    count = settings.pictures_per_sound
    return ClipPlan(
        clip_id=_clip_id(recording.key),
        source="folder",
        video_id=recording.group,
        start_s=0.0,
        label=recording.label,
        caption=recording.caption,
        more_captions=recording.more_captions,
        split=split,
        licence=recording.licence,
        details={
            "file": str(recording.path),
            "is_video": int(recording.is_video),
            "pictures": order[:count],
            "spare": order[count : count + SPARE],
            "missing": missing,
        },
    )


def in_split(
    chosen: Sequence[ClipPlan], splits: Mapping[str, str], plans: Sequence[ClipPlan]
) -> list[ClipPlan]:
    """Return clips in the splits of ``splits`` (video_id -> split), with pictures of those.

    They draw from the pictures that other sounds of the class and split draw from, those of one
    that has none left have none.
    """
    pools: dict[tuple[str, str], set[str]] = defaultdict(set)
    for plan in plans:
        if plan.draws_pictures and plan.video_id not in splits:
            for key in ("pictures", "spare"):
                pools[plan.label, plan.split] |= set(cast(list[str], plan.details[key]))
    found = []
    for plan in chosen:
        split = cast(Split, splits[plan.video_id])
        pool = sorted(pools[plan.label, split])
        count = len(cast(list[str], plan.details["pictures"]))
        rng = names_rng(0, "draw", plan.clip_id, split)
        order = [pool[i] for i in rng.permutation(len(pool))[: count + SPARE]]
        drawn: dict[str, str | int | float | list[str]] = {
            "pictures": order[:count],
            "spare": order[count:],
            "missing": f" left for {split}",
        }
        found.append(replace(plan, split=split, details=plan.details | drawn))
    return found


def _unused(recording: Recording, why: str) -> ClipPlan:
    assert recording.split is not None
    return ClipPlan(
        clip_id=_clip_id(recording.key),
        source="folder",
        video_id=f"{recording.group} ({recording.split})",
        group=recording.group,
        start_s=0.0,
        label=recording.label,
        caption=recording.caption,
        more_captions=recording.more_captions,
        split=recording.split,
        licence=recording.licence,
        reason=why,
        is_split_given=True,
    )


def _still(picture: Picture, split: Split) -> ClipPlan:
    """Return the clip of a picture that has no recording."""
    return ClipPlan(
        clip_id=_clip_id(picture.name),
        source="folder",
        video_id=picture.group,
        start_s=0.0,
        label=picture.label,
        caption=picture.caption,
        more_captions=picture.more_captions,
        split=split,
        licence="not stated",
        details={"pictures": [str(picture.path)], "spare": [], "missing": ""},
    )


def load(plan: ClipPlan, settings: FolderDataset) -> RawMedia:
    """Return one recording, which ``cut`` reads, and its pictures; a spare one replaces an
    unreadable one.

    A film has its own pictures; one without any, such as a sound in an ``.mp4``, has those that a
    sound would have.
    """
    pictures, spare = plan.details["pictures"], plan.details["spare"]
    assert isinstance(pictures, list) and isinstance(spare, list)
    recording = Path(str(plan.details["file"])) if "file" in plan.details else None
    if recording and plan.details.get("is_video") and not is_sound(recording):
        return RawMedia(sound=None, sample_rate=0, frames=(), recording=recording)
    read: list[np.ndarray] = []
    left_out: list[str] = []
    for name in [*pictures, *spare]:
        if len(read) == len(pictures):
            break
        try:
            read.append(read_picture(Path(name)))
        except BadMedia as error:
            left_out.append(str(error).replace("; ", ", "))
    why = f"none of class {plan.label!r}{plan.details['missing']}"
    if pictures and not read:
        why = f"none of class {plan.label!r} can be read, {', '.join(left_out)}"
    return RawMedia(
        sound=None,
        sample_rate=0,
        recording=recording,
        frames=tuple(read),
        left_out=tuple(left_out),
        absent={} if read else {"picture": why},
    )
