"""Layers over (B, channels, T): residual blocks, and strides that keep the ends aligned.

A stride of s maps T * s positions to T, or back: position t of the result stands for the s
positions from t * s on. Ends are padded with zeros.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ

DILATIONS = (1, 3, 9)
"""Of the blocks of a stack, again and again."""


class Residual(nn.Module):
    """x + 1x1(act(k3(act(x)))) with a dilation, the last convolution starting at zero."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.narrow = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, T) for (B, width, T)."""
        return x + self.narrow(F.silu(self.wide(F.silu(x))))


def stack(width: int, layers: int) -> list[nn.Module]:
    """Return residual blocks, each with weights of its own."""
    return [Residual(width, DILATIONS[i % len(DILATIONS)]) for i in range(layers)]


class Down(nn.Module):
    """(B, inputs, T * stride) to (B, width, T); a kernel covers two strides."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.ends = (stride // 2, stride - stride // 2)
        self.conv = nn.Conv1d(inputs, width, 2 * stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector for each ``stride`` positions."""
        return self.conv(F.pad(x, self.ends))


class Up(nn.Module):
    """(B, width, T) to (B, outputs, T * stride); a kernel covers two strides."""

    def __init__(self, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.ConvTranspose1d(width, outputs, 2 * stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``stride`` vectors for each position."""
        first = self.stride // 2
        return self.conv(x)[:, :, first : first + x.shape[2] * self.stride]


def upward(section: WaveVQ) -> list[nn.Module]:
    """Return the layers from latents (B, code_dim, T) to the rate of the first stride's frames."""
    width = section.width
    layers: list[nn.Module] = [
        nn.Conv1d(section.code_dim, width, 3, padding=1),
        *stack(width, section.layers),
    ]
    for stride in reversed(section.strides[1:]):
        layers += [
            nn.SiLU(),
            Up(width, width, stride),
            *stack(width, section.frame_layers),
        ]
    return [*layers, nn.SiLU()]
