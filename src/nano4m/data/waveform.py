"""From a recording to the sound of a clip: mono, resampled, cut to a window, set to a level.

Pure functions on arrays (samples,) or (samples, channels).
"""

from dataclasses import dataclass
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

POLICIES = ("loudest", "start", "centre")
"""Which part of a longer recording is kept."""


@dataclass(frozen=True, kw_only=True)
class SoundWindow:
    """The sound of a clip.

    Attributes:
        sound: float32 (samples,) at ``clips.sample_rate``, exactly the window.
        levels: ``rms_db`` and ``peak_db`` as recorded, without padding.
        first, last: Its start and end in samples of the recording at that rate; ``first`` is
            negative if padding comes first.
        energy: Sum of the squares of its samples as recorded.
    """

    sound: np.ndarray
    levels: dict[str, Any]
    first: int
    last: int
    energy: float


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


def window_starts(sound: np.ndarray, length: int, policy: str, count: int = 1) -> list[int]:
    """Return the first samples of up to ``count`` windows that do not overlap, the best one first.

    loudest: the window with the most energy, then the loudest of what the others leave free; start:
    one after the other; centre: the middle one, then its neighbours in turn. The first windows do
    not depend on ``count``. A shorter sound is centred in one window, whose start is negative.

    Raises:
        ValueError: An unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown window {policy!r}; choose from {', '.join(sorted(POLICIES))}")
    spare = len(sound) - length
    if spare <= 0:
        return [-(-spare // 2)]
    if policy == "start":
        return list(range(0, spare + 1, length))[:count]
    if policy == "centre":
        around = [spare // 2 + (k + 1) // 2 * (-1) ** k * length for k in range(2 * count)]
        return [start for start in around if 0 <= start <= spare][:count]
    sums = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    energy = sums[length:] - sums[:-length]
    found: list[int] = []
    while len(found) < count:
        best = int(np.argmax(energy))
        if energy[best] < 0:
            break
        found.append(best)
        energy[max(0, best - length + 1) : best + length] = -1.0
    return found


def decibels(amplitude: float) -> float:
    """Return an amplitude in dB of full scale, at least FLOOR_DB."""
    return max(FLOOR_DB, 20 * float(np.log10(max(amplitude, 1e-12))))


def set_loudness(sound: np.ndarray, rms: float, target_rms_db: float) -> np.ndarray:
    """Return the sound at an RMS of ``target_rms_db``, or quieter where it would clip."""
    gain = 10 ** (target_rms_db / 20) / rms
    peak = float(np.abs(sound).max())
    return sound * min(gain, PEAK_LIMIT / peak)


def sound_windows(
    recorded: np.ndarray, rate: int, settings: ClipsConfig, count: int = 1
) -> list[SoundWindow]:
    """Return up to ``count`` windows of a recording, see ``window_starts``.

    The first one is there however quiet it is; others are as loud as ``silence_db`` at least.

    Args:
        recorded: float32 (samples,) or (samples, channels) at ``rate`` Hz.
        rate: Of the recording.
        settings: Sample rate, length and place of the windows, their level.
        count: Most windows.

    Raises:
        BadMedia: Shorter than ``min_seconds``, or a sample that is not finite.
    """
    sound = to_mono(recorded)
    seconds = len(sound) / rate
    if seconds < settings.min_seconds:
        raise BadMedia(f"too short: {seconds:.4f} s, below min_seconds {settings.min_seconds:g} s")
    sound = resample(sound, rate, settings.sample_rate)
    length = round(settings.window_seconds * settings.sample_rate)
    starts = window_starts(sound, length, settings.window, count)
    found = [_sound_window(sound, start, length, settings) for start in starts]
    return [w for w in found if w is found[0] or not silent(w.levels["rms_db"], settings)]


def _sound_window(sound: np.ndarray, start: int, length: int, settings: ClipsConfig) -> SoundWindow:
    first, last = max(start, 0), min(start + length, len(sound))
    heard = sound[first:last]
    power = float(np.square(heard, dtype=np.float64).mean()) if len(heard) else 0.0
    rms = float(np.sqrt(power))
    levels = {"rms_db": decibels(rms), "peak_db": decibels(float(np.abs(heard).max(initial=0)))}
    if settings.target_rms_db is not None and rms > 0:
        heard = set_loudness(heard, rms, settings.target_rms_db)
    # A float recording may exceed full scale, and resampling overshoots: scale, do not clip.
    heard = heard / max(1.0, float(np.abs(heard).max(initial=0)))
    window = np.zeros(length, np.float32)
    window[first - start : last - start] = heard
    return SoundWindow(
        sound=window, levels=levels, first=start, last=last, energy=power * len(heard)
    )


def silent(rms_db: float, settings: ClipsConfig) -> str | None:
    """Return why a window of this level is not kept, or None if it is."""
    if rms_db >= settings.silence_db:
        return None
    return f"silent: {rms_db:.1f} dB, below silence_db {settings.silence_db:g} dB"
