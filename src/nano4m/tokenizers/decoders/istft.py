"""A spectrum a frame and its inverse STFT, as in Vocos (Siuzdak 2023, arXiv:2306.00814).

The network runs at the rate of frames, not of samples, so it is fast; the inverse transform makes
the waveform. Frame t is centred on sample (t + 1/2) * hop.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.wave.layers import upward

WINDOW_HOPS = 4
"""Length of the Hann window in hops."""

QUIET = 1e-4
"""Amplitude (-80 dB of full scale) below which levels do not matter."""

START_LOG = -7.0
"""Logarithm of the amplitude that an untrained head gives to every bin."""

MOST_LOG = 1.0
"""Logarithm of the amplitude above which levels hardly grow."""


def overlap_add(frames_BFK: Tensor, hop: int) -> Tensor:
    """Return the sum (B, K + (F - 1) * hop) of frames (B, F, K) that begin ``hop`` apart."""
    batch, frames, size = frames_BFK.shape
    parts = frames_BFK.view(batch, frames, size // hop, hop)
    total = frames_BFK.new_zeros(batch, frames + parts.shape[2] - 1, hop)
    for i in range(parts.shape[2]):
        total[:, i : i + frames] = total[:, i : i + frames] + parts[:, :, i]
    return total.flatten(1)


class SpectrumHead(nn.Module):
    """Features (B, width, F) to a sound (B, F * hop), through magnitudes and phases."""

    window: Tensor

    def __init__(self, width: int, hop: int) -> None:
        super().__init__()
        self.hop, self.size = hop, WINDOW_HOPS * hop
        bins = self.size // 2 + 1
        self.log_amplitude, self.phase = nn.Linear(width, bins), nn.Linear(width, bins)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, x_BWF: Tensor) -> Tensor:
        """Return sounds of the spectra that the features stand for."""
        return self.sound(*self.spectrum(x_BWF))

    def spectrum(self, x_BWF: Tensor) -> tuple[Tensor, Tensor]:
        """Return log amplitudes, 0 for a sine of full scale, and phases, both (B, F, bins)."""
        x_BFW = x_BWF.transpose(1, 2)
        level = self.log_amplitude(x_BFW) + START_LOG
        # Nothing is that loud. A hard limit would have no gradient, and no way back.
        return level - 0.99 * (level - MOST_LOG).relu(), self.phase(x_BFW)

    def sound(self, level_BFN: Tensor, phase_BFN: Tensor) -> Tensor:
        """Return the inverse STFT, (B, F * hop)."""
        magnitude = level_BFN.exp() * (self.window.sum() / 2)
        # The phase that a sine at the centre of a bin gains from frame to frame is given, so that
        # a constant output is a steady tone. It repeats every WINDOW_HOPS frames.
        frames, bins = (torch.arange(n, device=level_BFN.device) for n in level_BFN.shape[1:])
        turns = (frames[:, None] * bins % WINDOW_HOPS) * (2 * math.pi / WINDOW_HOPS)
        phase = phase_BFN + turns
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        pieces = torch.fft.irfft(spectrum, self.size) * self.window
        weight = overlap_add(self.window.square().expand(1, len(frames), -1), self.hop)
        total = overlap_add(pieces, self.hop) / weight.clamp_min(1e-2)
        side = (self.size - self.hop) // 2
        return total[:, side : side + len(frames) * self.hop]

    def level_distance(self, level_BFN: Tensor, sound_BS: Tensor) -> Tensor:
        """Return the mean distance of log amplitudes from those of sounds (B, F * hop), in nepers.

        It does not see the phases, so encoder and levels learn before the phases fit together.
        """
        side = (self.size - self.hop) // 2
        frames = F.pad(sound_BS, (side, side)).unfold(1, self.size, self.hop)
        spectrum = torch.fft.rfft(frames * (self.window * (2 / self.window.sum())))
        power = spectrum.real.square() + spectrum.imag.square() + QUIET**2
        return ((level_BFN.exp() + QUIET).log() - 0.5 * power.log()).abs().mean()


class IstftDecoder(nn.Module):
    """Residual stacks up to the frames of the first stride, and the spectrum head."""

    def __init__(self, section: WaveVQ) -> None:
        super().__init__()
        self.body = nn.Sequential(*upward(section))
        self.head = SpectrumHead(section.width, section.strides[0])

    def forward(self, latents_BCT: Tensor) -> Tensor:
        """Return sounds (B, T * hop) of latents (B, C, T)."""
        return self.head(self.body(latents_BCT))

    def learn(self, latents_BCT: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return sounds, and the distance of the levels of their spectra from the real sounds'."""
        level, phase = self.head.spectrum(self.body(latents_BCT))
        return self.head.sound(level, phase), self.head.level_distance(level, real_BS)


def build_istft(section: WaveVQ, sample_rate: int) -> IstftDecoder:
    """Return the decoder of a section."""
    del sample_rate
    return IstftDecoder(section)
