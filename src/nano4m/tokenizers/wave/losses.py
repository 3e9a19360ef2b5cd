"""Distances between sounds that train ``wave_vq``; all take (B, samples) and return a scalar."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.media.mel import mel_filters

SIZES = (2048, 1024, 256)
"""Windows of the multi-resolution STFT in samples, for rates up to 24 kHz; twice as long above, so
that every band of the mel distance holds a bin. Hops are a quarter."""

MEL_BANDS = 64
"""Bands of the mel distance, which sees the second of the windows."""

QUIET = 1e-4
"""Amplitude (-80 dB of full scale) that is added to magnitudes before their logarithm."""


class Magnitude(torch.autograd.Function):
    """Magnitudes (..., bins) of the spectra of frames (..., size).

    PyTorch's own gradient takes a complex transform of twice the size; a real one gives the same.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor) -> Tensor:
        """Return the magnitudes."""
        spectrum = torch.fft.rfft(frames)
        # Three times as fast as the library's absolute value, which guards against overflow.
        magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()
        ctx.save_for_backward(spectrum, magnitude)
        ctx.size = frames.shape[-1]
        return magnitude

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of the frames; of a magnitude of zero it is zero."""
        spectrum, magnitude = ctx.saved_tensors
        weight = gradients[0] / magnitude.clamp_min(1e-9)
        # All bins but the first and the last stand for two of the full spectrum.
        weight[..., 1:-1] *= 0.5
        return torch.fft.irfft(spectrum * weight, ctx.size, norm="forward")


def magnitudes(sound_BS: Tensor, window: Tensor) -> Tensor:
    """Return STFT magnitudes (B, F, bins), windows of even length, a quarter of it apart.

    The ends are padded with zeros; a sine of amplitude 1 has magnitude 1.
    """
    size = len(window)
    missing = -sound_BS.shape[1] % (size // 4)
    padded = F.pad(sound_BS, (size // 2, size // 2 + missing))
    scaled = window * (2 / window.sum())
    return Magnitude.apply(padded.unfold(1, size, size // 4) * scaled)


class WaveLoss:
    """Weighted sum of waveform L1, multi-resolution STFT and log-mel L1.

    STFT: spectral convergence and L1 of log magnitudes, the mean of all windows (Yamamoto et al.
    2020, arXiv:1910.11480); mel: as in HiFi-GAN (Kong et al. 2020, arXiv:2010.05646).
    """

    def __init__(self, section: WaveVQ, sample_rate: int) -> None:
        self.section = section
        sizes = [size if sample_rate <= 24000 else 2 * size for size in SIZES]
        self.windows = [torch.hann_window(size) for size in sizes]
        self.filters = mel_filters(sample_rate, sizes[1], MEL_BANDS).T.contiguous()

    def to(self, device: torch.device | str) -> Self:
        """Move the constants to a device and return this loss."""
        self.windows = [window.to(device) for window in self.windows]
        self.filters = self.filters.to(device)
        return self

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the distance of made sounds (B, samples) from real ones."""
        section, total = self.section, made.new_zeros(())
        if section.l1_weight:
            total = total + section.l1_weight * l1_distance(made, real)
        for i, window in enumerate(self.windows):
            in_mel = section.mel_weight > 0 and i == 1
            if not section.stft_weight and not in_mel:
                continue
            y_BFN, x_BFN = magnitudes(made, window), magnitudes(real, window)
            if section.stft_weight:
                weight = section.stft_weight / len(self.windows)
                total = total + weight * spectral_distance(y_BFN, x_BFN)
            if in_mel:
                total = total + section.mel_weight * mel_distance(y_BFN, x_BFN, self.filters)
        return total


def l1_distance(made: Tensor, real: Tensor) -> Tensor:
    """Return the mean absolute difference of sounds over the real ones' root mean square."""
    return (made - real).abs().mean() / real.square().mean().sqrt().clamp_min(1e-3)


def spectral_distance(y_BFN: Tensor, x_BFN: Tensor) -> Tensor:
    """Return spectral convergence plus the mean distance of log magnitudes, in nepers."""
    scale = x_BFN.square().sum().sqrt().clamp_min(1e-3)
    # The root's gradient is unbounded at zero.
    return ((y_BFN - x_BFN).square().sum() + 1e-12).sqrt() / scale + _log_distance(y_BFN, x_BFN)


def mel_distance(y_BFN: Tensor, x_BFN: Tensor, filters: Tensor) -> Tensor:
    """Return the mean absolute difference of log-mels, in nepers."""
    x, y = ((m.square() @ filters + QUIET**2).log() * 0.5 for m in (x_BFN, y_BFN))
    return (y - x).abs().mean()


def _log_distance(y: Tensor, x: Tensor) -> Tensor:
    return ((y + QUIET).log() - (x + QUIET).log()).abs().mean()
