"""What the autoregressive decoders share: conditioning, loss, and generation sample by sample.

A decoder gives the distribution of sample t from the samples before t and from the latents of the
whole window. ``forward`` computes all samples at once from the true ones (teacher forcing);
``generate`` draws one after the other and keeps what it computed (a cache).

Legend: B batch, C channels of the latents, T tokens, S = T * hop samples, K components.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.tokenizers.decoders.logistics import draw, log_probability

MOST_REPEATED = 64
"""Most samples that have the same conditioning."""

ROWS = 32
"""Rows that are generated together. Fewer are filled up: products of one size give a row the same
bits whatever is in the others, and a difference in the last bit grows from sample to sample."""


class Conditioning(nn.Module):
    """Latents (B, C, T) to features (B, width, T * hop / repeated), with context of two tokens.

    Attributes:
        repeated: Samples of one feature: the largest divisor of ``hop`` up to MOST_REPEATED.
    """

    def __init__(self, channels: int, hop: int, width: int) -> None:
        super().__init__()
        self.repeated = max(n for n in range(1, MOST_REPEATED + 1) if hop % n == 0)
        self.parts = hop // self.repeated
        self.context = nn.Conv1d(channels, width, 5, padding=2)
        self.split = nn.Conv1d(width, width * self.parts, 1)
        self.smooth = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, latents_BCT: Tensor) -> Tensor:
        """Return features (B, width, T * hop / repeated)."""
        x = self.split(F.silu(self.context(latents_BCT)))
        x = x.unflatten(1, (-1, self.parts)).transpose(2, 3).flatten(2)
        return x + self.smooth(F.silu(x))

    def to_samples(self, features: Tensor) -> Tensor:
        """Return features (..., S): each repeated for its samples."""
        return features.repeat_interleave(self.repeated, -1)


class Autoregressive(nn.Module, ABC):
    """Base of the decoders that draw sample by sample."""

    @abstractmethod
    def forward(self, latents_BCT: Tensor, wave_BS: Tensor) -> Tensor:
        """Return the mixture (B, 3 K, S) of every sample, from the samples before it only.

        Args:
            latents_BCT: Quantised latents.
            wave_BS: True samples in [-1, 1]; before the first one there is silence.
        """

    @abstractmethod
    def start(self, latents_BCT: Tensor) -> Any:
        """Return the state of a generation before its first sample."""

    @abstractmethod
    def step(self, state: Any, t: int, last_B: Tensor) -> Tensor:
        """Return the mixture (B, 3 K) of sample ``t`` and keep in ``state`` what later ones need.

        Args:
            state: Of ``start``; it is changed.
            t: Index of the sample; calls go up from 0.
            last_B: Sample t - 1; zeros for the first.
        """

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples of one latent."""

    def loss(self, latents_BCT: Tensor, wave_BS: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the samples, in nats a sample."""
        return -log_probability(self(latents_BCT, wave_BS), wave_BS).mean()

    @torch.no_grad()
    def generate(self, latents_BCT: Tensor, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Return sounds (B, T * hop) in [-1, 1], drawn sample by sample.

        Every row is drawn with the same uniforms of ``seed``, so that a sound does not depend on
        the others of its batch.

        Args:
            latents_BCT: Quantised latents.
            seed: Of the uniforms.
            temperature: Factor of the scales of the mixture.
        """
        return torch.cat([self._draw(rows, seed, temperature) for rows in latents_BCT.split(ROWS)])

    def _draw(self, latents_BCT: Tensor, seed: int, temperature: float) -> Tensor:
        count, samples = len(latents_BCT), latents_BCT.shape[2] * self.hop
        latents = F.pad(latents_BCT, (0, 0, 0, 0, 0, ROWS - count))
        generator = torch.Generator().manual_seed(seed)
        # Never 0 or 1, where the logistic distribution is infinite.
        uniforms = torch.rand(2, 1, samples, generator=generator).clamp(1e-5, 1 - 1e-5)
        uniforms = uniforms.to(latents.device)
        state = self.start(latents)
        wave = latents.new_zeros(ROWS, samples)
        last = latents.new_zeros(ROWS)
        for t in range(samples):
            numbers = self.step(state, t, last)
            last = draw(numbers[..., None], uniforms[:, :, t : t + 1], temperature)[:, 0]
            wave[:, t] = last
        return wave[:count]


def shifted(wave_BS: Tensor) -> Tensor:
    """Return the samples before each: (B, S) with silence first and without the last one."""
    return F.pad(wave_BS, (1, 0))[:, :-1]


def start_mixture(layer: nn.Conv1d | nn.Linear, components: int) -> None:
    """Let the last layer begin with components spread over [-0.2, 0.2], each of a scale of 0.05."""
    with torch.no_grad():
        assert layer.bias is not None
        layer.weight.mul_(0.1)
        layer.bias[:components] = 0
        layer.bias[components : 2 * components] = torch.linspace(-0.2, 0.2, components)
        layer.bias[2 * components :] = math.log(0.05)
