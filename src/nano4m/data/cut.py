"""One recording to one clip: a sound window, keyframes inside it, one square crop for all pictures.

Pure functions on arrays; ``cut`` is their sum and gives the media columns of the clips table.
"""

from typing import Any

import numpy as np
from PIL import Image

from nano4m.config.run import ClipsConfig
from nano4m.data.clip_media import depth_bytes, normals_bytes, picture_bytes, sound_bytes
from nano4m.data.fingerprints import audio_fingerprint, image_fingerprint
from nano4m.data.sources.base import RawMedia
from nano4m.errors import BadMedia

PEAK_LIMIT = 0.99
"""The loudness policy never drives a sample beyond this."""

FLOOR_DB = -200.0
"""Level of digital silence."""

FILTERS = {
    "samples": {
        "description": "a sound without samples, or with some that are not finite, is not kept",
        "licence": "Apache-2.0",
    },
    "length": {
        "description": "a sound shorter than clips.min_seconds is not kept",
        "licence": "Apache-2.0",
    },
    "silence": {
        "description": "a window quieter than clips.silence_db is not kept",
        "licence": "Apache-2.0",
    },
    "frames": {
        "description": "a clip with too few different frames inside its window is not kept",
        "licence": "Apache-2.0",
    },
}
"""What ``cut`` applies, in this order, and gives the reason of."""

LABELLERS = {
    "exact": {
        "description": "depth and normals that the source makes from the rays of the picture",
        "licence": "that of the source",
    }
}
"""Who makes the depth and normals that ``cut`` crops."""

Box = tuple[int, int, int]
"""Left, top and side of a square, in pixels."""


# -- sound -------------------------------------------------------------------------------------


