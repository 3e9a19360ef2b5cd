"""The gate that every file of a user goes through: whatever is wrong with it is BadMedia.

Every stat, open and decode of a user's file happens inside ``gated`` or ``opened``. The reason
begins with the kind of fault, by which clips are counted: "unreadable file: NAME (what)".
Our own files are read by ``nano4m.storage``.
"""

import errno
import hashlib
import os
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nano4m.errors import BadMedia, UserError

MOST_LETTERS = 160
"""Of what a decoder says; it may quote the whole file."""

OF_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ESTALE, errno.ENOTCONN}
"""Numbers of errors that say nothing about the file: a full or lost disk ends the run."""

WHOLE_BYTES = 64 * 2**20
"""A file up to this size is hashed as a whole."""

PARTS, PART_BYTES = 256, 2**16
"""Of a larger one, how many parts are hashed, evenly spread from its first byte to its last."""

MISSING = {errno.ENOENT, errno.ENOTDIR}
JOINERS = "\u200c\u200d"
"""Invisible, and parts of words in Hindi and of emoji."""

IN_WORDS = {
    errno.EACCES: "no permission to read it",
    errno.EPERM: "no permission to read it",
    errno.ELOOP: "its links lead in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EISDIR: "a folder",
    errno.EIO: "the disk cannot read it",
}


def printable(path: os.PathLike[str] | str | bytes) -> str:
    """Return a file name as text that can be printed and encoded everywhere.

    Bytes that are not UTF-8 and control characters are written as escapes, such as ``b\\xe4r.wav``
    and ``a\\nb.wav``; all else is as it was.
    """
    text = os.fsdecode(path)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that is no UTF-8, as Python has it in names
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def reason(error: BaseException, path: os.PathLike[str] | str = "") -> str:
    """Return an error in one short line, without the folder of ``path`` and without semicolons."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number in IN_WORDS:
        return IN_WORDS[number]
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    name = os.fspath(path)
    if name:
        text = text.replace(name, os.path.basename(name))
    # A manifest separates several reasons by semicolons.
    line = " ".join(printable(text).replace("\\n", " ").split()).replace(";", ",").rstrip(".")
    line = line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 3]}..."
    kind = type(error).__name__
    return f"{kind}: {line}" if line else kind


@contextmanager
def gated(path: Path) -> Iterator[None]:
    """Turn any error that the block raises into BadMedia with the file's printable name.

    BadMedia and UserError stay as they are, and so does a failure of the machine that says nothing
    about the file, such as a lost disk. Warnings of decoders are not shown.

    Raises:
        BadMedia: "KIND: NAME" or "KIND: NAME (reason)".
    """
    name = printable(path.name or path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadMedia, UserError):
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in OF_MACHINE:
            raise
        if number in MISSING and not _is_there(path):
            raise BadMedia(f"missing file: {name}{_where(path)}") from error
        raise BadMedia(f"unreadable file: {name} ({reason(error, path)})") from error


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _where(path: Path) -> str:
    """Return where a link leads that leads nowhere."""
    try:
        return f" (a link to {printable(os.readlink(path))}, which is not there)"
    except OSError:
        return ""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Check that ``path`` is a file with something in it, and gate the block that reads it.

    Yields its size in bytes. A pipe or a device is not opened: it could block forever.

    Raises:
        BadMedia: As ``gated``; also "missing file", "empty file" and "no file".
    """
    with gated(path):
        found = path.stat()
        name = printable(path.name or path)
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
            raise BadMedia(f"no file: {name} ({what})")
        if not found.st_size:
            raise BadMedia(f"empty file: {name} has 0 bytes")
        yield found.st_size


def hash_of_file(path: Path) -> str:
    """Return 32 hex digits of a file's content, or "" if it cannot be read.

    Of a file above ``WHOLE_BYTES`` its size and ``PARTS`` parts count, so that a film of hours
    costs as little as one of minutes; a change of a few bytes between two parts is not seen.
    May be called by several threads.
    """
    try:
        # Not gated: that changes the filters of warnings for all threads, and nothing is decoded.
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= PARTS * PART_BYTES:
                return _digits(hashlib.sha256(file.readall()))
            if size <= WHOLE_BYTES:
                return _digits(hashlib.file_digest(file, "sha256"))
            found = hashlib.sha256(str(size).encode())
            for number in range(PARTS):
                file.seek(number * (size - PART_BYTES) // (PARTS - 1))
                found.update(file.read(PART_BYTES) or b"")
            return _digits(found)
    except OSError as error:
        if error.errno in OF_MACHINE:
            raise
        return ""


def _digits(found: "hashlib._Hash") -> str:
    return found.hexdigest()[:32]
