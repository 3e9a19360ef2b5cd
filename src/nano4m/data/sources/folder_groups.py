"""Groups of a folder's recordings and pictures; each group must be in one split."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources.folder_layouts import Contents, Picture, Recording
from nano4m.progress import log_info


class _Union:
    """Disjoint sets of names (union-find); a set is named by its alphabetically first member."""

    def __init__(self) -> None:
        self.above: dict[str, str] = {}

    def find(self, name: str) -> str:
        above = self.above.setdefault(name, name)
        if above != name:
            self.above[name] = above = self.find(above)
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
    union = _joined(recordings, contents.pictures)
    return Contents(
        recordings=[replace(r, group=union.find(r.group)) for r in recordings],
        pictures=[replace(p, group=union.find(p.group)) for p in contents.pictures],
    )
