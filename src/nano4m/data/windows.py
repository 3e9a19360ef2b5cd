"""The windows of a recording: found by its sound, each read with the pictures that lie inside it.

Of a recording of hours only parts are decoded, one at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.data.sources.base import RawMedia
from nano4m.data.waveform import SoundWindow, silent, sound_windows
from nano4m.errors import BadMedia
from nano4m.media.film import MAX_FRAMES, VIDEOS, Film, opened_film
from nano4m.media.gate import printable
from nano4m.media.sound_file import SoundFile, opened_sound

PARTS = 10
"""Parts of a longer recording in which its windows are looked for."""

Pictures = tuple[Sequence[np.ndarray], Sequence[float] | None]
"""Frames, and the times of those of a film in seconds of the recording; None: stills."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a recording.

    Attributes:
        sound: None: the recording has none.
        start: Where it begins in the recording, in seconds; negative if padding comes first.
        begin, end: The same without padding.
        pictures: Function that decodes the pictures inside it.
        no_sound, no_picture: Why it has none, or may have none.
        seconds: Of the whole recording.
    """

    sound: SoundWindow | None
    start: float
    begin: float
    end: float
    pictures: Callable[[], Pictures]
    no_sound: str = ""
    no_picture: str = ""
    seconds: float = 0.0


def parts(seconds: float, settings: ClipsConfig) -> list[tuple[float, float]]:
    """Return begin and end of the parts of a recording that are heard, in seconds.

    All of it where it lasts at most ``search_seconds`` or its length is unknown; else parts of
    equal length, evenly spread from its beginning to its end, or the one that the windows are in.
    """
    whole, window = settings.search_seconds, settings.window_seconds
    if seconds <= whole:
        return [(0.0, whole)]
    each = max(whole / PARTS, window)
    if settings.window != "loudest":
        each = min(seconds, max(each, min(whole, window * settings.windows_per_recording)))
        begin = 0.0 if settings.window == "start" else (seconds - each) / 2
        return [(begin, begin + each)]
    begins = np.linspace(0.0, seconds - each, PARTS)
    return [(float(begin), float(begin) + each) for begin in begins]


@contextmanager
def opened_windows(raw: RawMedia, settings: ClipsConfig) -> Iterator[list[Window]]:
    """Open the recording of a clip and find its windows, the best one first.

    Their pictures can be decoded inside the block. There is at least one window, and at most
    ``settings.windows_per_recording``. They do not overlap, and the first ones do not depend on how
    many are asked for.

    Raises:
        BadMedia: The recording cannot be read, is too short, or lacks media that all clips need.
    """
    if raw.recording is None:
        yield _of_arrays(raw, settings)
        return
    is_film = raw.recording.suffix.lower() in VIDEOS
    opened = opened_film(raw.recording) if is_film else opened_sound(
        raw.recording, settings.search_seconds
    )  # fmt: skip
    with opened as recording:
        yield _of_recording(recording, raw, settings)


def _of_arrays(raw: RawMedia, settings: ClipsConfig) -> list[Window]:
    """Return the windows of media in memory; without a sound, one from the beginning."""

    def window(sound: SoundWindow | None, first: int, last: int) -> Window:
        return Window(
            sound=sound,
            start=first / settings.sample_rate,
            begin=max(first, 0) / settings.sample_rate,
            end=last / settings.sample_rate,
            pictures=lambda: (raw.frames, raw.frame_times),
            no_sound=_absent(raw, "sound"),
            no_picture=_absent(raw, "picture"),
        )

    if raw.sound is None:
        return [window(None, 0, round(settings.window_seconds * settings.sample_rate))]
    found = sound_windows(raw.sound, raw.sample_rate, settings, settings.windows_per_recording)
    return [window(w, w.first, w.last) for w in found]


def _absent(raw: RawMedia, name: str) -> str:
    """Return why a source has no such media, or ""."""
    return f"no {name}: {raw.absent[name]}" if raw.absent.get(name) else ""


def _of_recording(
    recording: SoundFile | Film, raw: RawMedia, settings: ClipsConfig
) -> list[Window]:
    no_picture = "" if raw.frames else recording.no_picture and (
        _absent(raw, "picture") or recording.no_picture
    )  # fmt: skip
    for name, why in (("sound", recording.no_sound), ("picture", no_picture)):
        if why and name in settings.require:
            raise BadMedia(why)
    heard: list[tuple[SoundWindow, float]] = []
    if not recording.no_sound:
        heard = _heard(recording, settings)
    length, rate = settings.window_seconds, settings.sample_rate

    def window(sound: SoundWindow | None, start: float, begin: float, end: float) -> Window:
        def pictures() -> Pictures:
            if raw.frames or no_picture:
                return raw.frames, raw.frame_times
            return recording.frames(begin, end, max(MAX_FRAMES, 4 * settings.frames))

        few = f"too few frames: 0 of {settings.frames} inside the window {begin:.2f}-{end:.2f} s"
        return Window(
            sound=sound,
            start=start,
            begin=begin,
            end=end,
            pictures=pictures,
            no_sound=recording.no_sound
            or f"no sound: the audio stream of {printable(recording.path.name)} is empty",
            no_picture=no_picture or few,
            seconds=recording.seconds or end,
        )

    if heard:
        times = [(origin, (w.first, max(w.first, 0), w.last)) for w, origin in heard]
        return [
            window(w, *(origin + samples / rate for samples in own))
            for (w, _), (origin, own) in zip(heard, times, strict=True)
        ]
    # Of a film without a sound, one after the other from its beginning.
    count = max(1, min(settings.windows_per_recording, int(recording.seconds / length)))
    return [window(None, k * length, k * length, (k + 1) * length) for k in range(count)]


def _heard(recording: SoundFile | Film, settings: ClipsConfig) -> list[tuple[SoundWindow, float]]:
    """Return the windows of a recording and where the part that each is in begins; none: no sound.

    Raises:
        BadMedia: It cannot be decoded, is truncated or too short.
    """
    count, length = settings.windows_per_recording, settings.window_seconds
    spans = parts(recording.seconds, settings)
    is_whole = recording.seconds <= settings.search_seconds
    found: list[tuple[SoundWindow, float]] = []
    short, end = None, None
    for begin, until in spans:
        heard = recording.sound(begin, until)
        end = heard or (end if is_whole else None)
        if heard is None:
            continue
        if not is_whole and len(heard.sound) < length * heard.rate:
            short = short or heard  # what lies at the very end
            continue
        windows = sound_windows(heard.sound, heard.rate, settings, count)
        found += [(window, heard.start) for window in windows]
    if is_whole or end is None:
        recording.check_whole(end)
    if not found and short is not None:
        windows = sound_windows(short.sound, short.rate, settings, count)
        found = [(window, short.start) for window in windows]
    if len(spans) < 2:
        return found
    return _apart(sorted(found, key=lambda one: -one[0].energy), settings)


def _apart(
    ranked: Sequence[tuple[SoundWindow, float]], settings: ClipsConfig
) -> list[tuple[SoundWindow, float]]:
    """Return the first windows of a ranking that overlap with none before them and are audible.

    The very first is there however quiet it is.
    """
    chosen: list[tuple[SoundWindow, float]] = []
    starts: list[float] = []
    for window, origin in ranked:
        start = origin + window.first / settings.sample_rate
        is_apart = all(abs(start - other) > settings.window_seconds - 1e-6 for other in starts)
        if chosen and silent(window.levels["rms_db"], settings):
            continue
        if is_apart and len(chosen) < settings.windows_per_recording:
            chosen.append((window, origin))
            starts.append(start)
    return chosen
