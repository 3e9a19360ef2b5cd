"""Sound files of a user: libsndfile first, FFmpeg for all that it does not know or reads wrong."""

import re
from pathlib import Path

import numpy as np

from nano4m.errors import BadMedia
from nano4m.media.gate import opened, printable
from nano4m.media.tracks import (
    check_seconds,
    check_whole,
    choose_track,
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


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return float32 (samples, channels) in [-1, 1] and the sample rate in Hz.

    The length is what decodes, not what a header claims; tags and pictures in a file are no damage.
    A file of a film gives its sound.

    Raises:
        BadMedia: Missing, empty, truncated, unreadable, too long or without sound.
    """
    with opened(path) as size:
        with path.open("rb") as file:
            head = file.read(64)
        if not head.startswith(OF_LIBSNDFILE):
            return _by_ffmpeg(path)
        _check_chunks(path, size)
        try:
            sound, rate = _by_libsndfile(path)
        except (RuntimeError, OSError, ValueError) as first:
            try:
                return _by_ffmpeg(path)
            except BadMedia:
                raise
            except Exception:
                raise first from None
        if len(sound):
            return sound, rate
        try:
            return _by_ffmpeg(path)
        except Exception:
            raise BadMedia(f"no samples: {printable(path.name)}") from None


def _by_libsndfile(path: Path) -> tuple[np.ndarray, int]:
    import soundfile

    with soundfile.SoundFile(path) as file:
        expected, rate = file.frames, file.samplerate
        if expected >= UNKNOWN:
            raise ValueError("of unknown length")
        check_seconds(path, expected / rate)
        sound = file.read(dtype="float32", always_2d=True)
    if len(sound) < expected:
        name = printable(path.name)
        raise BadMedia(f"truncated file: {name} has {len(sound)} of {expected} samples")
    return sound, rate


def _by_ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    with opened_container(path) as container:
        stream = choose_track(container.streams.audio)
        if stream is None:
            raise BadMedia(no_track(container, path, "audio", "sound"))
        found = timed_sound(container, stream, path)
        if found is None:
            raise BadMedia(f"unreadable file: {printable(path.name)} (no sound in it)")
        start = (container.start_time or 0) / 1e6
        if not container.streams.video:
            check_whole(container, path, found.end - start, found.is_cut_off, slack=0.05)
        _check_index(path, len(found.sound))
        return found.sound, found.rate


def _check_chunks(path: Path, size: int) -> None:
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
