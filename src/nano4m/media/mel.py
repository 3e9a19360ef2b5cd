"""Sound to log-mel spectrogram and back, in PyTorch only.

Frame t is centred on sample (t + 1/2) * hop, the ends are padded with zeros, so that a sound has
exactly ceil(samples / hop) frames. Levels are in dB: a sine of amplitude 1 whose frequency is at
the peak of a band reads 0 to 2 dB there. Mel scale of HTK (Young et al., The HTK Book), triangles
of height 1. Back: multiplicative updates for the linear spectrum (Lee and Seung 1999), then fast
Griffin-Lim for the phase (Perraudin et al. 2013, https://doi.org/10.1109/WASPAA.2013.6701851).

Legend: B batch, S samples, F frames, M mel bands, N bins of the one-sided spectrum.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.errors import UserError

FLOOR_DB = -80.0
"""Lowest level that is stored: 80 dB below a sine of full scale."""


def mel_filters(sample_rate: int, n_fft: int, mels: int) -> Tensor:
    """Return triangular filters, float32 (mels, n_fft // 2 + 1), from 0 Hz to half the rate.

    Raises:
        UserError: A filter is so narrow that it holds no bin of the spectrum.
    """
    top = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    points = 700.0 * (
        10.0 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595.0) - 1.0
    )
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, mid, high = points[:-2, None], points[1:-1, None], points[2:, None]
    filters = torch.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)).clamp_min(0)
    empty = int((filters.sum(1) == 0).sum())
    if empty:
        raise UserError(
            f"{empty} of {mels} mel bands hold no bin of a spectrum with n_fft {n_fft} at "
            f"{sample_rate} Hz; take fewer mels or a larger n_fft"
        )
    return filters.float()


class MelSpectrogram:
    """Log-mel spectrogram in dB, floored at FLOOR_DB.

    Args:
        sample_rate: Of the sound, in Hz.
        n_fft: Samples of the Hann window, a multiple of 2 * hop.
        hop: Samples between frames.
        mels: Number of bands.

    Raises:
        UserError: Incompatible sizes.
    """

    def __init__(self, sample_rate: int, n_fft: int, hop: int, mels: int) -> None:
        if hop % 2 or n_fft % (2 * hop):
            raise UserError(f"n_fft {n_fft} must be a multiple of 2 * hop, and hop {hop} even")
        self.sample_rate, self.n_fft, self.hop, self.mels = sample_rate, n_fft, hop, mels
        self.window = torch.hann_window(n_fft)
        self.filters = mel_filters(sample_rate, n_fft, mels)
        self._scale = 2.0 / float(self.window.sum())

    def to(self, device: torch.device | str) -> "MelSpectrogram":
        """Move the constants to a device."""
        self.window, self.filters = self.window.to(device), self.filters.to(device)
        return self

    def frames(self, samples: int) -> int:
        """Return the number of frames of a sound of this many samples."""
        return -(-samples // self.hop)

    def __call__(self, sound: Tensor) -> Tensor:
        """Return the log-mel, float32 (B, mels, frames) in dB, of a sound, float32 (B, samples).

        Raises:
            ValueError: Not two axes, or no sample.
        """
        if sound.ndim != 2 or not sound.shape[1]:
            raise ValueError(f"a sound is (B, samples), not {tuple(sound.shape)}")
        power_BFN = self._spectrum(self._pad(sound)).abs().square()
        mel_BFM = power_BFN @ self.filters.T * self._scale**2
        return (10.0 * mel_BFM.clamp_min(10.0 ** (FLOOR_DB / 10)).log10()).transpose(1, 2)

    def to_waveform(
        self, logmel: Tensor, iterations: int = 32, samples: int | None = None
    ) -> Tensor:
        """Return a sound, float32 (B, samples), of log-mel (B, mels, frames) in dB.

        The same spectrogram always gives the same sound, whatever else is in the batch.

        Args:
            logmel: Decibels as ``__call__`` gives them.
            iterations: Of Griffin-Lim; more than 32 improve little.
            samples: Length of the result; none: frames * hop.

        Raises:
            ValueError: Not (B, mels, frames), or more samples than the frames cover.
        """
        if logmel.ndim != 3 or logmel.shape[1] != self.mels:
            raise ValueError(f"log-mel is (B, {self.mels}, frames), not {tuple(logmel.shape)}")
        covered = logmel.shape[2] * self.hop
        samples = covered if samples is None else samples
        if samples > covered:
            raise ValueError(f"{samples} samples of {logmel.shape[2]} frames that cover {covered}")
        magnitude_BFN = self._linear_power(logmel.transpose(1, 2).float()).sqrt()
        return self._griffin_lim(magnitude_BFN, iterations)[:, :samples].contiguous()

    def _pad(self, sound: Tensor) -> Tensor:
        side = (self.n_fft - self.hop) // 2
        missing = -sound.shape[1] % self.hop
        return F.pad(sound, (side, side + missing))

    def _spectrum(self, padded: Tensor) -> Tensor:
        return torch.fft.rfft(padded.unfold(1, self.n_fft, self.hop) * self.window)

    def _linear_power(self, logmel_BFM: Tensor, iterations: int = 8) -> Tensor:
        # A value at the floor may be anything below it: make it silent, not a hiss at the floor.
        mel = (
            torch.where(logmel_BFM <= FLOOR_DB + 0.5, 0.0, 10.0 ** (logmel_BFM / 10))
            / self._scale**2
        )
        per_bin = self.filters.sum(0).clamp_min(1e-3)
        power = (mel / self.filters.sum(1)) @ self.filters / per_bin
        for _ in range(iterations):
            ratio = mel / (power @ self.filters.T).clamp_min(1e-12)
            power = power * (ratio @ self.filters) / per_bin
        return power

    def _overlap_add(self, frames_BFK: Tensor) -> Tensor:
        batch, frames, _ = frames_BFK.shape
        parts = frames_BFK.view(batch, frames, self.n_fft // self.hop, self.hop)
        total = frames_BFK.new_zeros(batch, frames + parts.shape[2] - 1, self.hop)
        for i in range(parts.shape[2]):
            total[:, i : i + frames] += parts[:, :, i]
        return total.flatten(1)

    def _griffin_lim(
        self, magnitude_BFN: Tensor, iterations: int, momentum: float = 0.99
    ) -> Tensor:
        batch, frames, bins = magnitude_BFN.shape
        side = (self.n_fft - self.hop) // 2
        weight = self._overlap_add(self.window.square().expand(1, frames, -1).contiguous())
        weight = weight[:, side:-side].clamp_min(1e-6)

        def inverse(spectrum: Tensor) -> Tensor:
            frames_BFK = torch.fft.irfft(spectrum, self.n_fft) * self.window
            return self._overlap_add(frames_BFK)[:, side:-side] / weight

        # One draw for the whole batch: a sound does not depend on the others of its batch.
        start = torch.rand(1, frames, bins, generator=torch.Generator().manual_seed(0))
        start = start.to(magnitude_BFN.device) * (2 * math.pi)
        spectrum = magnitude_BFN * torch.polar(torch.ones_like(start), start)
        previous = torch.zeros_like(spectrum)
        for _ in range(iterations):
            consistent = self._spectrum(self._pad(inverse(spectrum)))
            ahead = consistent + momentum * (consistent - previous)
            previous = consistent
            spectrum = ahead * (magnitude_BFN / ahead.abs().clamp_min(1e-12))
        sound = inverse(spectrum)
        # Inconsistent frames cancel partly: restore the power of the magnitudes.
        asked = magnitude_BFN.square().sum((1, 2))
        got = self._spectrum(self._pad(sound)).abs().square().sum((1, 2))
        return sound * (asked / got.clamp_min(1e-12)).sqrt()[:, None]
