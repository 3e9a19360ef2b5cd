"""Class, body size and level -> one second or so of a toy animal's voice, in NumPy and SciPy.

Source and filter: pulses along a pitch contour, mixed with breath noise, go through a cascade of
two-pole resonators (the formants), as in Klatt, "Software for a cascade/parallel formant
synthesizer", JASA 67 (1980), with a vowel that may move during the call. A larger body has a lower
pitch and lower formants.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, rfft, rfftfreq
from scipy.signal import sosfilt

SAMPLE_RATE = 24000

Range = tuple[float, float]
Vowel = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How a class sounds at body size 1; times in seconds, frequencies in Hz.

    Attributes:
        calls: Fewest and most calls of a bout.
        length: Of one call.
        gap: Between the calls of a bout.
        pitch: Frequency where the contour is 1.
        contour: Pitch at evenly spaced moments of a call, relative to ``pitch``.
        bright: Width of the source's spectrum; a width near the pitch gives a pure tone.
        breath: Share of noise in the source.
        vowels: Formants at evenly spaced moments of a call; none: no filter.
        bandwidth: Of the formants.
        vibrato, tremolo: Rate, and depth in [0, 1].
        rough: Depth of the random flutter of the pitch.
        attack, release: Shares of the call.
        decay: Rate of loss over the call, in nepers.
    """

    calls: tuple[int, int]
    length: Range
    gap: Range = (0.05, 0.1)
    pitch: Range
    contour: tuple[float, ...]
    bright: float
    breath: float
    vowels: tuple[Vowel, ...] = ()
    bandwidth: float = 120.0
    vibrato: Range = (5.0, 0.01)
    tremolo: Range = (5.0, 0.0)
    rough: float = 0.01
    attack: float = 0.1
    release: float = 0.3
    decay: float = 0.0


VOICES: dict[str, Voice] = {
    "cat": Voice(
        calls=(1, 1), length=(0.5, 0.8), pitch=(520, 620), contour=(0.85, 1.2, 1.3, 1.1, 0.8),
        bright=2600, breath=0.06, attack=0.15, release=0.35,
        vowels=((450, 2400, 3200), (1000, 1700, 3000), (900, 1300, 2800), (450, 900, 2600)),
    ),
    "chicken": Voice(
        calls=(4, 7), length=(0.035, 0.07), gap=(0.06, 0.12), pitch=(420, 520),
        contour=(1.25, 1.0, 0.75), bright=2500, breath=0.3, vowels=((900, 1900, 3400),),
        bandwidth=200, attack=0.06, release=0.6, decay=1.5,
    ),
    "cow": Voice(
        calls=(1, 1), length=(0.7, 0.95), pitch=(115, 140), contour=(0.85, 1.0, 1.08, 1.05, 0.9),
        bright=1500, breath=0.03, attack=0.18, release=0.25,
        vowels=((280, 800, 2200), (480, 950, 2300), (500, 950, 2300)), bandwidth=90,
    ),
    "coyote": Voice(
        calls=(1, 1), length=(0.75, 0.98), pitch=(680, 800),
        contour=(0.6, 0.95, 1.1, 1.1, 1.0, 0.8), bright=900, breath=0.05,
        vibrato=(5.5, 0.015), attack=0.15, release=0.25,
    ),
    "dog": Voice(
        calls=(1, 3), length=(0.12, 0.2), gap=(0.1, 0.2), pitch=(330, 420),
        contour=(1.1, 1.25, 0.9, 0.55), bright=2200, breath=0.4, vowels=((750, 1250, 2700),),
        bandwidth=250, rough=0.06, attack=0.05, release=0.5, decay=1.0,
    ),
    "duck": Voice(
        calls=(2, 4), length=(0.13, 0.21), gap=(0.05, 0.11), pitch=(190, 235),
        contour=(1.0, 1.1, 1.0, 0.85), bright=6000, breath=0.06,
        vowels=((1150, 2300, 3600),), bandwidth=110, rough=0.03, attack=0.05, release=0.3,
        decay=0.5,
    ),
    "horse": Voice(
        calls=(1, 1), length=(0.7, 0.95), pitch=(900, 1050),
        contour=(1.0, 1.15, 0.95, 0.75, 0.55, 0.42), bright=3200, breath=0.15,
        vowels=((1000, 2000, 3500),), bandwidth=350,
        vibrato=(13.0, 0.1), tremolo=(13.0, 0.6), rough=0.03, attack=0.08, release=0.25,
    ),
    "lion": Voice(
        calls=(1, 1), length=(0.7, 0.98), pitch=(58, 75), contour=(0.8, 1.2, 1.25, 1.0, 0.75),
        bright=1600, breath=0.6, vowels=((320, 700, 1500), (520, 950, 1900), (350, 700, 1500)),
        bandwidth=160, tremolo=(27.0, 0.7), rough=0.1, attack=0.2, release=0.35,
    ),
    "pig": Voice(
        calls=(2, 4), length=(0.12, 0.22), gap=(0.06, 0.14), pitch=(120, 155),
        contour=(0.8, 1.0, 1.3), bright=2500, breath=0.5,
        vowels=((420, 850, 2600), (380, 2100, 2900)), bandwidth=130, tremolo=(45.0, 0.7),
        rough=0.12, attack=0.12, release=0.25,
    ),
    "pigeon": Voice(
        calls=(2, 3), length=(0.17, 0.3), gap=(0.03, 0.08), pitch=(360, 430),
        contour=(0.9, 1.05, 1.1, 0.95), bright=230, breath=0.02, tremolo=(22.0, 0.35),
        rough=0.008, attack=0.25, release=0.35,
    ),
    "sheep": Voice(
        calls=(1, 1), length=(0.55, 0.85), pitch=(290, 350), contour=(0.95, 1.05, 1.0, 0.95, 0.9),
        bright=3000, breath=0.1, vowels=((750, 1800, 2800),), vibrato=(8.0, 0.05),
        tremolo=(8.0, 0.75), attack=0.06, release=0.2,
    ),
}  # fmt: skip