def to_mono(sound: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, float32 (samples,), of (samples,) or (samples, channels).

    Raises:
        BadMedia: No samples, or a sample that is not finite.
    """
    if not sound.size:
        raise BadMedia("no samples")
    if not np.isfinite(sound).all():
        count = int((~np.isfinite(sound)).sum())
        raise BadMedia(f"not finite: {count} of {sound.size} samples are NaN or infinite")
    return sound if sound.ndim == 1 else sound.mean(axis=1, dtype=np.float32)


def resample(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Return float32 (samples,) at ``sample_rate``, of the same duration."""
    import soxr

    if rate == sample_rate:
        return sound.astype(np.float32, copy=False)
    return soxr.resample(sound.astype(np.float32, copy=False), rate, sample_rate, quality="HQ")


def window_start(sound: np.ndarray, length: int, policy: str) -> int:
    """Return the first sample of the window; negative where a shorter sound sits in its centre.

    Raises:
        ValueError: An unknown policy.
    """
    if policy not in ("loudest", "start", "centre"):
        raise ValueError(f"unknown window {policy!r}; choose from centre, loudest, start")
    spare = len(sound) - length
    if spare <= 0:
        return -(-spare // 2)
    if policy == "start":
        return 0
    if policy == "centre":
        return spare // 2
    energy = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    return int(np.argmax(energy[length:] - energy[:-length]))


def decibels(amplitude: float) -> float:
    """Return an amplitude in dB of full scale, at least FLOOR_DB."""
    return max(FLOOR_DB, 20 * float(np.log10(max(amplitude, 1e-12))))


def set_loudness(sound: np.ndarray, rms: float, target_rms_db: float) -> np.ndarray:
    """Return the sound at an RMS of ``target_rms_db``, or quieter where it would clip."""
    gain = 10 ** (target_rms_db / 20) / rms
    peak = float(np.abs(sound).max())
    return sound * min(gain, PEAK_LIMIT / peak)


# -- pictures ----------------------------------------------------------------------------------


def choose_frames(
    times: tuple[float, ...] | None, available: int, needed: int, start: float, end: float
) -> list[int]:
    """Return which frames become the clip's, in order of time.

    Frames of a video lie evenly inside [start, end] (seconds); still pictures belong to the whole
    sound and are repeated where there are too few.

    Raises:
        BadMedia: No picture at all, or too few different frames inside the window.
    """
    if not available:
        raise BadMedia("no picture")
    if times is None:
        return [i % available for i in range(needed)]
    inside = [i for i, time in enumerate(times) if start <= time <= end]
    if len(inside) < needed:
        raise BadMedia(
            f"too few frames: {len(inside)} of {needed} inside the window {start:.2f}-{end:.2f} s"
        )
    ideal = [start + (i + 0.5) / needed * (end - start) for i in range(needed)]
    chosen: list[int] = []
    for position, time in enumerate(ideal):
        # Never the same frame twice, and enough frames are left for those that follow.
        first = inside.index(chosen[-1]) + 1 if chosen else 0
        last = len(inside) - (needed - position - 1)
        chosen.append(min(inside[first:last], key=lambda i: abs(times[i] - time)))
    return chosen


def centre_box(height: int, width: int) -> Box:
    """Return the largest square in the centre of a picture."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def _resize(plane: np.ndarray, box: Box, size: int, filter_: Image.Resampling) -> np.ndarray:
    left, top, side = box
    cropped = np.ascontiguousarray(plane[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(cropped).resize((size, size), filter_))


def crop_picture(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crop and resize uint8 (H, W, 3) to (size, size, 3), antialiased."""
    return _resize(picture, box, size, Image.Resampling.BICUBIC)


def crop_depth(distance: np.ndarray, box: Box, size: int, near: float) -> np.ndarray:
    """Crop and resize a distance (H, W) in metres to inverse depth in [0, 1], float32 (size, size).

    The inverse is taken first: a mean with infinity (the sky) is then well defined.

    Raises:
        BadMedia: A distance is NaN or not positive.
    """
    if not (distance > 0).all():
        raise BadMedia("wrong depth: a distance is NaN or not positive")
    inverse = np.clip(near / distance, 0, 1).astype(np.float32)
    return np.clip(_resize(inverse, box, size, Image.Resampling.BOX), 0, 1)


def crop_normals(normals: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crop and resize unit vectors (H, W, 3) to unit vectors, float32 (size, size, 3).

    Raises:
        BadMedia: A vector is not of unit length.
    """
    length = np.linalg.norm(normals, axis=2)
    if not (np.abs(length - 1) < 1e-2).all():
        raise BadMedia("wrong normals: a vector is not of unit length")
    planes = [
        _resize(normals[..., i].astype(np.float32), box, size, Image.Resampling.BOX)
        for i in range(3)
    ]
    mean = np.stack(planes, axis=2)
    length = np.linalg.norm(mean, axis=2, keepdims=True)
    # Opposite normals may cancel out in the mean; such a pixel faces the viewer.
    return np.where(length > 1e-3, mean / np.maximum(length, 1e-3), np.array([0, 0, 1], np.float32))


# -- both --------------------------------------------------------------------------------------


def cut_sound(
    recorded: np.ndarray, rate: int, settings: ClipsConfig
) -> tuple[np.ndarray, dict[str, Any], int, int]:
    """Return the window, its levels and the samples of the recording where it starts and ends.

    Args:
        recorded: float32 (samples,) or (samples, channels) at ``rate`` Hz.
        rate: Of the recording.
        settings: Rate and length of the window, where it lies, its loudness.

    Raises:
        BadMedia: Shorter than ``min_seconds``, or a sample that is not finite.
    """
    sound = to_mono(recorded)
    seconds = len(sound) / rate
    if seconds < settings.min_seconds:
        raise BadMedia(f"too short: {seconds:.4f} s, below min_seconds {settings.min_seconds:g} s")
    sound = resample(sound, rate, settings.sample_rate)
    length = round(settings.window_seconds * settings.sample_rate)
    start = window_start(sound, length, settings.window)
    first, last = max(start, 0), min(start + length, len(sound))
    heard = sound[first:last]
    rms = float(np.sqrt(np.square(heard, dtype=np.float64).mean())) if len(heard) else 0.0
    levels = {"rms_db": decibels(rms), "peak_db": decibels(float(np.abs(heard).max(initial=0)))}
    if settings.target_rms_db is not None and rms > 0:
        heard = set_loudness(heard, rms, settings.target_rms_db)
    # A float recording may lie beyond full scale, and resampling overshoots: fit, do not clip.
    heard = heard / max(1.0, float(np.abs(heard).max(initial=0)))
    window = np.zeros(length, np.float32)
    window[first - start : last - start] = heard
    return window, levels, start, last


def silent(rms_db: float, settings: ClipsConfig) -> str | None:
    """Return why a window of this level is not kept, or None where it is."""
    if rms_db >= settings.silence_db:
        return None
    return f"silent: {rms_db:.1f} dB, below silence_db {settings.silence_db:g} dB"


def cut(raw: RawMedia, settings: ClipsConfig) -> dict[str, Any]:
    """Return the columns of media, prints, crop and levels, and ``offset_s``.

    The level is that of the part of the window that is not padding: a short bark is as loud as a
    long howl. ``offset_s`` is where the window starts in the recording. A silent window gives its
    levels and a ``reason`` alone.

    Raises:
        BadMedia: The clip cannot be used, and why.
    """
    window, levels, start, last = cut_sound(raw.sound, raw.sample_rate, settings)
    reason = silent(levels["rms_db"], settings)
    if reason:
        return levels | {"reason": reason}
    rate, size = settings.sample_rate, settings.picture_size
    columns: dict[str, Any] = {
        "audio": sound_bytes(window, rate),
        "audio_fingerprint": audio_fingerprint(window, rate),
        "image_fingerprints": [],
        "frames": [],
        "depth": [],
        "normals": [],
        "crop": [],
        "offset_s": start / rate,
    }
    chosen = choose_frames(
        raw.frame_times, len(raw.frames), settings.frames, max(start, 0) / rate, last / rate
    )
    for number in chosen:
        picture = raw.frames[number]
        box = centre_box(*picture.shape[:2])
        columns["crop"].append(list(box))
        cropped = crop_picture(picture, box, size)
        columns["frames"].append(picture_bytes(cropped))
        columns["image_fingerprints"].append(image_fingerprint(cropped))
        for kind, maps in (("depth", raw.depth), ("normals", raw.normals)):
            if maps and maps[number].shape[:2] != picture.shape[:2]:
                raise BadMedia(
                    f"wrong {kind}: {maps[number].shape[:2]} pixels, its picture has "
                    f"{picture.shape[:2]}"
                )
        if raw.depth:
            inverse = crop_depth(raw.depth[number], box, size, settings.depth_near)
            columns["depth"].append(depth_bytes(inverse))
        if raw.normals:
            columns["normals"].append(normals_bytes(crop_normals(raw.normals[number], box, size)))
    return columns | levels
