"""Transposed convolutions to the waveform."""

from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.wave.layers import Up, upward


class Mono(nn.Module):
    """(B, 1, samples) to (B, samples)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` without its channel."""
        return x[:, 0]


def build_conv(section: WaveVQ, sample_rate: int) -> nn.Module:
    """Return the encoder's mirror: residual stacks and transposed convolutions."""
    del sample_rate
    return nn.Sequential(*upward(section), Up(section.width, 1, section.strides[0]), Mono())
