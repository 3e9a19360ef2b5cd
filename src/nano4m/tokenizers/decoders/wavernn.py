"""WaveRNN: one recurrent layer over the samples, conditioned on latents.

Kalchbrenner et al. 2018 (arXiv:1802.08435), with a mixture of logistics in the place of the two
8-bit softmaxes.

Legend: B batch, C channels of the latents, T tokens, S samples, K components, H hidden units.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.tokenizers.decoders.autoregressive import (
    Autoregressive,
    Conditioning,
    shifted,
    start_mixture,
)


class _State(NamedTuple):
    condition_FBH: Tensor
    """What the features add to the gates, and the bias of the input, (features, B, 3 H)."""
    hidden_BH: Tensor


class WaveRNN(Autoregressive):
    """A gated recurrent unit that reads the last sample and the conditioning.

    Args:
        channels: Of the latents.
        hop: Samples of one latent.
        width: Hidden units.
        condition_width: Width of the conditioning.
        components: Of the mixture.
    """

    def __init__(
        self,
        channels: int,
        hop: int,
        width: int = 192,
        condition_width: int = 64,
        components: int = 10,
    ) -> None:
        super().__init__()
        self._hop = hop
        self.conditioning = Conditioning(channels, hop, condition_width)
        self.gru = nn.GRU(1 + condition_width, width, batch_first=True)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, 3 * components)
        start_mixture(self.last, components)

    @property
    def hop(self) -> int:
        """Samples of one latent."""
        return self._hop

    def forward(self, latents_BCT: Tensor, wave_BS: Tensor) -> Tensor:
        """Return the mixture (B, 3 K, S) of every sample, from the samples before it only."""
        features = self.conditioning.to_samples(self.conditioning(latents_BCT))
        inputs = torch.cat([shifted(wave_BS)[:, None], features], 1).transpose(1, 2)
        return self._mixture(self.gru(inputs)[0]).transpose(1, 2)

    def _mixture(self, hidden: Tensor) -> Tensor:
        return self.last(F.silu(self.middle(hidden)))

    def start(self, latents_BCT: Tensor) -> _State:
        """Return the state before the first sample: nothing heard."""
        weight = self.gru.get_parameter("weight_ih_l0")[:, 1:]
        gates = torch.einsum("bcf,hc->fbh", self.conditioning(latents_BCT), weight)
        hidden = gates.new_zeros(len(latents_BCT), self.gru.hidden_size)
        return _State(gates + self.gru.get_parameter("bias_ih_l0"), hidden)

    def step(self, state: _State, t: int, last_B: Tensor) -> Tensor:
        """Return the mixture (B, 3 K) of sample ``t``; the hidden units of ``state`` move on."""
        given = state.condition_FBH[t // self.conditioning.repeated]
        given = given + last_B[:, None] * self.gru.get_parameter("weight_ih_l0")[:, 0]
        recurrent = F.linear(
            state.hidden_BH,
            self.gru.get_parameter("weight_hh_l0"),
            self.gru.get_parameter("bias_hh_l0"),
        )
        reset_g, update_g, new_g = given.chunk(3, 1)
        reset_r, update_r, new_r = recurrent.chunk(3, 1)
        update = torch.sigmoid(update_g + update_r)
        new = torch.tanh(new_g + torch.sigmoid(reset_g + reset_r) * new_r)
        state.hidden_BH.copy_(new + update * (state.hidden_BH - new))
        return self._mixture(state.hidden_BH)
