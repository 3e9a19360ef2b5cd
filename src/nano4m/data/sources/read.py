"""A file of sound, a picture or a video to arrays, or a BadMedia that names file and fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from nano4m.errors import BadMedia

SOUNDS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"})

MAX_SECONDS = 600
"""A longer recording is refused: it would fill the memory of a worker for one window."""

MAX_FRAMES = 64
MIN_FRAME_GAP = 0.1
"""Frames are taken this far apart or farther, so that even a window of a second finds several."""

MAX_SHORT_SIDE = 512
"""Pixels; the largest picture that a clip may have."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on ``path`` into BadMedia."""
    if not path.is_file():
        raise BadMedia(f"missing file: {path.name}")
    if not path.stat().st_size:
        raise BadMedia(f"empty file: {path.name} has 0 bytes")
    try:
        yield
    except BadMedia:
        raise
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError) as error:
        # All errors of libsndfile, FFmpeg and Pillow are of these types.
        detail = str(error).replace(str(path), path.name).strip().rstrip(".")
        raise BadMedia(
            f"unreadable file: {path.name} ({type(error).__name__}: {detail})"
        ) from error


def _check_seconds(path: Path, seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise BadMedia(
            f"too long: {path.name} lasts {seconds:.0f} s; cut it to {MAX_SECONDS} s or less"
        )


def _check_riff(path: Path) -> None:
    """libsndfile reads a WAV whose end is missing without a word; its header knows better."""
    with path.open("rb") as file:
        head = file.read(12)
    size = int.from_bytes(head[4:8], "little")
    is_streamed = size in (0, 0xFFFFFFFF) or size >= 0x7FFFF000
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and not is_streamed:
        present = path.stat().st_size
        if present < size + 8:
            raise BadMedia(f"truncated file: {path.name} has {present} of {size + 8} bytes")


def read_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return float32 (samples, channels) in [-1, 1] and the sample rate in Hz.

    Raises:
        BadMedia: Missing, empty, truncated, unreadable or too long.
    """
    import soundfile

    with _reading(path):
        _check_riff(path)
        with soundfile.SoundFile(path) as file:
            _check_seconds(path, file.frames / file.samplerate)
            expected, rate = file.frames, file.samplerate
            sound = file.read(dtype="float32", always_2d=True)
    # The length of an MP3 without an index is an estimate.
    if len(sound) < expected * (0.9 if path.suffix.lower() == ".mp3" else 1):
        raise BadMedia(f"truncated file: {path.name} has {len(sound)} of {expected} samples")
    if not len(sound):
        raise BadMedia(f"no samples: {path.name}")
    return sound, rate


def read_picture(path: Path) -> np.ndarray:
    """Return uint8 (H, W, 3), upright, at most MAX_SHORT_SIDE pixels on its short side.

    Raises:
        BadMedia: Missing, empty, truncated or unreadable.
    """
    with _reading(path), Image.open(path) as image:
        size = MAX_SHORT_SIDE * max(image.size) // max(min(image.size), 1)
        image.draft("RGB", (size, size))
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or "transparency" in upright.info:
            # Without a ground, transparent pixels show whatever colour lies beneath them.
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        picture = upright.convert("RGB")
        if min(picture.size) > MAX_SHORT_SIDE:
            picture.thumbnail((size, size))
        return np.asarray(picture)


def is_depth_png(path: Path) -> bool:
    """Whether a file opens as a picture of one channel of 16 bits, as depth is stored."""
    try:
        with Image.open(path) as image:
            return image.mode in ("I;16", "I;16B", "I")
    except (OSError, ValueError, SyntaxError):
        return False


def read_depth(path: Path, near: float) -> np.ndarray:
    """Return distances in metres, float32 (H, W), infinity included.

    Args:
        path: ``.npy`` of distances in metres, or a 16-bit PNG of inverse depth as the clips table
            stores it: 65535 at ``near`` metres or less, 0 at infinity.
        near: Distance of the largest value of such a PNG, in metres.

    Raises:
        BadMedia: Missing, unreadable, of another shape or type, or a distance that is none.
    """
    with _reading(path):
        if path.suffix.lower() == ".npy":
            distance = np.load(path, allow_pickle=False)
            if distance.ndim != 2 or not np.issubdtype(distance.dtype, np.floating):
                raise BadMedia(
                    f"wrong depth: {path.name} holds {distance.dtype} {distance.shape}, not floats "
                    "(H, W) in metres"
                )
            return distance.astype(np.float32)
        if not is_depth_png(path):
            raise BadMedia(f"wrong depth: {path.name} is no PNG of one channel of 16 bits")
        with Image.open(path) as image:
            inverse = np.asarray(image, np.float32) / 65535
    with np.errstate(divide="ignore"):
        return np.float32(near) / inverse


def read_normals(path: Path) -> np.ndarray:
    """Return unit vectors, float32 (H, W, 3), of a PNG of n * 0.5 + 0.5.

    Raises:
        BadMedia: Missing, unreadable, or a picture of something else.
    """
    vectors = read_picture(path).astype(np.float32) / 255 * 2 - 1
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    # A step of 8 bits moves a length by a hundredth; resized edges are a little shorter.
    if float(np.median(np.abs(length - 1))) > 0.05:
        raise BadMedia(f"wrong normals: {path.name} does not hold unit vectors as n * 0.5 + 0.5")
    return vectors / np.maximum(length, 1e-6)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return width and height from the header of a picture, or None where it cannot be opened."""
    try:
        with _reading(path), Image.open(path) as image:
            return image.size
    except BadMedia:
        return None


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
        # A phone stores an upright video lying down, with the turn as side data.
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

    with _reading(path):
        with av.open(str(path), metadata_errors="replace") as container:
            declared = (container.duration or 0) / 1_000_000
            _check_seconds(path, declared)
            sound, rate, start = _decode_audio(container, path)
        seconds = len(sound) / rate
        with av.open(str(path), metadata_errors="replace") as container:
            frames, times = _decode_frames(container, path, max(declared, seconds))
    end = max(seconds + start, times[-1])
    if end < 0.9 * declared - 0.5:
        raise BadMedia(f"truncated file: {path.name} has {end:.1f} of {declared:.1f} s")
    return sound, rate, frames, tuple(time - start for time in times)
