"""Transposed convolutions to the waveform."""

from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.wave.layers import Up, stack


class Mono(nn.Module):
    """(B, 1, samples) to (B, samples)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` without its channel."""
        return x[:, 0]


def build_conv(section: WaveVQ, sample_rate: int) -> nn.Module:
    """Return the encoder's mirror: residual stacks and transposed convolutions."""
    del sample_rate
    width = section.width
    layers: list[nn.Module] = [
        nn.Conv1d(section.code_dim, width, 3, padding=1),
        *stack(width, section.layers),
    ]
    for stride in reversed(section.strides[1:]):
        layers += [nn.SiLU(), Up(width, width, stride), *stack(width, section.layers)]
    return nn.Sequential(*layers, nn.SiLU(), Up(width, 1, section.strides[0]), Mono())
