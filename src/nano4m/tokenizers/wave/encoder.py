"""The encoder of ``wave_vq``: waveform (B, samples) to latents (B, C, T)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.wave.layers import Down, stack

FILTER_STRIDES = 4
"""Length of a filter of the front end in strides."""

BANDS = 64
"""Filters of the front end."""

QUIET = 1e-4
"""Amplitude (-80 dB of full scale) that is added to levels before their logarithm."""


class FilterBank(nn.Module):
    """Log levels of learnt complex filters: (B, samples) to (B, bands, samples / stride).

    The filters begin as Hann-windowed sines and cosines at frequencies equally spaced in mel from
    0 Hz to half the rate (a learnable front end after Zeghidour et al. 2021, arXiv:2101.08596): a
    plain convolution has to find out first that phases do not matter.
    """

    def __init__(self, bands: int, stride: int, sample_rate: int) -> None:
        super().__init__()
        self.stride, size = stride, FILTER_STRIDES * stride
        side = size - stride
        self.ends = (side // 2, side - side // 2)
        top = 2595 * math.log10(1 + sample_rate / 2 / 700)
        mels = (torch.arange(bands, dtype=torch.float64) + 0.5) * top / bands
        hertz = 700 * (10 ** (mels / 2595) - 1)
        window = torch.hann_window(size, dtype=torch.float64)
        window = window * (2 / window.sum())
        turns = hertz[:, None] / sample_rate * (torch.arange(size) - size / 2)[None]
        angles = 2 * math.pi * turns
        filters = torch.cat([angles.cos() * window, angles.sin() * window])
        self.filters = nn.Parameter(filters.T.float().contiguous())

    def forward(self, sound_BS: Tensor) -> Tensor:
        """Return log levels, about -1.7 for silence and 2 for a sine of full scale."""
        frames = F.pad(sound_BS, self.ends).unfold(1, self.filters.shape[0], self.stride)
        real, imaginary = (frames @ self.filters).chunk(2, dim=2)
        power = real.square() + imaginary.square() + QUIET**2
        return (0.5 * power.log() + 5).transpose(1, 2) / 2.5


class WaveFrontend(nn.Module):
    """The first stride as a convolution: (B, samples) to (B, width, samples / stride)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.down = Down(1, width, stride)

    def forward(self, sound_BS: Tensor) -> Tensor:
        """Return one vector for each ``stride`` samples."""
        return self.down(sound_BS[:, None])


def build_encoder(section: WaveVQ, sample_rate: int) -> nn.Sequential:
    """Return the network from sounds (B, T * hop) to latents (B, code_dim, T).

    The last layer is linear: codes lie on both sides of zero.
    """
    width, first = section.width, section.strides[0]
    layers: list[nn.Module]
    if section.frontend == "filters":
        layers = [FilterBank(BANDS, first, sample_rate), nn.Conv1d(BANDS, width, 3, padding=1)]
    else:
        layers = [WaveFrontend(width, first)]
    for stride in section.strides[1:]:
        layers += [
            *stack(width, section.frame_layers),
            nn.SiLU(),
            Down(width, width, stride),
        ]
    layers += stack(width, section.layers)
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv1d(width, section.code_dim, 1))
