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


class OutputClosed(BrokenPipeError):
    """Whoever read standard output has ended, such as ``head``: nothing is left to do."""


class _Results(_Stream):
    """Standard output: what cannot be written is an error that says so."""

    def __init__(self, target: TextIO, is_closed: bool) -> None:
        super().__init__(target)
        self._is_closed = is_closed

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            UserError: It cannot be written.
            OutputClosed: Its reader has ended.
        """
        if self._is_closed and text:
            raise UserError("cannot write to standard output: it is closed")
        with self._told():
            return self._write(text)

    def flush(self) -> None:
        """Bring out what was written; raises as ``write`` does."""
        with self._told():
            self._target.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # Python's end would fail once more on what the stream still holds.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._target.fileno())
            if isinstance(error, BrokenPipeError):
                raise OutputClosed from error
            raise UserError(f"cannot write to standard output: {error.strerror}") from error


@contextmanager
def standing_messages() -> Iterator[None]:
    """Lose messages, while the block runs, that standard error cannot take, and lay them out."""
    _fill_descriptors()
    before = sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere, _laid_out():
        sys.stderr = _Messages(before or nowhere)
        try:
            yield
        finally:
            sys.stderr.flush()
            sys.stderr = before


@contextmanager
def standing_results() -> Iterator[None]:
    """Write to standard output, while the block runs, or raise; at the end all is written.

    Raises:
        UserError: Standard output cannot be written.
        OutputClosed: Its reader has ended.
    """
    before = sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = _Results(before or nowhere, before is None)
        try:
            yield
            sys.stdout.flush()
        except SystemExit:
            sys.stdout.flush()
            raise
        finally:
            sys.stdout = before


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
