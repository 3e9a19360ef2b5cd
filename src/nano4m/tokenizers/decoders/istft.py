"""A spectrum a frame and its inverse STFT, as in Vocos (Siuzdak 2023, arXiv:2306.00814).

The network runs at the rate of frames, not of samples, so it is fast; the inverse transform makes
the waveform. Frame t is centred on sample (t + 1/2) * hop.
"""

import math

import torch
from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.wave.layers import Up, stack

WINDOW_HOPS = 4
"""Length of the Hann window in hops."""

START_LOG = -7.0
"""Logarithm of the amplitude that an untrained head gives to every bin."""


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
        self.linear = nn.Linear(width, 2 * (self.size // 2 + 1))
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, x_BWF: Tensor) -> Tensor:
        """Return sounds of the spectra that the features stand for."""
        level, phase = self.linear(x_BWF.transpose(1, 2)).chunk(2, dim=2)
        # A bin of amplitude 1 is a sine of full scale.
        magnitude = (level + START_LOG).clamp_max(2.0).exp() * (self.window.sum() / 2)
        # The phase that a sine at the centre of a bin gains from frame to frame is given, so that
        # a constant output is a steady tone. It repeats every WINDOW_HOPS frames.
        frames, bins = magnitude.shape[1:]
        steps = torch.arange(frames, device=x_BWF.device)[:, None] * torch.arange(
            bins, device=x_BWF.device
        )
        phase = phase + (steps % WINDOW_HOPS) * (2 * math.pi / WINDOW_HOPS)
        spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        pieces = torch.fft.irfft(spectrum, self.size) * self.window
        side = (self.size - self.hop) // 2
        weight = self.window.square().expand(1, frames, -1)
        total = overlap_add(pieces, self.hop) / overlap_add(weight, self.hop).clamp_min(1e-2)
        return total[:, side : side + frames * self.hop]


def build_istft(section: WaveVQ, sample_rate: int) -> nn.Module:
    """Return residual stacks up to the frames of the first stride, and the spectrum head."""
    del sample_rate
    width = section.width
    layers: list[nn.Module] = [
        nn.Conv1d(section.code_dim, width, 3, padding=1),
        *stack(width, section.layers),
    ]
    for stride in reversed(section.strides[1:]):
        layers += [nn.SiLU(), Up(width, width, stride), *stack(width, section.layers)]
    return nn.Sequential(*layers, nn.SiLU(), SpectrumHead(width, section.strides[0]))
