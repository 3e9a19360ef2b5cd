"""One recording to one clip: a sound window, keyframes inside it, one square crop for all pictures.

Pure functions on arrays; ``cut`` is their sum and gives the media columns of the clips table.
"""

from typing import Any

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.data.fingerprints import audio_fingerprint, image_fingerprint
from nano4m.data.sources.base import RawMedia
from nano4m.errors import BadMedia
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import Box
from nano4m.media.picture import crop_picture, jpeg
from nano4m.media.sound import flac

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
        "description": "what the source knows exactly of each pixel, such as its depth",
        "licence": "that of the source",
    }
}
"""Who makes the planes, beside the pictures, that ``cut`` crops."""

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
    """Return the columns of media, fingerprints, crop and levels, and ``offset_s``.

    The level is that of the part of the window that is not padding: a short bark is as loud as a
    long howl. ``offset_s`` is where the window starts in the recording. A silent window gives its
    levels and a ``reason`` alone.

    Raises:
        BadMedia: The clip cannot be used, and why.
        UserError: The source records a kind of media that is not in the registry.
    """
    window, levels, start, last = cut_sound(raw.sound, raw.sample_rate, settings)
    reason = silent(levels["rms_db"], settings)
    if reason:
        return levels | {"reason": reason}
    rate, size = settings.sample_rate, settings.picture_size
    columns: dict[str, Any] = {
        "audio": flac(window, rate),
        "audio_fingerprint": audio_fingerprint(window, rate),
        "image_fingerprints": [],
        "crop": [],
        "offset_s": start / rate,
    }
    columns |= {kind.column: [] for kind in MEDIA.values() if kind.is_plane}
    chosen = choose_frames(
        raw.frame_times, len(raw.frames), settings.frames, max(start, 0) / rate, last / rate
    )
    for number in chosen:
        picture = raw.frames[number]
        box = centre_box(*picture.shape[:2])
        columns["crop"].append(list(box))
        cropped = crop_picture(picture, box, size)
        columns["frames"].append(jpeg(cropped))
        columns["image_fingerprints"].append(image_fingerprint(cropped))
        for name, planes in raw.planes.items():
            kind, plane = media_kind(name), planes[number]
            if plane.shape[:2] != picture.shape[:2]:
                raise BadMedia(
                    f"wrong {name}: {plane.shape[:2]} pixels, its picture has {picture.shape[:2]}"
                )
            stored = kind.part("crop")(plane, box, settings)
            columns[kind.column].append(kind.part("encode")(stored))
    return columns | levels
