"""From a recording to the sound of a clip: mono, resampled, cut to a window, set to a level.

Pure functions on arrays (samples,) or (samples, channels).
"""

from typing import Any

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.errors import BadMedia

PEAK_LIMIT = 0.99
"""Largest sample after the level is set."""

LOST_DB = 10.0
"""The mean of channels may be this much quieter than the loudest one; else they cancel."""

FLOOR_DB = -200.0
"""Level of digital silence."""


def to_mono(sound: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, float32 (samples,), of (samples,) or (samples, channels).

    Where they cancel, as in a stereo recording with one channel inverted, or all but one of many
    are empty, the mean loses over LOST_DB against the loudest channel, which is taken instead.

    Raises:
        BadMedia: No samples, or a sample that is not finite.
    """
    if not sound.size:
        raise BadMedia("no samples")
    if not np.isfinite(sound).all():
        count = int((~np.isfinite(sound)).sum())
        raise BadMedia(f"not finite: {count} of {sound.size} samples are NaN or infinite")
    if sound.ndim == 1:
        return sound
    mean = sound.mean(axis=1, dtype=np.float32)
    power = np.square(sound, dtype=np.float64).mean(axis=0)
    is_lost = np.square(mean, dtype=np.float64).mean() < power.max() * 10 ** (-LOST_DB / 10)
    return np.ascontiguousarray(sound[:, power.argmax()]) if is_lost else mean


def resample(sound: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Return float32 (samples,) at ``sample_rate``, of the same duration."""
    import soxr

    if rate == sample_rate:
        return sound.astype(np.float32, copy=False)
    return soxr.resample(sound.astype(np.float32, copy=False), rate, sample_rate, quality="HQ")


def window_start(sound: np.ndarray, length: int, policy: str) -> int:
    """Return the first sample of the window; negative if a shorter sound is centred in it.

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


def cut_sound(
    recorded: np.ndarray, rate: int, settings: ClipsConfig
) -> tuple[np.ndarray, dict[str, Any], int, int]:
    """Return the window, its levels, and its start and end in samples of the recording.

    Args:
        recorded: float32 (samples,) or (samples, channels) at ``rate`` Hz.
        rate: Of the recording.
        settings: Sample rate, length and place of the window, its level.

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
    # A float recording may exceed full scale, and resampling overshoots: scale, do not clip.
    heard = heard / max(1.0, float(np.abs(heard).max(initial=0)))
    window = np.zeros(length, np.float32)
    window[first - start : last - start] = heard
    return window, levels, start, last


def silent(rms_db: float, settings: ClipsConfig) -> str | None:
    """Return why a window of this level is not kept, or None if it is."""
    if rms_db >= settings.silence_db:
        return None
    return f"silent: {rms_db:.1f} dB, below silence_db {settings.silence_db:g} dB"
