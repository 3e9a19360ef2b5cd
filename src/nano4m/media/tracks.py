"""Tracks of sound and film files, read with FFmpeg: which one, and each packet at its own time.

Times are in seconds on the clock of the file, which need not begin at 0.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.errors import BadMedia
from nano4m.media.gate import printable

MAX_SECONDS = 600
"""Most of a sound that is read at once: more would fill the memory of a worker for one window."""

MAX_VALUES = 250_000_000
"""Most samples of all channels together: 1 GB."""

TOLERANCE = 0.05
"""Seconds by which a time stamp may be off, as files round them, before it is a gap."""

LOST = 0.005
"""The same after a packet that could not be decoded: its time is silent."""

INDEXED = ("mov,", "matroska", "asf", "avi", "flac", "ogg")
"""Formats whose header or index says how long the file is; in others it is an estimate."""

ATTACHED = 0x400
"""Disposition of a cover picture, as FFmpeg numbers it."""


@contextmanager
def opened_container(path: Path) -> Iterator[Any]:
    """Open a sound or a film with FFmpeg; nothing but this file is read, whatever it refers to."""
    import av

    # An absolute name is no address, and a name that is no UTF-8 is opened here.
    name = str(path.absolute())
    is_text = name.isprintable()
    with path.open("rb") as file:
        options = {"protocol_whitelist": "file"} if is_text else {}
        with av.open(
            name if is_text else file, metadata_errors="replace", container_options=options
        ) as container:
            yield container


def choose_track(streams: Any) -> Any:
    """Return the default track, or else the first, of those that can be decoded; None: no such."""
    known = [s for s in streams if s.codec_context and not int(s.disposition) & ATTACHED]
    return next((s for s in known if int(s.disposition) & 1), known[0] if known else None)


def codecs(container: Any, kind: str) -> str:
    """Return the names of the codecs of all tracks of "audio" or "video", as FFmpeg knows them."""
    import av.logging

    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # below it FFmpeg describes nothing
    try:
        said = container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.findall(rf" {kind}: (\w+)(?: \([^/()]*\))?(?: \((\w+) /)?", said, re.I)
    names = [tag or "unknown" if name in ("none", "unknown") else name for name, tag in found]
    return ", ".join(names)


def no_track(container: Any, path: Path, kind: str, what: str) -> str:
    """Return why a file has no track of "audio" or "video" that can be used."""
    name = printable(path.name)
    if getattr(container.streams, kind) and (said := codecs(container, kind)):
        return f"no {what} that can be decoded: {name} ({said})"
    return f"no {what}: {name} has no {kind} stream"


def declared_seconds(container: Any) -> float:
    """Return how long a file says it is, from its first time stamp; 0 where it does not say."""
    seconds = (container.duration or 0) / 1e6
    # Matroska counts from 0 also where the first time stamp is an hour.
    start = (container.start_time or 0) / 1e6
    is_end = container.format.name.startswith("matroska") and seconds > start > 0
    return max(0.0, seconds - start if is_end else seconds)


@dataclass(frozen=True, kw_only=True)
class TimedSound:
    """float32 (samples, channels) at ``rate`` Hz; the first sample is at ``start`` seconds."""

    sound: np.ndarray
    rate: int
    start: float
    is_cut_off: bool

    @property
    def end(self) -> float:
        """Where the last sample ends, in seconds."""
        return self.start + len(self.sound) / self.rate


def samples_of(frame: Any) -> np.ndarray:
    """Return a decoded frame of any sample format as float32 (samples, channels), 1 full scale."""
    if frame.format.is_planar and len(frame.planes) != frame.layout.nb_channels:
        # PyAV would read memory that is not the frame's.
        raise ValueError(f"{frame.layout.nb_channels} channels, {len(frame.planes)} of sound")
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return (values / 2.0 ** (8 * values.dtype.itemsize - 1)).astype(np.float32)
    return values.astype(np.float32)


def _frames(container: Any, stream: Any, damage: list[bool]) -> Iterator[Any]:
    """Yield decoded frames; ``damage`` gets whether each packet could not be decoded."""
    import av

    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            # FFmpeg goes on with the next one too: two files joined have such a packet between.
            damage.append(True)
            continue
        if decoded:
            damage.append(False)
        yield from decoded


def timed_sound(
    container: Any, stream: Any, path: Path, begin: float = -np.inf, end: float = np.inf
) -> TimedSound | None:
    """Return what of a track lies between ``begin`` and ``end``, with zeros where nothing is.

    None: nothing lies there.

    Raises:
        BadMedia: Longer than MAX_SECONDS, or damaged throughout.
    """
    parts: list[np.ndarray] = []
    damage: list[bool] = []
    rate, channels, count, shift, start = 0, 0, 0, 0.0, 0.0
    for frame in _frames(container, stream, damage):
        values = samples_of(frame)
        time = frame.time
        if not rate:
            if time is not None and time + len(values) / max(frame.sample_rate, 1) <= begin:
                continue
            rate, channels = frame.sample_rate, values.shape[1]
            start = time or 0.0
        if rate <= 0 or not channels:
            raise BadMedia(f"unreadable file: {printable(path.name)} (a sample rate of {rate} Hz)")
        if frame.sample_rate != rate:
            values = _at_rate(values, frame.sample_rate, rate)
        if values.shape[1] != channels:
            values = np.repeat(values.mean(1, keepdims=True), channels, axis=1)
        now = start + count / rate
        late = 0.0 if time is None else time + shift - now
        if now + max(late, 0.0) >= end:
            break
        if late > (LOST if len(damage) > 1 and damage[-2] else TOLERANCE):
            gap = round(late * rate)
            _check_length(path, count + gap, rate, channels)
            parts.append(np.zeros((gap, channels), np.float32))
            count += gap
        elif late < -TOLERANCE:  # a clock that begins again
            shift -= late
        values = values[: max(0, int(min((end - start) * rate, MAX_VALUES)) - count)]
        parts.append(values)
        count += len(values)
        _check_length(path, count, rate, channels)
    if damage and sum(damage) * 2 > len(damage):
        raise BadMedia(
            f"unreadable file: {printable(path.name)} ({sum(damage)} of {len(damage)} packets of "
            "its sound cannot be decoded)"
        )
    if not count:
        return None
    sound = np.concatenate(parts)
    return TimedSound(sound=sound, rate=rate, start=start, is_cut_off=damage[-1])


def _at_rate(values: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import soxr

    return soxr.resample(values, rate, wanted, quality="HQ").astype(np.float32)


def _check_length(path: Path, samples: int, rate: int, channels: int) -> None:
    check_seconds(path, samples / rate)
    if samples * channels > MAX_VALUES:
        raise BadMedia(f"too long: {printable(path.name)} has over {MAX_VALUES:,} samples")


def check_seconds(path: Path, seconds: float) -> None:
    """Refuse a sound that is too long.

    Raises:
        BadMedia: Longer than MAX_SECONDS.
    """
    if seconds > MAX_SECONDS:
        raise BadMedia(
            f"too long: {printable(path.name)} lasts {seconds:.0f} s; cut it to {MAX_SECONDS} s or "
            "less"
        )


def check_whole(
    container: Any, path: Path, end: float, is_cut_off: bool = False, slack: float = 0.5
) -> None:
    """Refuse a file that ends, ``end`` seconds after its start, before it says that it does.

    Args:
        slack: Seconds that may be missing beside a tenth.

    Raises:
        BadMedia: "truncated file".
    """
    if not container.format.name.startswith(INDEXED):
        return
    declared = declared_seconds(container)
    if is_cut_off or end < 0.9 * declared - slack:
        raise BadMedia(f"truncated file: {printable(path.name)} has {end:.1f} of {declared:.1f} s")
