"""Films of a user: the sound of any part of one, and its pictures there, each at its own time.

Only what is asked for is decoded, so a film of hours costs what one of a minute does. Times are in
seconds from the first time stamp of the film.
"""

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.errors import BadMedia
from nano4m.media.gate import opened, printable
from nano4m.media.image_file import MAX_PIXELS
from nano4m.media.picture import MAX_SHORT_SIDE
from nano4m.media.tracks import (
    ATTACHED,
    TimedSound,
    check_whole,
    choose_track,
    declared_seconds,
    no_track,
    opened_container,
    timed_sound,
)

VIDEOS = frozenset(
    {
        *(".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".3gp", ".3g2", ".mpg", ".mpeg"),
        *(".ts", ".mts", ".m2ts", ".flv", ".wmv", ".ogv"),
    }
)
"""Endings of films."""

MAX_FRAMES = 64
"""Pictures of a part of a film that are kept, or four times as many as a clip needs."""

WIDEST_PIXEL = 8
"""A pixel that is wider or higher than this many times its other side is no pixel but damage."""


@dataclass
class Film:
    """An open film.

    Attributes:
        seconds: Its length as it says; 0 where it does not, as a broadcast.
        no_sound, no_picture: Why it has no sound or no pictures that can be decoded, or "".
    """

    path: Path
    container: Any
    stack: ExitStack
    seconds: float
    no_sound: str
    no_picture: str
    start: float
    is_fresh: bool = True

    def sound(self, begin: float, end: float) -> TimedSound | None:
        """Return the sound between two times, with zeros where it has none; None: nothing at all.

        Raises:
            BadMedia: It cannot be decoded, or has no sound.
        """
        self._seek(begin)
        stream = choose_track(self.container.streams.audio)
        if stream is None:
            raise BadMedia(self.no_sound)
        first, last = self.start + begin, self.start + end
        found = timed_sound(self.container, stream, self.path, first, last)
        if found is None:
            return None
        return TimedSound(
            sound=found.sound,
            rate=found.rate,
            start=found.start - self.start,
            is_cut_off=found.is_cut_off,
        )

    def check_whole(self, sound: TimedSound | None) -> None:
        """Refuse a film that ends before it says that it does.

        Raises:
            BadMedia: "truncated file".
        """
        end, cut_off = (sound.end, sound.is_cut_off) if sound else (0.0, False)
        if not cut_off and end < 0.9 * self.seconds - 0.5:
            end = max(end, self._last_time())
        check_whole(self.container, self.path, end, cut_off)

    def frames(
        self, begin: float, end: float, most: int = MAX_FRAMES
    ) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
        """Return uint8 (H, W, 3) pictures between two times, about ``most`` of them, and times.

        They are upright, of square pixels, at most MAX_SHORT_SIDE on the short side. The picture
        that is shown at ``begin`` is the first, with that time.

        Raises:
            BadMedia: They cannot be decoded, or there is no track of pictures.
        """
        if self.no_picture:
            raise BadMedia(self.no_picture)
        self._seek(begin)
        found = self._between(begin, end, (end - begin) / most)
        if found is None:  # it was not found by its time: from the beginning
            self._seek(0.0)
            found = self._between(begin, end, (end - begin) / most, is_first=True)
        pictures, times = found or ((), ())
        return tuple(pictures), tuple(times)

    def _seek(self, time: float) -> None:
        """Go to the last place before a time from where pictures can be decoded."""
        import av

        if time > 0:
            try:
                self.container.seek(round((self.start + time) * 1e6))
                self.is_fresh = False
                return
            except av.error.FFmpegError:
                pass  # without an index it is read from its beginning
        # FFmpeg finds the first picture by a seek, but not the sound before it.
        if not self.is_fresh:
            self.stack.close()
            self.container = self.stack.enter_context(opened_container(self.path))
        self.is_fresh = False

    def _between(
        self, begin: float, end: float, gap: float, is_first: bool = False
    ) -> tuple[list[np.ndarray], list[float]] | None:
        """Return pictures and times; None if the first one is later than ``begin``."""
        stream = _picture_track(self.container)
        pictures: list[np.ndarray] = []
        times: list[float] = []
        shown: Any = None
        aspect = float(getattr(stream, "sample_aspect_ratio", None) or 1)
        is_later = not is_first and begin > 0
        for frame in _decoded(self.container, stream):
            if frame.time is None:
                continue
            time = frame.time - self.start
            if is_later and time > begin:
                return None
            is_later = False
            if shown is not None and time > begin + 1e-6:
                pictures, times, shown = [_picture(shown, aspect, self.path)], [begin], None
            if time > end:
                return pictures, times
            if time < begin:
                shown = frame
            elif not times or time >= times[-1] + gap - 1e-3:
                shown = None
                pictures.append(_picture(frame, aspect, self.path))
                times.append(time)
        if shown is not None and (shown.time - self.start) + _lasts(shown) > begin:
            pictures, times = [_picture(shown, aspect, self.path)], [begin]
        return pictures, times

    def _last_time(self) -> float:
        """Return the end of the last packet of any track."""
        self._seek(max(0.0, self.seconds - 1))
        ends = [
            float((p.pts + (p.duration or 0)) * p.time_base)
            for p in self.container.demux()
            if p.pts is not None
        ]
        return max(ends, default=self.start) - self.start


@contextmanager
def opened_film(path: Path) -> Iterator[Film]:
    """Open a film and gate the block that reads it.

    Raises:
        BadMedia: Missing, empty, unreadable, or neither sound nor pictures that can be decoded.
    """
    with opened(path), ExitStack() as stack:
        container = stack.enter_context(opened_container(path))
        sound, picture = choose_track(container.streams.audio), _picture_track(container)
        no_sound = "" if sound else no_track(container, path, "audio", "sound")
        no_picture = "" if picture else no_track(container, path, "video", "pictures")
        if no_sound and no_picture:
            raise BadMedia(no_sound)
        if picture and picture.width * picture.height > MAX_PIXELS // 4:
            raise BadMedia(
                f"too large: {printable(path.name)} has {picture.width} x {picture.height} pixels"
            )
        yield Film(
            path=path,
            container=container,
            stack=stack,
            seconds=declared_seconds(container),
            no_sound=no_sound,
            no_picture=no_picture,
            start=(container.start_time or 0) / 1e6,
        )


def is_sound(path: Path) -> bool:
    """Whether a file has a sound and no track of pictures but perhaps a cover.

    False where it cannot be opened; reading it says why.
    """
    try:
        with opened(path), opened_container(path) as container:
            streams = container.streams
            shown = [s for s in streams.video if not int(s.disposition) & ATTACHED]
            return bool(streams.audio) and not shown
    except BadMedia:
        return False


def _picture_track(container: Any) -> Any:
    """Return the track that FFmpeg would show; a cover is none."""
    best = container.streams.best("video")
    known = choose_track([best] if best else [])
    return known or choose_track(container.streams.video)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            continue


def _lasts(frame: Any) -> float:
    return float((frame.duration or 0) * (frame.time_base or 0))


def _picture(frame: Any, aspect: float, path: Path) -> np.ndarray:
    """Return a frame as uint8 (H, W, 3): square pixels, reduced, upright."""
    if frame.width * frame.height > MAX_PIXELS // 4:
        raise BadMedia(f"too large: {printable(path.name)} has {frame.width} x {frame.height}")
    if not 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        aspect = 1.0
    # The shorter side of a pixel is stretched.
    width, height = frame.width * max(aspect, 1), frame.height / min(aspect, 1)
    scale = min(1.0, MAX_SHORT_SIDE / min(width, height))
    size = {"width": max(1, round(width * scale)), "height": max(1, round(height * scale))}
    return _turned(frame.to_ndarray(format="rgb24", **size), frame)


def _turned(picture: np.ndarray, frame: Any) -> np.ndarray:
    """Return a picture turned and mirrored as its display matrix says, to a quarter of a turn."""
    matrix = next((bytes(d) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"), None)
    if matrix is None or len(matrix) < 36:
        return picture
    # It takes a pixel (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("<9i", matrix[:36])[:5]
    if abs(b) > abs(a):
        picture, a, d = np.swapaxes(picture, 0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
