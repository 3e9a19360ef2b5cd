"""Clips of a user's folder, split by group of recordings and by picture, fixed by the seed."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.base import ClipPlan, RawMedia, Split
from nano4m.data.sources.folder_groups import join_groups
from nano4m.data.sources.folder_layouts import Contents, Picture, Recording, find_contents
from nano4m.data.sources.video import read_video
from nano4m.errors import BadMedia, UserError
from nano4m.media.picture import read_picture
from nano4m.media.sound import read_sound
from nano4m.progress import log_info

SPARE = 4
"""Spare pictures of a sound, used if some cannot be read."""


def _rng(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on the seed and these names only."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _clip_id(key: str) -> str:
    """Return ``key`` if its characters are allowed, else a readable form with a hash of it."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", key)
    if readable == key:
        return key
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _shares(
    sizes: dict[str, int], settings: FolderDataset, rng: np.random.Generator
) -> dict[str, Split]:
    """Return a split for each group such that the shares of members are near the settings.

    train gets at least one group; val, then test, get one each if there are enough.
    """
    order = [sorted(sizes)[i] for i in rng.permutation(len(sizes))]
    total = sum(sizes.values())
    dealt: dict[str, Split] = {}
    asked: list[tuple[Split, float]] = [("val", settings.val_share), ("test", settings.test_share)]
    for split, share in asked:
        target, got = share * total, 0
        for group in order:
            is_free = group not in dealt and len(dealt) < len(sizes) - 1
            # A group that would overshoot by more than it brings stays in train.
            if share and is_free and got < target and got + sizes[group] / 2 <= target:
                dealt[group] = split
                got += sizes[group]
        free = [group for group in order if group not in dealt]
        if share and not got and len(free) > 1:
            dealt[min(free, key=lambda group: sizes[group])] = split
    return {group: dealt.get(group, "train") for group in sizes}


def split_recordings(
    recordings: Sequence[Recording], settings: FolderDataset, seed: int
) -> dict[str, Split]:
    """Return the split of each group: whole groups, stratified by class.

    A class whose recordings are all of one group stays in train, with a message.
    """
    classes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for recording in recordings:
        classes[recording.label][recording.group] += 1
    splits: dict[str, Split] = {}
    for label in sorted(classes):
        # A group that also has recordings of an earlier class has its split already.
        free = {group: n for group, n in classes[label].items() if group not in splits}
        splits |= _shares(free, settings, _rng(seed, "recordings", label))
        if len(classes[label]) == 1 and settings.val_share + settings.test_share > 0:
            log_info(f"class {label!r} stays in train: all its recordings are of one group")
    return splits


def prefer_full(pictures: Sequence[Picture], least: int) -> list[Picture]:
    """Return pictures, without low-resolution ones of classes with at least ``least`` others.

    By class and not by split, so that training and test pictures are equally sharp.
    """
    full: dict[str, int] = defaultdict(int)
    for picture in pictures:
        full[picture.label] += not picture.is_lowres
    return [p for p in pictures if not p.is_lowres or full[p.label] < least]


def split_pictures(
    pictures: Sequence[Picture], settings: FolderDataset, seed: int, dealt: Mapping[str, Split]
) -> dict[tuple[str, Split], list[Picture]]:
    """Return the pictures of each class and split; no group of pictures is in two splits.

    A group that also has recordings is in their split (``dealt``: group -> split). A single
    picture of a class is in train. Low-resolution pictures are split on their own, so that each
    split has some.
    """
    strata: dict[tuple[str, bool], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for picture in pictures:
        strata[picture.label, picture.is_lowres][picture.group] += 1
    splits = dict(dealt)
    for (label, is_lowres), sizes in sorted(strata.items()):
        free = {group: n for group, n in sizes.items() if group not in splits}
        splits |= _shares(free, settings, _rng(seed, "pictures", label, str(is_lowres)))
    pools: dict[tuple[str, Split], list[Picture]] = defaultdict(list)
    for picture in pictures:
        pools[picture.label, splits[picture.group]].append(picture)
    return pools


def _enough(recordings: Sequence[Recording], least: int) -> list[Recording]:
    """Return recordings without classes of fewer than ``least``; log these."""
    counts: dict[str, int] = defaultdict(int)
    for recording in recordings:
        counts[recording.label] += 1
    for label, count in sorted(counts.items()):
        if count < least:
            log_info(
                f"class {label!r} left out: {count} recordings, --dataset.min-per-class is {least}"
            )
    kept = [recording for recording in recordings if counts[recording.label] >= least]
    if not kept:
        raise UserError(
            f"no class has {least} recordings ({dict(sorted(counts.items()))}); add recordings or "
            "lower --dataset.min-per-class"
        )
    return kept


def plan(settings: FolderDataset, data: Path | None, seed: int) -> Sequence[ClipPlan]:
    """Return one clip a recording; sounds are paired with pictures of their class and split.

    Raises:
        UserError: ``data`` is missing, empty or of an unknown layout, or no class is large enough.
    """
    contents = find_contents(data)
    assert data is not None
    enough = _enough(contents.recordings, settings.min_per_class)
    contents = join_groups(Contents(recordings=enough, pictures=contents.pictures), settings)
    recordings = contents.recordings
    splits = split_recordings(recordings, settings, seed)
    # A picture that is paired with one sound alone is in its split.
    owned = {name for recording in recordings for name in recording.pictures}
    pictures = [picture for picture in contents.pictures if picture.name not in owned]
    count = settings.pictures_per_sound
    pools = split_pictures(prefer_full(pictures, count), settings, seed, splits)
    with_pictures = {picture.label for picture in pictures}
    plans = []
    for recording in recordings:
        split = splits[recording.group]
        order = [str(data / name) for name in recording.pictures]
        if not order and not recording.is_video:
            pool = pools.get((recording.label, split), [])
            drawn = _rng(seed, "draw", recording.key).permutation(len(pool))
            order = [str(pool[i].path) for i in drawn[: count + SPARE]]
        missing = f" left for {split}" if recording.label in with_pictures else ""
        plans.append(
            ClipPlan(
                clip_id=_clip_id(recording.key),
                source="folder",
                video_id=recording.group,
                start_s=0.0,
                label=recording.label,
                caption=recording.caption,
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
        )
    return plans


def load(plan: ClipPlan, settings: FolderDataset) -> RawMedia:
    """Return one recording and its pictures; a spare one replaces an unreadable one.

    Raises:
        BadMedia: The recording is missing, empty, truncated or unreadable, has no sound, or no
            picture that can be read.
    """
    path = Path(str(plan.details["file"]))
    if plan.details["is_video"]:
        sound, rate, frames, times = read_video(path)
        return RawMedia(sound=sound, sample_rate=rate, frames=frames, frame_times=times)
    pictures, spare = plan.details["pictures"], plan.details["spare"]
    assert isinstance(pictures, list) and isinstance(spare, list)
    if not pictures:
        raise BadMedia(f"no picture of class {plan.label!r}{plan.details['missing']}")
    sound, rate = read_sound(path)
    read: list[np.ndarray] = []
    left_out: list[str] = []
    for name in [*pictures, *spare]:
        if len(read) == len(pictures):
            break
        try:
            read.append(read_picture(Path(name)))
        except BadMedia as error:
            left_out.append(str(error).replace("; ", ", "))
    if not read:
        raise BadMedia(f"no picture of class {plan.label!r} can be read: {'; '.join(left_out)}")
    return RawMedia(sound=sound, sample_rate=rate, frames=tuple(read), left_out=tuple(left_out))
