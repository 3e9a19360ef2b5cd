"""Reading a user's list: a CSV file whose rows are checked, and the files that its cells name."""

import csv
import os
import posixpath
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nano4m.data.sources.walk import Entry, plain_name
from nano4m.errors import BadMedia, UserError
from nano4m.media.gate import gated, opened, printable

_OF_WINDOWS = re.compile(r"[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells by column, and the line of the file where it begins."""

    cells: Mapping[str, str]
    line: int

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Table:
    """A list: its file, its columns and the rows that are not empty."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]

    def has(self, column: str) -> bool:
        """Whether any row says something in this column."""
        return any(row[column] for row in self.rows)


CAPTION = re.compile(r"caption(?:[ _-]?([0-9]+))?", re.IGNORECASE)
"""Names of columns of captions; one of them at least is meant by a required ``caption``."""


def read_table(path: Path, required: set[str]) -> Table:
    """Return a table of comma-separated values whose columns include ``required``.

    Cells are stripped, also of a space between a comma and a quote. Empty rows, and empty cells
    beyond the header, are skipped.

    Raises:
        UserError: It is not text, a column is missing, or a row has more cells than the header.
    """
    rows: list[Row] = []
    try:
        with opened(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            header = [cell.strip() for cell in next(reader, [])]
            there = {"caption" if CAPTION.fullmatch(name) else name for name in header}
            if not required <= there:
                raise UserError(
                    f"{printable(path)} has the columns {sorted(filter(None, header))}; "
                    f"missing {sorted(required - there)}"
                )
            line = reader.line_num + 1
            for cells in reader:
                values = [cell.strip() for cell in cells]
                if any(values):
                    _check_cells(path, line, header, values)
                    named = zip(header, values, strict=False)
                    rows.append(Row({k: v for k, v in named if k}, line))
                line = reader.line_num + 1
    except BadMedia as error:
        why = str(error.__cause__ or error)
        raise UserError(
            f"{printable(path)} is not a UTF-8 table of comma-separated values: {why}"
        ) from error
    if not rows:
        raise UserError(f"{printable(path)} has no row below its header; give one row a recording")
    return Table(path, tuple(name for name in header if name), rows)


def _check_cells(path: Path, line: int, header: list[str], values: list[str]) -> None:
    """Refuse cells without a column.

    Raises:
        UserError: With file, line and cells.
    """
    surplus = [v for i, v in enumerate(values) if v and (i >= len(header) or not header[i])]
    if surplus:
        raise UserError(
            f"{printable(path)}, line {line}: {len(values)} cells {values}, but the header has "
            f"{sum(map(bool, header))} columns; a text with a comma in it needs quotes: "
            f'"{", ".join(values[-len(surplus) - 1 :])}"'
        )


class Files:
    """Files of a folder by what a list calls them: paths are compared as paths.

    ``./a.wav``, ``a.wav``, its absolute path, ``b\\..\\a.wav`` and other Unicode forms of one
    name are one file. So is an absolute path of another place that ends like a file of the folder,
    if nothing is there or a file of the same size: the list was written before the folder was
    moved, copied or mounted here.
    """

    def __init__(self, data: Path, entries: list[Entry]) -> None:
        self.data = data
        self.paths = {entry.name: entry.path for entry in entries}
        self._sizes = {entry.name: entry.size for entry in entries}
        self._roots = (os.path.abspath(data), os.path.realpath(data))

    def find(self, text: str) -> tuple[str, Path]:
        """Return name and path of a file; the path of one that is not there leads nowhere."""
        name = self.name(text)
        return name, self.paths.get(name, self.data / name)

    def name(self, text: str) -> str:
        """Return the name of a file, equal for all that a list may call it."""
        name = self._name(text)
        if name not in self.paths and "\\" in text:
            slashed = self._name(text.replace("\\", "/"))
            return slashed if slashed in self.paths or not (self.data / text).exists() else name
        return name

    def _name(self, text: str) -> str:
        if os.path.isabs(text):
            for path in (os.path.normpath(text), os.path.realpath(text)):
                for root in self._roots:
                    if path.startswith(root + os.sep):
                        return plain_name(Path(os.path.relpath(path, root)).as_posix())
        if os.path.isabs(text) or _OF_WINDOWS.match(text):
            return self._of_elsewhere(text) or plain_name(posixpath.normpath(text))
        return plain_name(posixpath.normpath(text))

    def _of_elsewhere(self, text: str) -> str:
        """Return the file that an absolute path ends like, or ""."""
        parts = posixpath.normpath(text).split("/")
        ends = (plain_name("/".join(parts[k:])) for k in range(1, len(parts)))
        name = next((end for end in ends if end in self.paths), "")
        if name and os.path.isabs(text):
            with suppress(BadMedia), gated(Path(text)):
                # Another file than ours, which is meant.
                return name if Path(text).stat().st_size == self._sizes[name] else ""
        return name
