"""Standard streams as a program can find them: closed, full, ASCII only, a terminal that is gone.

Messages go to standard error, and none is worth the work that it tells of: where it cannot be
written it is lost. Results go to standard output, and the user must know if they are not there.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from nano4m.errors import UserError

NARROWEST, WIDEST = 40, 1000
"""Columns for which help and progress bars are laid out; rich does not end with one or two."""


class _Stream:
    """Writes to another stream what its encoding has; everything else is the other's."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def _write(self, text: str) -> int:
        try:
            return self._target.write(text)
        except UnicodeEncodeError:
            encoding = self._target.encoding
            return self._target.write(text.encode(encoding, "backslashreplace").decode(encoding))


class _Messages(_Stream):
    """Standard error: what cannot be written is lost."""

    def write(self, text: str) -> int:
        """Write a text, or nothing."""
        with suppress(OSError, ValueError):
            self._write(text)
        return len(text)

    def flush(self) -> None:
        """Bring out what was written, or nothing."""
        with suppress(OSError, ValueError):
            self._target.flush()


class _Results(_Stream):
    """Standard output: what cannot be written is an error that says so."""

    def __init__(self, target: TextIO, is_closed: bool) -> None:
        super().__init__(target)
        self._is_closed = is_closed

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            UserError: It cannot be written.
            BrokenPipeError: Its reader has ended.
        """
        if self._is_closed and text:
            raise UserError("cannot write to standard output: it is closed")
        with _told():
            return self._write(text)

    def flush(self) -> None:
        """Bring out what was written; raises as ``write`` does."""
        with _told():
            self._target.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write to standard output: {error.strerror}") from error


@contextmanager
def standing_streams() -> Iterator[None]:
    """Replace standard output and error, while a command runs, by streams that stand all this.

    At the end everything is written.

    Raises:
        UserError: Standard output cannot be written.
        BrokenPipeError: The reader of standard output has ended.
    """
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere, _laid_out():
        sys.stdout = _Results(before[0] or nowhere, before[0] is None)  # type: ignore[assignment]
        sys.stderr = _Messages(before[1] or nowhere)  # type: ignore[assignment]
        try:
            yield
            sys.stdout.flush()
        finally:
            sys.stderr.flush()
            sys.stdout, sys.stderr = before


def leave_unwritten() -> None:
    """Drop what standard output has not taken, so that Python's end does not fail on it again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]


def _fill_descriptors() -> None:
    """Open the null device where a standard stream is closed.

    Else the next file gets its number, and what a library prints is written into that.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


@contextmanager
def _laid_out() -> Iterator[None]:
    """Set COLUMNS where a terminal is too narrow, or said to be too wide, to lay text out."""
    wide = _columns()
    if NARROWEST <= wide <= WIDEST:
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(max(wide, NARROWEST), WIDEST))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        os.environ |= {} if before is None else {"COLUMNS": before}


def _columns() -> int:
    """Return the columns of the terminal, 80 where nothing usable says so."""
    told = os.environ.get("COLUMNS", "")
    if told.isascii() and told.isdigit() and int(told[:9]):
        return int(told[:9])
    for number in range(3):
        with suppress(OSError):
            return os.get_terminal_size(number).columns or 80
    return 80
