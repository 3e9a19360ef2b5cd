"""Progress bars with rate and time left on a terminal, and log lines."""

import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from nano4m.compute.launch import rank_of_process

_T = TypeVar("_T")


@cache
def _console() -> Console:
    # Not at import: it keeps the width of the terminal of then.
    return Console(stderr=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} {task.fields['unit']}/s" if speed else "")


class Bar:
    """Handle of one progress bar."""

    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Advance by ``count`` and show ``note`` after the bar."""
        fields = {} if note is None else {"note": note}
        self._progress.update(self._task, advance=count, **fields)  # type: ignore[arg-type]


@contextmanager
def bar(title: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Bar]:
    """Show a bar for ``total`` units of work, ``done`` of them already finished."""
    progress = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=_console(),
        # Only the process that the user started may draw on the terminal.
        disable=not (sys.stderr and sys.stderr.isatty())
        or multiprocessing.parent_process() is not None
        or rank_of_process() > 0,
    )
    with progress:
        task = progress.add_task(title, total=total, completed=done, unit=unit, note="")
        yield Bar(progress, task)


def track(items: Iterable[_T], title: str, total: int, unit: str = "it") -> Iterator[_T]:
    """Yield ``items`` while showing a bar."""
    with bar(title, total, unit) as handle:
        for item in items:
            yield item
            handle.advance()


_COLLECTING: list[list[str]] = []


@contextmanager
def collected_log() -> Iterator[list[str]]:
    """Yield a list that lines of information are added to instead of being printed."""
    lines: list[str] = []
    _COLLECTING.append(lines)
    try:
        yield lines
    finally:
        _COLLECTING.pop()


def log_info(text: str) -> None:
    """Print one line of information to standard error, terminal or not."""
    if _COLLECTING:
        _COLLECTING[-1].append(text)
        return
    _console().print(text, markup=False, highlight=False, soft_wrap=True)
