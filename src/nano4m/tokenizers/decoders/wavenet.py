"""WaveNet: dilated causal convolutions over the samples, conditioned on latents.

Van den Oord et al. 2016 (arXiv:1609.03499), with the mixture of logistics of Parallel WaveNet
(arXiv:1711.10433). The input is shifted by one sample: output t sees samples before t only, without
which a decoder learns to copy its input.

Legend: B batch, C channels of the latents, T tokens, S samples, K components, R residual channels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.tokenizers.decoders.autoregressive import (
    Autoregressive,
    Conditioning,
    shifted,
    start_mixture,
)

SHRINK = 0.5**0.5
"""Keeps the variance of a sum of two."""


class _Layer(NamedTuple):
    """A layer during generation."""

    condition_FBR: Tensor
    """Conditioning and bias of the taps, (features, B, 2 R)."""
    past_NBR: Tensor
    """Its inputs of the last N samples in a ring: that of sample t is at t mod N."""
    taps: Tensor
    """Weights of the oldest tap first, (k R, 2 R)."""
    output: Tensor
    """Weights (R, R + skip)."""
    bias: Tensor
    dilation: int


class WaveNet(Autoregressive):
    """Stack of gated residual layers; layer i of a stack has the dilation 2**i.

    Args:
        channels: Of the latents.
        hop: Samples of one latent.
        layers: In all.
        stacks: Times that the dilations begin anew; it divides ``layers``.
        width: Residual and skip channels; the gate has twice as many.
        kernel: Taps of a layer.
        components: Of the mixture.
        dropout: Share of a layer's inputs that are dropped in training.
    """

    def __init__(
        self,
        channels: int,
        hop: int,
        layers: int = 16,
        stacks: int = 2,
        width: int = 48,
        kernel: int = 2,
        components: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._hop, self.kernel, self.dropout = hop, kernel, dropout
        self.dilations = [2 ** (i % (layers // stacks)) for i in range(layers)]
        self.conditioning = Conditioning(channels, hop, width)
        self.first = nn.Conv1d(1, width, 1)
        self.taps: Any = nn.ModuleList(
            nn.Conv1d(width, 2 * width, kernel, dilation=d) for d in self.dilations
        )
        self.conditions: Any = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in self.dilations)
        self.outputs: Any = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in self.dilations)
        self.middle = nn.Conv1d(width, width, 1)
        self.last = nn.Conv1d(width, 3 * components, 1)
        start_mixture(self.last, components)

    @property
    def hop(self) -> int:
        """Samples of one latent."""
        return self._hop

    @property
    def receptive_field(self) -> int:
        """Samples before one that its distribution depends on."""
        return 1 + (self.kernel - 1) * sum(self.dilations)

    def forward(self, latents_BCT: Tensor, wave_BS: Tensor) -> Tensor:
        """Return the mixture (B, 3 K, S) of every sample, from the samples before it only."""
        features = self.conditioning(latents_BCT)
        x = self.first(shifted(wave_BS)[:, None])
        skips = torch.zeros_like(x)
        for dilation, taps, condition, output in zip(
            self.dilations, self.taps, self.conditions, self.outputs, strict=True
        ):
            dropped = F.dropout(x, self.dropout, self.training)
            z = taps(F.pad(dropped, ((self.kernel - 1) * dilation, 0)))
            # A 1x1 convolution of repeated features is the repetition of its results.
            z = z + self.conditioning.to_samples(condition(features))
            gate, value = z.chunk(2, 1)
            residual, skip = output(torch.sigmoid(gate) * torch.tanh(value)).chunk(2, 1)
            x, skips = (x + residual) * SHRINK, skips + skip
        return self._mixture(skips)

    def _mixture(self, skips: Tensor) -> Tensor:
        skips = F.silu(skips * len(self.dilations) ** -0.5)
        return self.last(F.silu(self.middle(skips)))

    def start(self, latents_BCT: Tensor) -> list[_Layer]:
        """Return the layers before the first sample, with silence as their past."""
        features = self.conditioning(latents_BCT)
        layers = []
        for dilation, taps, condition, output in zip(
            self.dilations, self.taps, self.conditions, self.outputs, strict=True
        ):
            wide, width, kernel = taps.weight.shape
            shape = ((kernel - 1) * dilation, len(latents_BCT), width)
            layers.append(
                _Layer(
                    (condition(features) + taps.bias[:, None]).permute(2, 0, 1).contiguous(),
                    features.new_zeros(shape),
                    taps.weight.permute(2, 1, 0).reshape(kernel * width, wide).contiguous(),
                    output.weight[:, :, 0].T.contiguous(),
                    output.bias,
                    dilation,
                )
            )
        return layers

    def step(self, state: list[_Layer], t: int, last_B: Tensor) -> Tensor:
        """Return the mixture (B, 3 K) of sample ``t``; the rings of ``state`` move on."""
        x = F.linear(last_B[:, None], self.first.weight[:, :, 0], self.first.bias)
        skips = torch.zeros_like(x)
        feature = t // self.conditioning.repeated
        for layer in state:
            size = len(layer.past_NBR)
            older = [
                layer.past_NBR[(t - k * layer.dilation) % size]
                for k in range(self.kernel - 1, 0, -1)
            ]
            z = torch.addmm(layer.condition_FBR[feature], torch.cat([*older, x], 1), layer.taps)
            layer.past_NBR[t % size] = x
            gate, value = z.chunk(2, 1)
            gated = torch.sigmoid(gate) * torch.tanh(value)
            residual, skip = torch.addmm(layer.bias, gated, layer.output).chunk(2, 1)
            x, skips = (x + residual) * SHRINK, skips + skip
        return self._mixture(skips[..., None])[..., 0]
