"""The transformer: given tokens in, a prediction for every asked-for position out.

A masked encoder-decoder after 4M (arXiv:2312.06647). Changed: one table and one head per modality
over that modality's own ids, coordinates instead of a running index, and one register token that is
always in the encoder, so that generation from nothing has something to attend to.

Shapes: B batch, N encoder tokens, M decoder tokens, D width, V vocabulary of one modality.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nano4m.batch import MaskedBatch
from nano4m.config import ModelConfig
from nano4m.modalities import Modality
from nano4m.model.layers import DecoderBlock, EncoderBlock
from nano4m.model.positions import sincos2d


class Context(NamedTuple):
    """What the encoder hands to the decoder: one state for each given token and for the register.

    Attributes:
        states_BND: float (B, N, D).
        modality_BN, coords_BN2: int64, where each state stands; the register is at the origin.
    """

    states_BND: Tensor
    modality_BN: Tensor
    coords_BN2: Tensor


class FourM(nn.Module):
    """Encoder-decoder over any subset of ``modalities``."""

    def __init__(
        self, config: ModelConfig, modalities: tuple[Modality, ...], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config, self.modalities = config, modalities
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        sizes = [m.vocab_size for m in modalities]
        # One matrix holds the tables of all modalities; offsets keep their rows apart.
        self.table = nn.Embedding(sum(sizes), dim)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.register_buffer("starts_C", torch.tensor(starts), persistent=False)
        self.encoder_modality = nn.Embedding(len(modalities), dim)
        self.decoder_modality = nn.Embedding(len(modalities), dim)
        self.register = nn.Parameter(torch.zeros(1, 1, dim))
        block = (dim, config.head_dim, hidden, dropout)
        self.encoder = nn.ModuleList(EncoderBlock(*block) for _ in range(config.encoder_depth))
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.context = nn.Linear(dim, dim, bias=False)
        self.decoder = nn.ModuleList(DecoderBlock(*block) for _ in range(config.decoder_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.heads = nn.ModuleList(nn.Linear(dim, size, bias=False) for size in sizes)

    def init_weights(
        self, generator: torch.Generator, codes: Mapping[str, Tensor] | None = None
    ) -> None:
        """Draw all weights; heads start at 0, so that an untrained model predicts uniformly.

        Tables are N(0, 1) and matrices N(0, 1 / fan_in), the projections back into the stream
        divided by the root of their number: what a token says is then as loud as where it stands.
        With the common N(0, 0.02) the fixed positions drown it: measured on spoken digits, the
        first 200 steps learn nothing.
        """
        depth = 2 * self.config.encoder_depth + 3 * self.config.decoder_depth
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith("heads."):
                    weight.zero_()
                elif id(weight) in tables or weight is self.register:
                    weight.normal_(0.0, 1.0, generator=generator)
                elif weight.ndim == 2:
                    back = name.endswith(("out.weight", "down.weight"))
                    std = 1 / math.sqrt(weight.shape[1] * (depth if back else 1))
                    weight.normal_(0.0, std, generator=generator)
            for index, modality in enumerate(self.modalities):
                if codes is not None and modality.name in codes:
                    vectors = codes[modality.name].float()
                    vectors = (vectors - vectors.mean(0)) / vectors.std().clamp_min(1e-6)
                    projection = torch.empty(vectors.shape[1], self.config.dim)
                    projection.normal_(0.0, vectors.shape[1] ** -0.5, generator=generator)
                    first = int(self.starts_C[index])  # type: ignore[index]
                    rows = self.table.weight[first : first + modality.vocab_size]
                    rows.mul_(0.6).add_(vectors @ projection, alpha=0.8)

    @property
    def num_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.table.weight.device

    def encode(self, ids_BN: Tensor, modality_BN: Tensor, coords_BN2: Tensor) -> Context:
        """Return the context of the given tokens; the register comes first."""
        x_BND = self.table(ids_BN + self.starts_C[modality_BN])  # type: ignore[index]
        x_BND = x_BND + self.encoder_modality(modality_BN) + sincos2d(coords_BN2, self.config.dim)
        x_BND = torch.cat([self.register.expand(len(x_BND), -1, -1), x_BND], dim=1)
        for block in self.encoder:
            x_BND = block(x_BND)
        first = (1, 0)
        return Context(
            self.context(self.encoder_norm(x_BND)),
            nn.functional.pad(modality_BN, first),
            nn.functional.pad(coords_BN2, (0, 0, *first)),
        )

    def decode(self, context: Context, modality_BM: Tensor, coords_BM2: Tensor) -> Tensor:
        """Return the state of every asked-for position, (B, M, D), see ``logits``."""
        x_BMD = self.decoder_modality(modality_BM) + sincos2d(coords_BM2, self.config.dim)
        for block in self.decoder:
            x_BMD = block(x_BMD, context.states_BND)
        return self.decoder_norm(x_BMD)

    def head_weight(self, index: int) -> Tensor:
        """Return the rows (V, D) that training scores the targets of modality ``index`` by."""
        return self.heads[index].weight

    def logits(self, states: Tensor, index: int) -> Tensor:
        """Return scores (..., V) over the ids of modality ``index`` from states (..., D)."""
        return self.heads[index](states)

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return the decoder states (B, M, D) of a batch; the loss asks for their logits."""
        context = self.encode(batch.enc_ids_BN, batch.enc_modality_BN, batch.enc_coords_BN2)
        return self.decode(context, batch.dec_modality_BM, batch.dec_coords_BM2)
