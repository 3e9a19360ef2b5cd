"""Distances between two sounds of equal length: sample by sample, and between their spectra.

All take a reference and an estimate, float32 (B, samples) in [-1, 1], return a number a sound (B,),
are differentiable, and never give NaN for finite sounds. Spectra are floored at FLOOR_DB of a sine
of full scale, so that two silences are equal.

Legend: B batch, S samples, F frames, N bins of the one-sided spectrum.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.media.mel import FLOOR_DB, MelSpectrogram

MOST_SDR_DB = 100.0
"""Largest ratio that is given, above the precision of float32; its negative is the smallest."""

RESOLUTIONS = (512, 1024, 2048)
"""Windows of the multi-resolution distance, in samples; each moves by a fourth of itself."""

SPECTRAL_WINDOW = 1024
"""Window of the log-spectral distance, in samples."""

MEL_FORM = {"n_fft": 1024, "hop": 256, "mels": 64}
"""Spectrogram of ``mel_distance``."""

CLICK_RATIO = 12.0
"""How much larger than around it a bend of the waveform is that is counted as a click ..."""
CLICK_LEVEL = 0.01
"""... if it is also this large, of full scale."""
CLICK_SECONDS = 0.01
"""Time on each side that a click is compared with; clicks that are nearer count as one."""


def _same(reference: Tensor, estimate: Tensor) -> None:
    if reference.ndim != 2 or reference.shape != estimate.shape or not reference.shape[1]:
        raise ValueError(
            f"two sounds are (B, samples) of equal shape, not {tuple(reference.shape)} and "
            f"{tuple(estimate.shape)}"
        )


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio in dB, higher is better.

    Le Roux et al. 2019 (arXiv:1811.02508), of sounds without their mean: equal to within a factor
    is MOST_SDR_DB, unrelated is far below 0. If one is silent it is -MOST_SDR_DB, if both
    are MOST_SDR_DB. It compares samples, so a made-up phase has a low value however
    it sounds.

    Raises:
        ValueError: Unequal shapes, or no sample.
    """
    _same(reference, estimate)
    x, y = (s.double() - s.double().mean(1, keepdim=True) for s in (reference, estimate))
    quiet = 1e-12 * x.shape[1]
    energy, made = x.square().sum(1), y.square().sum(1)
    target = ((x * y).sum(1) / energy.clamp_min(quiet))[:, None] * x
    kept, lost = target.square().sum(1), (y - target).square().sum(1)
    # The floor keeps the ratio of equal sounds finite, and that of silence defined.
    least = 10 ** (-MOST_SDR_DB / 10)
    ratio = 10 * ((kept + least * quiet) / (lost + least * (kept + quiet))).log10()
    silent, mute = energy <= quiet, made <= quiet
    ratio = torch.where(silent ^ mute, -MOST_SDR_DB, ratio)
    ratio = torch.where(silent & mute, MOST_SDR_DB, ratio)
    return ratio.clamp(-MOST_SDR_DB, MOST_SDR_DB).float()


def magnitudes(sound: Tensor, window: int) -> Tensor:
    """Return the spectrum (B, N, F) of a sound: 1 for a sine of full scale at a bin.

    A Hann window of ``window`` samples moves by a fourth of itself; the ends are padded with zeros.
    """
    hann = torch.hann_window(window, device=sound.device)
    spectrum = torch.stft(
        sound, window, window // 4, window=hann, center=True, pad_mode="constant",
        return_complex=True,
    )  # fmt: skip
    # The gradient of a magnitude at 0 has no direction.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-18).sqrt() * (2 / hann.sum())


def decibels(magnitude: Tensor) -> Tensor:
    """Return magnitudes in dB of a sine of full scale, not below FLOOR_DB."""
    return 20 * magnitude.clamp_min(10 ** (FLOOR_DB / 20)).log10()


def log_spectral_distance(
    reference: Tensor, estimate: Tensor, window: int = SPECTRAL_WINDOW
) -> Tensor:
    """Return the log-spectral distance in dB: root mean square over bins, mean over frames.

    Gray and Markel 1976 (https://doi.org/10.1109/TASSP.1976.1162849).

    Raises:
        ValueError: Unequal shapes, or no sample.
    """
    _same(reference, estimate)
    x, y = (decibels(magnitudes(s.float(), window)) for s in (reference, estimate))
    return (x - y).square().mean(1).clamp_min(1e-12).sqrt().mean(1)


def multi_resolution_stft(
    reference: Tensor, estimate: Tensor, windows: tuple[int, ...] = RESOLUTIONS
) -> Tensor:
    """Return the multi-resolution STFT distance: spectral convergence and log magnitude, averaged.

    Yamamoto et al. 2020 (arXiv:1910.11480): of each window, the Frobenius norm of the difference of
    magnitudes over that of the reference, and the mean absolute difference of their natural
    logarithms. A silent reference is compared with the floor.

    Raises:
        ValueError: Unequal shapes, or no sample.
    """
    _same(reference, estimate)
    found = []
    for window in windows:
        x, y = (magnitudes(s.float(), window) for s in (reference, estimate))
        floor = 10 ** (FLOOR_DB / 20) * (x[0].numel() ** 0.5)
        norm = x.square().sum((1, 2)).sqrt().clamp_min(floor)
        convergence = (x - y).square().sum((1, 2)).clamp_min(1e-24).sqrt() / norm
        logs = [decibels(m) * (math.log(10) / 20) for m in (x, y)]
        found.append(convergence + (logs[0] - logs[1]).abs().mean((1, 2)))
    return torch.stack(found).mean(0)


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Return the mean absolute difference in dB of log-mel spectrograms of MEL_FORM.

    Raises:
        ValueError: Unequal shapes, or no sample.
        UserError: The rate is too low for the bands.
    """
    _same(reference, estimate)
    mel = MelSpectrogram(sample_rate, **MEL_FORM).to(reference.device)
    return (mel(reference.float()) - mel(estimate.float())).abs().mean((1, 2))


def clicks_a_second(sound: Tensor, sample_rate: int) -> Tensor:
    """Return the clicks a second of each sound: bends of the waveform that stand out of it.

    A bend is the second difference of the samples. It is a click where it is CLICK_LEVEL or more
    and CLICK_RATIO times the root mean square of the bends around it, itself left out.

    Raises:
        ValueError: Not (B, samples).
    """
    if sound.ndim != 2:
        raise ValueError(f"a sound is (B, samples), not {tuple(sound.shape)}")
    if sound.shape[1] < 8:
        return sound.new_zeros(len(sound))
    bend = sound.double().diff(n=2, dim=1).abs()
    side = max(8, round(CLICK_SECONDS * sample_rate))
    square = bend.square()
    sums = F.pad(square.cumsum(1), (1, 0))
    at = torch.arange(bend.shape[1], device=sound.device)
    # The neighbours of a step bend too: three on each side are left out.
    low, high = (at - side).clamp_min(0), (at + side + 1).clamp_max(bend.shape[1])
    near, far = (at - 3).clamp_min(0), (at + 4).clamp_max(bend.shape[1])
    energy = sums[:, high] - sums[:, low] - (sums[:, far] - sums[:, near])
    around = (energy.clamp_min(0) / ((high - low) - (far - near)).clamp_min(1)).sqrt()
    is_click = (bend > CLICK_RATIO * around) & (bend > CLICK_LEVEL)
    first = is_click.clone()
    seen = F.pad(is_click.long().cumsum(1), (1, 0))
    first &= (seen[:, at] - seen[:, (at - side).clamp_min(0)]) == 0
    return (first.sum(1) * (sample_rate / sound.shape[1])).float()
