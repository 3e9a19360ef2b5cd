"""Groups of a folder's recordings and pictures; each group must be in one split."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.copies import find_copies
from nano4m.data.sources.folder_contents import Contents, Picture, Recording
from nano4m.data.sources.name_groups import groups_by_name
from nano4m.media.gate import printable
from nano4m.progress import log_info


class _Union:
    """Disjoint sets of names (union-find); a set is named by its alphabetically first member."""

    def __init__(self) -> None:
        self.above: dict[str, str] = {}

    def find(self, name: str) -> str:
        above = self.above.setdefault(name, name)
        while above != (further := self.above[above]):
            self.above[name] = name = above = further
        return above

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self.above[second] = first


def _joined(recordings: Iterable[Recording], pictures: Iterable[Picture]) -> _Union:
    """Return the groups of recordings, joined with those of the pictures paired with them."""
    union = _Union()
    groups = {picture.name: picture.group for picture in pictures}
    for recording in recordings:
        union.find(recording.group)
        for name in recording.pictures:
            union.join(recording.group, groups.get(name, name))
    return union


def _largest(recordings: Iterable[Recording], union: _Union) -> dict[str, float]:
    """Return the share of each class's recordings that is in its largest group."""
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        sizes[recording.label][union.find(recording.group)] += 1
    return {label: max(own.values()) / own.total() for label, own in sizes.items()}


def _named_after(contents: Contents, union: _Union) -> Contents:
    return replace(
        contents,
        recordings=[replace(r, group=union.find(r.group)) for r in contents.recordings],
        pictures=[replace(p, group=union.find(p.group)) for p in contents.pictures],
    )


def find_groups(contents: Contents, settings: FolderDataset) -> Contents:
    """Return contents in which everything has a group.

    A group is what a column says, else what the names say (``name_groups``), else the file itself.
    Copies of one file are of one group.
    """
    if settings.group_by == "auto":
        contents = groups_by_name(contents)
    contents = replace(
        contents,
        recordings=[replace(r, group=r.group or r.name) for r in contents.recordings],
        pictures=[replace(p, group=p.group or p.name) for p in contents.pictures],
    )
    return _join_copies(contents)


def _join_copies(contents: Contents) -> Contents:
    """Return contents in which copies are of one group, unless most of a class is copies."""
    items: list[Recording | Picture] = [*contents.recordings, *contents.pictures]
    groups = {item.path: item.group for item in items}
    sets = find_copies(sorted(groups, key=lambda path: path.as_posix()))
    if not sets:
        return contents
    union = _Union()
    for paths in sets:
        for path in paths[1:]:
            union.join(groups[paths[0]], groups[path])
    files = sum(map(len, sets))
    before, after = _largest(contents.recordings, _Union()), _largest(contents.recordings, union)
    if any(after[label] > max(0.5, before[label]) for label in after):
        log_info(
            f"folder: {files} files are copies of {len(sets)}, which is most of a class; they are "
            "not kept in one split, and clips that are found in two splits are left out"
        )
        return contents
    log_info(
        f"folder: {files} files are copies of {len(sets)} (first "
        f"{', '.join(printable(path.name) for path in sets[0][:2])}); copies are of one recording"
    )
    return _named_after(contents, union)


def join_groups(contents: Contents, settings: FolderDataset) -> Contents:
    """Return contents with groups such that splits by group share nothing.

    A group holds all recordings and pictures of one recording group, and those linked to them by a
    pairing of a picture with a sound. If the pairings of a class leave too few of its recordings to
    hold out, they are dropped with a message: its sounds then draw from the pictures of the class.
    """
    recordings = contents.recordings
    most = 1 - settings.val_share - settings.test_share
    paired = _largest(recordings, _joined(recordings, contents.pictures))
    alone = _largest(recordings, _Union())
    by_class = {label for label, share in paired.items() if share > most >= alone[label]}
    if by_class:
        log_info(
            f"pictures of {', '.join(sorted(by_class))} are paired with so many sounds each that "
            "too few sounds could be set aside; these sounds draw from the pictures of their class"
        )
    recordings = [replace(r, pictures=()) if r.label in by_class else r for r in recordings]
    joined = replace(contents, recordings=recordings)
    return _named_after(joined, _joined(recordings, contents.pictures))
