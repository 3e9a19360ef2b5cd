"""Captions of a list: in one column or several, in lines of a cell, in rows of the same clip."""

from collections.abc import Callable, Sequence

from nano4m.data.sources.table_file import CAPTION, Row, Table
from nano4m.errors import UserError
from nano4m.media.caption import captions_in
from nano4m.media.gate import printable
from nano4m.progress import log_info

Clip = tuple[Row, tuple[str, ...]]
"""A row of a list, and all captions of its clip."""


def clips_of(
    table: Table,
    *,
    key: str,
    file: str,
    label: str,
    name_of: Callable[[str], str],
    joined: str = "",
) -> list[Clip]:
    """Return the rows of a list that are clips, each with all captions of the clip.

    Rows of one key are one clip, and so are rows of one file that differ in their keys and captions
    alone: the first of them, with what it leaves empty from the others. If no row has a caption,
    classes are the captions; otherwise a clip without one has none.

    Args:
        table: The list.
        key, file, label: Columns: what a clip is called, its file, its class.
        name_of: Returns a path of the list in a form that can be compared.
        joined: Column whose cells (parts with ``;`` between) are those of all rows of a clip.

    Raises:
        UserError: Rows of one key differ in more than their captions.
    """
    numbers = {c: m.group(1) for c in table.columns if (m := CAPTION.fullmatch(c))}
    columns = sorted(numbers, key=lambda c: int(numbers[c] or 0))
    shared = [c for c in table.columns if c not in {key, file, joined, *columns}]
    names: dict[tuple[str, ...], str] = {}
    clips: dict[str, Clip] = {}
    for row in table.rows:
        own = tuple(dict.fromkeys(c for name in columns for c in captions_in(row[name])))
        path = name_of(row[file]) if row[file] else ""
        name = path if key == file else row[key]
        if not path or not name:
            clips[f"line {row.line}"] = row, own
            continue
        if name not in clips:
            name = names.setdefault((path, row[joined], *(row[c] for c in shared)), name)
        if name not in clips:
            clips[name] = row, own
            continue
        first, before = clips[name]
        if name_of(first[file]) != path:
            raise _differ(table, first, row, key, file)
        clips[name] = _joined(table, first, row, key, shared, joined), (*before, *own)
    found = [(row, tuple(dict.fromkeys(own))) for row, own in clips.values()]
    if not any(own for _, own in found):
        log_info(f"folder: {table.path.name} has no caption; classes are the captions")
        return [(row, captions_in(row[label])) for row, _ in found]
    _log(table, columns, found, key)
    return found


def _joined(
    table: Table, first: Row, row: Row, key: str, shared: Sequence[str], joined: str
) -> Row:
    """Return the row of a clip with what a further row adds."""
    cells = dict(first.cells)
    for column in shared:
        if first[column] and row[column] and first[column] != row[column]:
            raise _differ(table, first, row, key, column)
        cells[column] = first[column] or row[column]
    if joined:
        parts = f"{first[joined]};{row[joined]}".split(";")
        cells[joined] = ";".join(dict.fromkeys(part.strip() for part in parts if part.strip()))
    return Row(cells, first.line)


def _differ(table: Table, first: Row, row: Row, key: str, column: str) -> UserError:
    return UserError(
        f"{printable(table.path)}, lines {first.line} and {row.line}: {key} {row[key]!r} has "
        f"{column} {first[column]!r} and {row[column]!r}; rows of one clip may differ in their "
        "captions alone: give other clips another name"
    )


def _log(table: Table, columns: Sequence[str], found: Sequence[Clip], key: str) -> None:
    several = [(row, own) for row, own in found if len(own) > 1]
    if several:
        row, own = max(several, key=lambda clip: len(clip[1]))
        log_info(
            f"folder: {len(several)} of {len(found)} clips have several captions, up to {len(own)} "
            f"({row[key]}: {own[0]!r}, {own[1]!r}{', ...' if len(own) > 2 else ''})"
        )
    lines = [row for row in table.rows if any(len(captions_in(row[c])) > 1 for c in columns)]
    if lines:
        log_info(
            f"folder: {len(lines)} cells hold several lines, which are a caption each (first in "
            f"line {lines[0].line} of {table.path.name})"
        )
    without = [row for row, own in found if not own]
    if without:
        log_info(
            f"folder: {len(without)} of {len(found)} clips have no caption (first in line "
            f"{without[0].line} of {table.path.name})"
        )
