"""The split of each recording and picture: that of the folder or list, else dealt by group."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.base import Split
from nano4m.data.sources.folder_contents import Contents, Picture, Recording
from nano4m.progress import log_info

LAST_FIRST: tuple[Split, ...] = ("test", "val", "train")
"""What stands in several of the splits that a folder or list gives stays in the first of these."""


def names_rng(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on the seed and these names only."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _shares(
    sizes: dict[str, int], settings: FolderDataset, rng: np.random.Generator
) -> dict[str, Split]:
    """Return a split for each group such that the shares of members are near the settings.

    train gets at least one group; val, then test, get one each if there are enough.
    """
    names = sorted(sizes)
    order = [names[i] for i in rng.permutation(len(names))]
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
    recordings: Sequence[Recording],
    settings: FolderDataset,
    seed: int,
    given: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Return the split of each group: whole groups, stratified by class.

    Groups of ``given`` have theirs.

    A class whose recordings are all of one group stays in train, with a message.
    """
    classes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for recording in recordings:
        classes[recording.label][recording.group] += 1
    splits: dict[str, Split] = dict(given or {})
    for label in sorted(classes):
        # A group that also has recordings of an earlier class has its split already.
        free = {group: n for group, n in classes[label].items() if group not in splits}
        splits |= _shares(free, settings, names_rng(seed, "recordings", label))
        if len(classes[label]) == 1 and free and settings.val_share + settings.test_share > 0:
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
        splits |= _shares(free, settings, names_rng(seed, "pictures", label, str(is_lowres)))
    pools: dict[tuple[str, Split], list[Picture]] = defaultdict(list)
    for picture in pictures:
        pools[picture.label, splits[picture.group]].append(picture)
    return pools


# -- splits of the folder or the list ----------------------------------------------------------


def without_given_val(contents: Contents, settings: FolderDataset) -> Contents:
    """Return contents whose given train split is dealt again where no validation split is given."""
    items: list[Recording | Picture] = [*contents.recordings, *contents.pictures]
    given = {recording.split for recording in contents.recordings} - {None}
    if not given or "val" in given or not settings.val_share:
        return contents
    log_info(
        f"folder: {' and '.join(sorted(map(str, given)))} are given and no val, so "
        f"{settings.val_share:.0%} of train are for validation (--dataset.val-share)"
    )
    opened = {i.name for i in items if i.split == "train"}
    return replace(
        contents,
        recordings=[replace(r, split=None) if r.name in opened else r for r in contents.recordings],
        pictures=[replace(p, split=None) if p.name in opened else p for p in contents.pictures],
    )


def given_splits(contents: Contents) -> tuple[Contents, dict[str, Split], dict[str, str]]:
    """Return contents, the splits of their groups that are given, and what is not used.

    A recording whose group is also in a later split is not used: test counts before val, and val
    before train, so that nothing is trained on that is tested. The same goes for pictures, which
    are dropped and counted.

    Returns:
        Contents without such pictures; group -> split; key of a recording -> why it is not used.
    """
    splits: dict[str, Split] = {}
    own = {r.name: r.split for r in contents.recordings if r.split}
    for split in reversed(LAST_FIRST):
        splits |= {r.group: split for r in contents.recordings if r.split == split}
    unused = {
        r.key: f"also in {splits[r.group]}: recording {r.group}"
        for r in contents.recordings
        if own.get(r.name) and splits[r.group] != r.split
    }
    pictures, unread = _pictures_of_splits(contents, splits, unused)
    there = {picture.name for picture in pictures}
    names = {picture.name: splits.get(picture.group) for picture in pictures}
    recordings = []
    for r in contents.recordings:
        is_own = {n for n in r.pictures if n in there and names[n] in (splits.get(r.group), None)}
        recordings.append(replace(r, pictures=tuple(n for n in r.pictures if n in is_own)))
    if unused:
        log_info(
            f"folder: {len(unused)} recordings are not used, as others of their recording are in a "
            f"later split (first {next(iter(unused))}: {next(iter(unused.values()))})"
        )
    if unread:
        log_info(f"folder: {unread} pictures are not used where they are also in a later split")
    return replace(contents, recordings=recordings, pictures=pictures), splits, unused


def _pictures_of_splits(
    contents: Contents, splits: dict[str, Split], unused: Mapping[str, str]
) -> tuple[list[Picture], int]:
    """Return the pictures that stay, and how many do not; add their groups to ``splits``."""
    wanted: dict[str, set[Split]] = defaultdict(set)
    groups = {picture.name: picture.group for picture in contents.pictures}
    for picture in contents.pictures:
        if picture.split:
            wanted[picture.group].add(picture.split)
    for recording in contents.recordings:
        if recording.split and recording.key not in unused:
            for name in recording.pictures:
                wanted[groups.get(name, name)].add(recording.split)
    for group, own in wanted.items():
        splits.setdefault(group, next(split for split in LAST_FIRST if split in own))
    kept = [p for p in contents.pictures if p.split is None or splits[p.group] == p.split]
    return kept, len(contents.pictures) - len(kept)
