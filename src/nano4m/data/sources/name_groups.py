"""Recordings that files are cut from, as their names say it, where nothing else does."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nano4m.data.sources.folder_contents import Contents, Picture, Recording
from nano4m.progress import log_info

VIDEO_ID = re.compile(r"(?P<id>[A-Za-z0-9_-]{11})[_-]\d+(?:\.\d+)?(?:[_-]\d+(?:\.\d+)?)?")
"""An 11-letter YouTube id and a start, perhaps an end: AudioSet, VGGSound and AudioCaps."""

NUMBERED = re.compile(r"(?P<name>.+?)[_-]\d{3,}", re.DOTALL)
"""A name and a number of three or more digits."""

FEWEST_GROUPS = 5
LARGEST_SHARE = 0.2
"""Of a class's recordings in one group, where the names are taken for those of groups."""


def _last(stem: str) -> tuple[str, str]:
    above, _, last = stem.rpartition("/")
    return (f"{above}/" if above else "", last)


def video_id(stem: str) -> str:
    """Return the YouTube id that a name begins with, or "".

    An id is random: it has capitals, small letters and digits or signs (1 in 9 does not, and such
    a name is looked at as NAME_NNN). ``dog_barking_0001`` has none.
    """
    found = VIDEO_ID.fullmatch(_last(stem)[1])
    if not found:
        return ""
    text = found["id"]
    kinds = (r"[A-Z]", r"[a-z]", r"[0-9_-]")
    return text if all(re.search(kind, text) for kind in kinds) else ""


def numbered_name(stem: str) -> str:
    """Return the NAME of NAME_NNN or NAME-NNN, with the folders above it, or ""."""
    above, last = _last(stem)
    found = NUMBERED.fullmatch(last)
    return above + found["name"] if found else ""


def _ids_of(stems: Iterable[str]) -> set[str]:
    """Return the YouTube ids of a folder: where most are plainly random, all of the form are."""
    forms = [found["id"] for s in stems if (found := VIDEO_ID.fullmatch(_last(s)[1]))]
    sure = {video_id(f"{text}_0") for text in set(forms)} - {""}
    if len(sure) > len(set(forms)) / 2:
        return set(forms)
    return sure


def _numbered(stems: Sequence[str]) -> dict[str, str]:
    """Return stem -> NAME for one class, or nothing where names are no groups."""
    names = {stem: numbered_name(stem) or stem for stem in stems}
    sizes = Counter(names.values())
    if len(sizes) < FEWEST_GROUPS or max(sizes.values()) > LARGEST_SHARE * len(stems):
        return {}
    return {stem: name for stem, name in names.items() if name != stem}


def groups_by_name(contents: Contents) -> Contents:
    """Return contents whose recordings and pictures without a group have one from their names.

    A YouTube id with a start is a group; NAME_NNN is of group NAME where this gives a class at
    least ``FEWEST_GROUPS`` groups and none holds more than ``LARGEST_SHARE`` of it. What has a
    split already is only looked at for ids. How many files are of how many recordings is logged.
    """
    free: list[Recording | Picture] = [r for r in contents.recordings if not r.group]
    free += [p for p in contents.pictures if not p.group]
    ids = _ids_of(item.stem for item in free)
    groups: dict[str, str] = {}
    rest: dict[tuple[bool, str], list[Recording | Picture]] = defaultdict(list)
    for item in free:
        found = VIDEO_ID.fullmatch(_last(item.stem)[1])
        if found and found["id"] in ids:
            groups[item.name] = found["id"]
        elif item.split is None:
            rest[isinstance(item, Picture), item.label].append(item)
    names_of: dict[str, set[str]] = {}
    # Recordings come first: a picture whose name is that of a recording's group is of that group.
    for (is_picture, label), items in sorted(rest.items(), key=lambda pair: pair[0]):
        named = _numbered([item.stem for item in items])
        if not is_picture:
            names_of[label] = set(named.values())
        for item in items:
            own = numbered_name(item.stem)
            if item.stem in named:
                groups[item.name] = named[item.stem]
            elif is_picture and own and own in names_of.get(label, ()):
                groups[item.name] = own
    _log_groups([r for r in contents.recordings if r.name in groups and not r.group], groups)
    return replace(
        contents,
        recordings=[
            replace(r, group=r.group or groups.get(r.name, "")) for r in contents.recordings
        ],
        pictures=[replace(p, group=p.group or groups.get(p.name, "")) for p in contents.pictures],
    )


def _log_groups(recordings: Sequence[Recording], groups: dict[str, str]) -> None:
    by_group: dict[str, list[str]] = defaultdict(list)
    for recording in recordings:
        by_group[groups[recording.name]].append(recording.name)
    if not by_group:
        return
    largest = max(sorted(by_group), key=lambda group: len(by_group[group]))
    own = sorted(by_group[largest])
    example = f"{own[0]} and {own[1]}" if len(own) > 1 else own[0]
    log_info(
        f"folder: {len(recordings)} files of {len(by_group)} recordings by their names, such as "
        f"{example} of {largest}; --dataset.group-by off takes each file for its own"
    )