def _resonators(vowel: Vowel, bandwidth: float) -> np.ndarray:
    """Return second-order sections of a cascade of two-pole resonators, gain 1 at 0 Hz."""
    sections = np.zeros((len(vowel), 6))
    for section, formant in zip(sections, vowel, strict=True):
        radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
        real = -2.0 * radius * np.cos(2.0 * np.pi * min(formant, 0.45 * SAMPLE_RATE) / SAMPLE_RATE)
        section[:] = 1.0 + real + radius**2, 0.0, 0.0, 1.0, real, radius**2
    return sections


def _flutter(rng: np.random.Generator, share: np.ndarray, seconds: float) -> np.ndarray:
    """Return a random contour, about 40 turns a second, of the length of ``share`` in [0, 1]."""
    knots = rng.standard_normal(max(4, round(40 * seconds)))
    return np.interp(share * (len(knots) - 1), np.arange(len(knots)), knots)


def _call(voice: Voice, size: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return one call of ``seconds``, float64 (samples,), RMS near 1 where it is loudest."""
    num_samples = max(16, round(seconds * SAMPLE_RATE))
    share = np.linspace(0.0, 1.0, num_samples)
    time = share * seconds
    bend = np.array(voice.contour) * rng.uniform(0.95, 1.05, len(voice.contour))
    base = rng.uniform(0.98, 1.02) * size**-1.3
    pitch = base * np.interp(share, np.linspace(0.0, 1.0, len(bend)), bend)
    rate, depth = voice.vibrato
    pitch *= 1.0 + depth * np.sin(2.0 * np.pi * (rate * time + rng.random()))
    pitch *= 1.0 + voice.rough * _flutter(rng, share, seconds)
    middle = 0.5 * (voice.pitch[0] + voice.pitch[1])
    phase = 2.0 * np.pi * np.cumsum(pitch * middle) / SAMPLE_RATE
    # exp(k cos) is a periodic bell: harmonics fall off like a Gaussian, so there is no aliasing.
    source = np.exp(0.5 * (voice.bright / middle) ** 2 * (np.cos(phase) - 1.0))
    source -= source.mean()
    source /= np.sqrt(np.mean(source**2)) + 1e-12
    noise = rng.standard_normal(num_samples)
    sound = (1.0 - voice.breath) * source + voice.breath * noise
    if voice.vowels:
        scale = size**-0.6 * rng.uniform(0.96, 1.04)
        place = share * (len(voice.vowels) - 1)
        sound = sum(
            np.maximum(0.0, 1.0 - np.abs(place - i))
            * sosfilt(_resonators(tuple(f * scale for f in vowel), voice.bandwidth), sound)
            for i, vowel in enumerate(voice.vowels)
        )
    rate, depth = voice.tremolo
    rate *= rng.uniform(0.9, 1.1)
    sound *= 1.0 - depth * (0.5 + 0.5 * np.sin(2.0 * np.pi * (rate * time + rng.random())))
    rise = np.clip(share / voice.attack, 0.0, 1.0) * np.clip(
        (1.0 - share) / voice.release, 0.0, 1.0
    )
    sound *= np.sin(0.5 * np.pi * rise) ** 2 * np.exp(-voice.decay * share)
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-12)


def background(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return white, pink or wind noise, float64 (samples,), RMS 1."""
    kind = rng.integers(3)
    noise = rng.standard_normal(num_samples)
    if kind > 0:
        frequency = np.maximum(rfftfreq(num_samples, 1.0 / SAMPLE_RATE), 30.0)
        slope = frequency**-0.5 if kind == 1 else 1.0 / (1.0 + (frequency / 300.0) ** 2)
        noise = irfft(rfft(noise) * slope, num_samples)
    if kind == 2:
        gusts = rng.uniform(0.3, 1.0, 6)
        noise *= np.interp(np.linspace(0.0, 5.0, num_samples), np.arange(6), gusts)
    return noise / np.sqrt(np.mean(noise**2))


def speak(
    label: str, size: float, distance: float, snr: float, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the voice of one animal with its background.

    Args:
        label: A key of VOICES.
        size: Body size; pitch goes with size to the power -1.3.
        distance: In metres; level falls twice as fast as in free air (12 dB a doubling), so that
            distance is audible above the background.
        snr: Level of the voice above the background, in dB.
        seconds: Length of the result.
        rng: Source of everything else.

    Returns:
        float32 (round(seconds * SAMPLE_RATE),), peak below 1.
    """
    voice = VOICES[label]
    num_samples = round(seconds * SAMPLE_RATE)
    own = size / (rng.uniform(*voice.pitch) / (0.5 * sum(voice.pitch))) ** (1.0 / 1.3)
    level = -14.0 - 40.0 * np.log10(distance / 3.0) + rng.uniform(-1.0, 1.0)
    sound = np.zeros(num_samples)
    sounding = 0
    for start, length in _bouts(voice, seconds, rng):
        call = _call(voice, own, length, rng) * rng.uniform(0.8, 1.1)
        first = round(start * SAMPLE_RATE)
        part = sound[first : first + len(call)]
        part += call[: len(part)]
        sounding += len(part)
    noise = background(num_samples, rng)
    # The level is measured on the calls, without the pauses between them.
    sound *= np.sqrt(sounding / num_samples / np.mean(sound**2))
    sound += noise * np.sqrt(sounding / num_samples) * 10.0 ** (-snr / 20.0)
    return np.tanh(sound * 10.0 ** (level / 20.0)).astype(np.float32)


def _bouts(voice: Voice, seconds: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return start and length of each call, at least one, all inside ``seconds``."""
    calls: list[tuple[float, float]] = []
    clock = 0.0
    while True:
        number = int(rng.integers(voice.calls[0], voice.calls[1] + 1))
        lengths = rng.uniform(*voice.length, number)
        steps = lengths + rng.uniform(*voice.gap, number)
        room = max(0.0, seconds - clock - steps.sum())
        clock += rng.uniform(0.0, min(room, 0.5))
        for length, step in zip(lengths, steps, strict=True):
            if calls and clock + length > seconds:
                return calls
            calls.append((clock, min(length, seconds - clock)))
            clock += step
        clock += rng.uniform(0.2, 0.6)
        if clock >= seconds:
            return calls
