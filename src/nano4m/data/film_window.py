"""The window of a film: found by its sound, then read with the pictures that lie inside it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.data.sources.base import RawMedia
from nano4m.data.waveform import cut_sound, to_mono
from nano4m.errors import BadMedia
from nano4m.media.film import MAX_FRAMES, Film, opened_film
from nano4m.media.gate import printable
from nano4m.media.tracks import TimedSound

PARTS = 10
"""Parts of a longer film in which its window is looked for."""


def parts(seconds: float, settings: ClipsConfig) -> list[tuple[float, float]]:
    """Return begin and end of the parts of a film that are heard, in seconds.

    All of it where it lasts at most ``search_seconds`` or its length is unknown; else parts of
    equal length, evenly spread from its beginning to its end, or the one that the window is in.
    """
    whole = settings.search_seconds
    if seconds <= whole:
        return [(0.0, whole)]
    each = max(whole / PARTS, settings.window_seconds)
    if settings.window == "start":
        return [(0.0, each)]
    if settings.window == "centre":
        return [((seconds - each) / 2, (seconds + each) / 2)]
    begins = np.linspace(0.0, seconds - each, PARTS)
    return [(float(begin), float(begin) + each) for begin in begins]


def read_window(path: Path, settings: ClipsConfig) -> RawMedia:
    """Return the sound of the part of a film where its window is, and the pictures inside it.

    Raises:
        BadMedia: It cannot be read, or lacks media that ``settings.require`` lists.
    """
    with opened_film(path) as film:
        _refuse({"sound": film.no_sound, "picture": film.no_picture}, settings)
        sound = None if film.no_sound else _loudest(film, settings)
        if film.seconds <= settings.search_seconds:
            film.check_whole(sound)
        begin, last, origin = 0.0, settings.window_seconds, 0.0
        if sound is not None:
            _, _, first, final = cut_sound(sound.sound, sound.rate, settings)
            origin, rate = sound.start, settings.sample_rate
            begin, last = origin + max(first, 0) / rate, origin + final / rate
        frames: tuple[np.ndarray, ...] = ()
        times: tuple[float, ...] = ()
        if not film.no_picture:
            frames, times = film.frames(begin, last, max(MAX_FRAMES, 4 * settings.frames))
        few = f"0 of {settings.frames} inside the window {begin:.2f}-{last:.2f} s"
        empty = {"sound": f"no sound: the audio stream of {printable(path.name)} is empty"}
        empty |= {"picture": f"too few frames: {few}"}
        has = {"sound": sound is not None, "picture": bool(frames)}
        _refuse({name: reason for name, reason in empty.items() if not has[name]}, settings)
        return RawMedia(
            sound=None if sound is None else sound.sound,
            sample_rate=0 if sound is None else sound.rate,
            frames=frames,
            frame_times=tuple(time - origin for time in times),
            start_s=origin,
            seconds=film.seconds or (sound.end if sound else last),
        )


def _refuse(missing: Mapping[str, str], settings: ClipsConfig) -> None:
    """Raise the first reason why a kind of media that a clip must have is missing."""
    for name in settings.require:
        if missing.get(name):
            raise BadMedia(missing[name])


def _loudest(film: Film, settings: ClipsConfig) -> TimedSound | None:
    """Return the sound of the part that holds the window; of several, that with the loudest."""
    best, most = None, -1.0
    spans = parts(film.seconds, settings)
    for begin, end in spans:
        found = film.sound(begin, end)
        if found is None:
            continue
        energy = _energy(found, settings.window_seconds) if len(spans) > 1 else 0.0
        if energy > most:
            best, most = found, energy
    return best


def _energy(sound: TimedSound, seconds: float) -> float:
    """Return the most energy in any window of a sound."""
    mono = to_mono(sound.sound)
    sums = np.concatenate([[0.0], np.cumsum(np.square(mono, dtype=np.float64))])
    length = min(len(mono), round(seconds * sound.rate))
    return float((sums[length:] - sums[: len(sums) - length]).max()) / sound.rate
