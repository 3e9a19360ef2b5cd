"""A check as tables on the console."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nano4m.pipeline.check_data.facts import FolderCheck, counted
from nano4m.pipeline.check_data.words import (
    LINES,
    class_head,
    class_rows,
    left_out_line,
    verdict,
)
from nano4m.report.markup import short

MOST_CLASSES = 40
MOST_REASONS = 20


def as_tables(check: FolderCheck) -> RenderableType:
    """Return what rich prints of a check."""
    parts: list[RenderableType] = [_facts(check)]
    if check.classes:
        parts += ["", _classes(check)]
    if check.left_out:
        parts += ["", _left_out(check)]
    if check.warnings:
        parts += ["", Text("look at", style="bold"), _warnings(check)]
    parts += ["", Text(verdict(check), style="bold green" if check.ok else "bold red")]
    return Group(*parts)


def _warnings(check: FolderCheck) -> Table:
    table = Table.grid(padding=(0, 1))
    for warning in check.warnings:
        table.add_row(Text("!", style="yellow"), Text(warning))
    return table


def _facts(check: FolderCheck) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in LINES.items():
        if said := line(check):
            table.add_row(name, Text(said))
    return table


def _classes(check: FolderCheck) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    head = class_head(check)
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i else "left", overflow="fold")
    rows = class_rows(check)
    for label, cells in rows[:MOST_CLASSES]:
        table.add_row(Text(label), *(short(cell) if cell else "" for cell in cells))
    if len(rows) > MOST_CLASSES:
        table.add_row(Text(f"and {len(rows) - MOST_CLASSES} more (--json, --html)"))
    return table


def _left_out(check: FolderCheck) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("left out", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    table.add_column("first", overflow="fold", ratio=1)
    for own in check.left_out[:MOST_REASONS]:
        name = own["first"][0] if own["first"] else ""
        count = counted(own["count"], own["what"].removesuffix("s"))
        table.add_row(count, Text(left_out_line(own)), Text(name))
    more = len(check.left_out) - MOST_REASONS
    if more > 0:
        table.add_row("", Text(f"and {more} more reasons (--json, --html)"))
    return table
