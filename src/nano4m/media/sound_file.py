"""Sound files of a user: libsndfile first, FFmpeg for all that it does not know or reads wrong."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.errors import BadMedia
from nano4m.media.film import Film, opened_film
from nano4m.media.gate import opened, printable
from nano4m.media.tracks import (
    TimedSound,
    check_seconds,
    check_whole,
    choose_track,
    declared_seconds,
    no_track,
    opened_container,
    timed_sound,
)

SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif"),
        *(".aiff", ".aifc", ".au", ".snd", ".caf", ".m4a", ".m4b", ".aac", ".wma", ".weba"),
        *(".mka", ".ac3", ".amr", ".mp2"),
    }
)

OF_LIBSNDFILE = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b".snd", b"riff", b"caff", b"NIST")
"""Beginnings of the files that libsndfile opens first; of MP3 it only guesses the length."""

PLACEHOLDER = 2**30 - 1
"""Bytes from which on the size of a data chunk is no size: a recorder wrote it ahead of time."""

UNKNOWN = 2**48
"""Samples from which on libsndfile says that it does not know."""


@dataclass(kw_only=True)
class SoundFile:
    """An open sound, of which any part can be read.

    Attributes:
        seconds: Its length.
        file: Of libsndfile; None: all of it was read.
        whole: float32 (samples, channels) of all of it.
    """

    path: Path
    seconds: float
    rate: int
    file: Any = None
    whole: np.ndarray | None = None
    no_sound: str = ""
    no_picture: str = "no picture"

    def sound(self, begin: float, end: float) -> TimedSound | None:
        """Return the sound between two times; None: nothing lies there."""
        first, last = round(begin * self.rate), round(end * self.rate)
        if self.whole is not None:
            part = self.whole[first:last]
        else:
            self.file.seek(min(first, self.file.frames))
            part = self.file.read(last - first, dtype="float32", always_2d=True)
        if not len(part):
            return None
        return TimedSound(sound=part, rate=self.rate, start=first / self.rate, is_cut_off=False)

    def check_whole(self, sound: TimedSound | None) -> None:
        """Refuse a sound that ends before it says that it does.

        Raises:
            BadMedia: "truncated file".
        """
        end = sound.end if sound else 0.0
        if end < self.seconds - 0.5:
            name = printable(self.path.name)
            raise BadMedia(f"truncated file: {name} has {end:.1f} of {self.seconds:.1f} s")

    def frames(self, begin: float, end: float, most: int = 0) -> tuple[tuple[()], tuple[()]]:
        """Return no pictures and no times."""
        return (), ()


@contextmanager
def opened_sound(path: Path, most: float) -> Iterator[SoundFile | Film]:
    """Open a sound and gate the block that reads it; only a longer one than ``most`` stays closed.

    Args:
        path: Of the sound.
        most: Seconds, at most MAX_SECONDS. A sound that says that it lasts at most as long is read
            here as a whole; one that turns out to be longer, to that length.

    Raises:
        BadMedia: As ``read_sound``.
    """
    with opened(path) as size, ExitStack() as stack:
        long = _opened_long(path, size, most, stack)
        if long is not None:
            yield long
            return
        whole, rate = read_sound(path, most)
        yield SoundFile(path=path, seconds=len(whole) / rate, rate=rate, whole=whole)


def _opened_long(path: Path, size: int, most: float, stack: ExitStack) -> SoundFile | Film | None:
    """Return a sound that says that it is longer than ``most``, opened, or None."""
    import soundfile

    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(OF_LIBSNDFILE):
        check_chunks(path, size)
        try:
            found = stack.enter_context(soundfile.SoundFile(path))
        except (RuntimeError, OSError, ValueError):
            found = None
        if found is not None and found.frames < UNKNOWN:
            seconds = found.frames / found.samplerate
            if seconds <= most:
                return None
            return SoundFile(path=path, seconds=seconds, rate=found.samplerate, file=found)
    with opened_container(path) as container:
        seconds = declared_seconds(container)
    return stack.enter_context(opened_film(path)) if seconds > most else None


def read_sound(path: Path, most: float | None = None) -> tuple[np.ndarray, int]:
    """Return float32 (samples, channels) in [-1, 1] and the sample rate in Hz.

    The length is what decodes, not what a header claims; tags and pictures in a file are no damage.
    A file of a film gives its sound.

    Args:
        path: Of the sound.
        most: Seconds that are read of a longer one; None: one of over MAX_SECONDS is refused.

    Raises:
        BadMedia: Missing, empty, truncated, unreadable, too long or without sound.
    """
    with opened(path) as size:
        with path.open("rb") as file:
            head = file.read(64)
        if not head.startswith(OF_LIBSNDFILE):
            return _by_ffmpeg(path, most)
        check_chunks(path, size)
        try:
            sound, rate = _by_libsndfile(path, most)
        except (RuntimeError, OSError, ValueError) as first:
            try:
                return _by_ffmpeg(path, most)
            except BadMedia:
                raise
            except Exception:
                raise first from None
        if len(sound):
            return sound, rate
        try:
            return _by_ffmpeg(path, most)
        except Exception:
            raise BadMedia(f"no samples: {printable(path.name)}") from None


def _by_libsndfile(path: Path, most: float | None) -> tuple[np.ndarray, int]:
    import soundfile

    with soundfile.SoundFile(path) as file:
        expected, rate = file.frames, file.samplerate
        if expected >= UNKNOWN:
            raise ValueError("of unknown length")
        if most is None:
            check_seconds(path, expected / rate)
        else:
            expected = min(expected, round(most * rate))
        sound = file.read(expected, dtype="float32", always_2d=True)
    if len(sound) < expected:
        name = printable(path.name)
        raise BadMedia(f"truncated file: {name} has {len(sound)} of {expected} samples")
    return sound, rate


def _by_ffmpeg(path: Path, most: float | None) -> tuple[np.ndarray, int]:
    with opened_container(path) as container:
        stream = choose_track(container.streams.audio)
        if stream is None:
            raise BadMedia(no_track(container, path, "audio", "sound"))
        start = (container.start_time or 0) / 1e6
        found = timed_sound(container, stream, path, end=np.inf if most is None else start + most)
        if found is None:
            raise BadMedia(f"unreadable file: {printable(path.name)} (no sound in it)")
        if most is not None and found.end - start >= most - 0.5:
            return found.sound, found.rate  # what comes after it is not looked at
        if not container.streams.video:
            check_whole(container, path, found.end - start, found.is_cut_off, slack=0.05)
        _check_index(path, len(found.sound))
        return found.sound, found.rate


def check_chunks(path: Path, size: int) -> None:
    """Refuse a WAV or AIFF file that lacks samples of its data chunk; other sizes do not count.

    libsndfile reads such a file without an error.
    """
    with path.open("rb") as file:
        head = file.read(12)
        is_big = head[:4] == b"FORM"
        if head[:4] not in (b"RIFF", b"RF64", b"FORM"):
            return
        at, claimed = 12, 0
        while at + 8 <= size:
            file.seek(at)
            name, field = file.read(4), file.read(4)
            length = int.from_bytes(field, "big" if is_big else "little")
            if name == b"ds64":  # the real size of the data chunk, after that of the whole file
                file.seek(8, 1)
                claimed = int.from_bytes(file.read(8), "little")
            if name in (b"data", b"SSND"):
                length = claimed if length == 0xFFFFFFFF and claimed else length
                if length < PLACEHOLDER and size < at + 8 + length:
                    raise BadMedia(
                        f"truncated file: {printable(path.name)} has {size - at - 8} of {length} "
                        "bytes of its samples"
                    )
                return
            at += 8 + length + length % 2


def _check_index(path: Path, samples: int) -> None:
    """Refuse an MP3 that is shorter than its Xing header says; one that is longer was joined."""
    with path.open("rb") as file:
        head = file.read(10)
        at = 0
        if head[:3] == b"ID3":
            at = 10 + sum(
                (b & 127) << shift for b, shift in zip(head[6:], (21, 14, 7, 0), strict=False)
            )
        file.seek(at)
        first = file.read(256)
    found = re.match(rb"\xff[\xe2-\xff].{2,60}?(?:Xing|Info)...(.)(....)", first, re.S)
    if not found or not found[1][0] & 1:
        return
    each = 1152 if first[1] & 8 else 576  # MPEG 1, or 2 and 2.5
    expected = each * int.from_bytes(found[2], "big")
    if samples < 0.9 * expected - 3 * each:  # the coder adds up to two, and FFmpeg cuts them off
        name = printable(path.name)
        raise BadMedia(f"truncated file: {name} has {samples} of {expected} samples")
