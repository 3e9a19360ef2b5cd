"""Counts of the files of a folder that are not read, with the names of the first ones."""

from collections import Counter
from collections.abc import Mapping

FIRST_NAMES = 3
"""Files of each class and reason whose names are kept."""


class Unread(Counter[tuple[str, str]]):
    """Files that are not read: (class or "", reason) -> how many.

    ``first`` has the names of the first FIRST_NAMES of each.
    """

    def __init__(self, given: Mapping[tuple[str, str], int] | None = None) -> None:
        super().__init__(given or {})
        self.first: dict[tuple[str, str], list[str]] = {}

    def add(self, label: str, why: str, name: str) -> None:
        """Count one file."""
        self[label, why] += 1
        names = self.first.setdefault((label, why), [])
        if len(names) < FIRST_NAMES:
            names.append(name)

    def copy(self) -> "Unread":
        """Return a copy that counts on its own."""
        copied = Unread(self)
        copied.first = {key: list(names) for key, names in self.first.items()}
        return copied

    def names_of(self, why: str) -> list[str]:
        """Return the names of the first files with a reason, of all classes."""
        return [n for (_, own), names in self.first.items() if own == why for n in names]
