"""Reading a video: its sound and evenly spaced frames, or BadMedia with file and fault."""

from pathlib import Path
from typing import Any

import numpy as np

from nano4m.errors import BadMedia
from nano4m.media.gate import opened
from nano4m.media.picture import MAX_SHORT_SIDE
from nano4m.media.sound import check_seconds

VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"})

MAX_FRAMES = 64
MIN_FRAME_GAP = 0.1
"""Least seconds between frames, so that even a window of a second has several."""


def _decode_audio(container: Any, path: Path) -> tuple[np.ndarray, int, float]:
    """Return float32 (samples, channels), the rate and the time of the first sample."""
    import av

    if not container.streams.audio:
        raise BadMedia(f"no sound: {path.name} has no audio stream")
    stream = container.streams.audio[0]
    resampler = av.AudioResampler(format="fltp")
    start: float | None = None
    parts: list[np.ndarray] = []
    for frame in container.decode(stream):
        start = frame.time if start is None else start
        parts += [part.to_ndarray() for part in resampler.resample(frame)]
    if not parts or not sum(part.shape[1] for part in parts):
        raise BadMedia(f"no sound: the audio stream of {path.name} is empty")
    return np.concatenate(parts, axis=1).T, int(stream.rate), start or 0.0


def _decode_frames(
    container: Any, path: Path, seconds: float
) -> tuple[tuple[np.ndarray, ...], list[float]]:
    """Return evenly spaced uint8 (H, W, 3) frames and their times."""
    if not container.streams.video:
        raise BadMedia(f"no pictures: {path.name} has no video stream")
    stream = container.streams.video[0]
    gap = max(MIN_FRAME_GAP, seconds / MAX_FRAMES)
    frames: list[np.ndarray] = []
    times: list[float] = []
    for frame in container.decode(stream):
        if frame.time is None or (times and frame.time < times[-1] + gap - 1e-3):
            continue
        scale = min(1.0, MAX_SHORT_SIDE / min(frame.width, frame.height))
        size = {"width": round(frame.width * scale), "height": round(frame.height * scale)}
        picture = frame.to_ndarray(format="rgb24", **size)
        # A phone stores an upright video rotated, with the rotation as side data.
        frames.append(np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90) % 4)))
        times.append(frame.time)
    if not frames:
        raise BadMedia(f"no pictures: the video stream of {path.name} is empty")
    return tuple(frames), times


def read_video(path: Path) -> tuple[np.ndarray, int, tuple[np.ndarray, ...], tuple[float, ...]]:
    """Return sound float32 (samples, channels), its rate, uint8 (H, W, 3) frames and their times.

    Times are in seconds from the first sample of the sound. Frames are evenly spaced, at most
    MAX_FRAMES and a few more, at least MIN_FRAME_GAP apart.

    Raises:
        BadMedia: Missing, empty, truncated, unreadable, too long, or without sound or pictures.
    """
    import av

    with opened(path):
        with av.open(str(path), metadata_errors="replace") as container:
            declared = (container.duration or 0) / 1_000_000
            check_seconds(path, declared)
            sound, rate, start = _decode_audio(container, path)
        seconds = len(sound) / rate
        with av.open(str(path), metadata_errors="replace") as container:
            frames, times = _decode_frames(container, path, max(declared, seconds))
    end = max(seconds + start, times[-1])
    if end < 0.9 * declared - 0.5:
        raise BadMedia(f"truncated file: {path.name} has {end:.1f} of {declared:.1f} s")
    return sound, rate, frames, tuple(time - start for time in times)
