"""Distances between sounds that train ``wave_vq``; all take (B, samples) and return a scalar."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.media.mel import mel_filters

SIZES = (2048, 512, 128)
"""Windows of the multi-resolution STFT in samples; hops are a quarter."""

QUIET = 1e-4
"""Amplitude (-80 dB of full scale) that is added to magnitudes before their logarithm."""

MEL_SIZE, MEL_BANDS = 1024, 64
"""Window and bands of the mel distance."""


def magnitudes(sound_BS: Tensor, window: Tensor) -> Tensor:
    """Return STFT magnitudes (B, F, bins), windows a quarter of their length apart.

    The ends are padded with zeros; a sine of amplitude 1 has magnitude 1.
    """
    size = len(window)
    hop = size // 4
    missing = -sound_BS.shape[1] % hop
    padded = F.pad(sound_BS, (size // 2, size // 2 + missing))
    spectrum = torch.fft.rfft(padded.unfold(1, size, hop) * window)
    power = spectrum.real.square() + spectrum.imag.square()
    # The root's gradient is unbounded at zero.
    return (power + 1e-12).sqrt() * (2 / window.sum())


class WaveLoss:
    """Weighted sum of waveform L1, multi-resolution STFT and log-mel L1.

    STFT: spectral convergence and L1 of log magnitudes, the mean of all windows (Yamamoto et al.
    2020, arXiv:1910.11480); mel: as in HiFi-GAN (Kong et al. 2020, arXiv:2010.05646).
    """

    def __init__(self, section: WaveVQ, sample_rate: int) -> None:
        self.section = section
        self.windows = [torch.hann_window(size) for size in SIZES]
        self.mel_window = torch.hann_window(MEL_SIZE)
        self.filters = mel_filters(sample_rate, MEL_SIZE, MEL_BANDS).T.contiguous()

    def to(self, device: torch.device | str) -> Self:
        """Move the constants to a device and return this loss."""
        self.windows = [window.to(device) for window in self.windows]
        self.mel_window, self.filters = self.mel_window.to(device), self.filters.to(device)
        return self

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the distance of made sounds (B, samples) from real ones."""
        total = made.new_zeros(())
        for weight, distance in (
            (self.section.l1_weight, self.l1),
            (self.section.stft_weight, self.stft),
            (self.section.mel_weight, self.mel),
        ):
            if weight:
                total = total + weight * distance(made, real)
        return total

    def l1(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the mean absolute difference over the real sounds' root mean square."""
        return (made - real).abs().mean() / real.square().mean().sqrt().clamp_min(1e-3)

    def stft(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the mean over windows of convergence and log-magnitude distance."""
        total = made.new_zeros(())
        for window in self.windows:
            x, y = magnitudes(real, window), magnitudes(made, window)
            convergence = (y - x).square().sum().sqrt() / x.square().sum().sqrt().clamp_min(1e-3)
            total = total + convergence + _log_distance(y, x)
        return total / len(self.windows)

    def mel(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the mean absolute difference of log-mels, in nepers."""
        x, y = (
            (magnitudes(sound, self.mel_window).square() @ self.filters).sqrt()
            for sound in (real, made)
        )
        return _log_distance(y, x)


def _log_distance(y: Tensor, x: Tensor) -> Tensor:
    return ((y + QUIET).log() - (x + QUIET).log()).abs().mean()


def nepers_to_db(value: float) -> float:
    """Return a difference of natural logarithms of amplitudes in dB."""
    return value * 20 / math.log(10)
