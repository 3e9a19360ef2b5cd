"""The transformer: input tokens in, a prediction for every target position out.

A masked encoder-decoder after 4M (arXiv:2312.06647). Changed: coordinates instead of a running
index and, by default, one embedding table and one head per modality over its own ids, and one
register token that is always an input of the encoder, for unconditional generation.

Shapes: B batch, N encoder tokens, M decoder tokens, D width, V vocabulary of one modality.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nano4m.config.model import ModelConfig
from nano4m.modalities import Modality
from nano4m.model.attention import Segments
from nano4m.model.cpu_blocks import is_fused, tables_of
from nano4m.model.dropout import replayed
from nano4m.model.layers import DecoderBlock, EncoderBlock, Turns
from nano4m.model.positions import Positions
from nano4m.model.wide_product import wide_product
from nano4m.tokens.batch import MaskedBatch


class Context(NamedTuple):
    """Output of the encoder for the decoder: one state for each input token, the register first.

    Attributes:
        states_BND: float (B, N, D).
        modality_BN, coords_BN2: int64, position of each state; the register is at the origin.
    """

    states_BND: Tensor
    modality_BN: Tensor
    coords_BN2: Tensor


class PackedTensors(NamedTuple):
    """A packed batch on the device: samples of any lengths, concatenated without padding.

    Made by ``nano4m.training.packed_batch``. T inputs and U targets of all samples together; int32.

    Attributes:
        input_ids_T: An id of -1 is a register token.
        input_modality_T, input_coords_T2: As in ``MaskedBatch``.
        target_ids_U, target_modality_U, target_coords_U2: The targets.
        order_U: Targets sorted by modality and codebook, followed by the filler slots.
        weights_C: float32, loss weight of a target of each modality.
        counts_C: float32, number of targets of each modality.
        encoder, decoder, across: Boundaries of the samples.
    """

    input_ids_T: Tensor
    input_modality_T: Tensor
    input_coords_T2: Tensor
    target_ids_U: Tensor
    target_modality_U: Tensor
    target_coords_U2: Tensor
    order_U: Tensor
    weights_C: Tensor
    counts_C: Tensor
    encoder: Segments
    decoder: Segments
    across: Segments


class FourM(nn.Module):
    """Encoder-decoder over any subset of ``modalities``."""

    def __init__(
        self, config: ModelConfig, modalities: tuple[Modality, ...], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config, self.modalities, self.dropout = config, modalities, dropout
        dim = config.dim
        sizes = [m.vocab_size for m in modalities]
        shared = config.tables == "shared"
        # One matrix holds all tables. Row offsets separate the modalities; shared tables have none.
        rows = max(sizes) if shared else sum(sizes)
        self.starts = tuple(0 if shared else sum(sizes[:i]) for i in range(len(sizes)))
        self.table = nn.Embedding(rows, dim)
        self.register_buffer("starts_C", torch.tensor(self.starts), persistent=False)
        self.positions = Positions(config, modalities)
        self.encoder_modality = nn.Embedding(len(modalities), dim)
        self.decoder_modality = nn.Embedding(len(modalities), dim)
        self.register = nn.Parameter(torch.zeros(1, 1, dim)) if config.register_token else None
        depths = range(config.encoder_depth), range(config.decoder_depth)
        self.encoder = nn.ModuleList(EncoderBlock(config, dropout) for _ in depths[0])
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.context = nn.Linear(dim, dim, bias=config.context == "positioned")
        self.decoder = nn.ModuleList(DecoderBlock(config, dropout) for _ in depths[1])
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6, bias=False)
        heads = [] if config.tied else [rows] if shared else sizes
        self.heads = nn.ModuleList(nn.Linear(dim, size, bias=False) for size in heads)

    def init_weights(
        self, generator: torch.Generator, codes: Mapping[str, Tensor] | None = None
    ) -> None:
        """Draw all weights; heads start at 0, so that an untrained model predicts uniformly.

        ``scaled``: tables are N(0, 1) and matrices N(0, 1 / fan_in), the projections back into the
        residual stream divided by the root of their number, so tokens and positions start at the
        same scale. With ``normal``, the common N(0, 0.02) of tables and matrices, the fixed
        positions dominate: measured on spoken digits, the first 200 steps learn nothing.

        Raises:
            ValueError: ``codes`` for a table that the modalities share.
        """
        if codes and self.config.tables == "shared":
            raise ValueError("codes initialise tables of single modalities; this one is shared")
        depth = 2 * self.config.encoder_depth + 3 * self.config.decoder_depth
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        normal = 0.02 if self.config.init == "normal" else None
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith("heads.") or name.endswith(".bias"):
                    weight.zero_()
                elif id(weight) in tables or weight is self.register:
                    weight.normal_(0.0, normal or 1.0, generator=generator)
                elif weight.ndim == 2:
                    back = name.endswith(("out.weight", "down.weight"))
                    std = 1 / math.sqrt(weight.shape[1] * (depth if back else 1))
                    weight.normal_(0.0, normal or std, generator=generator)
            for index, modality in enumerate(self.modalities):
                if codes is not None and modality.name in codes:
                    # Each codebook by its own statistics: those of residues are much shorter.
                    parts = codes[modality.name].float().chunk(modality.num_codebooks)
                    vectors = torch.cat([(p - p.mean(0)) / p.std().clamp_min(1e-6) for p in parts])
                    projection = torch.empty(vectors.shape[1], self.config.dim)
                    projection.normal_(0.0, vectors.shape[1] ** -0.5, generator=generator)
                    # Shares 0.36 and 0.64 of the variance preserve the scale of the table.
                    rows = self.table_rows(index)
                    rows.mul_(0.6).add_(vectors @ projection, alpha=0.8 * (normal or 1.0))

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.table.weight.device

    @property
    def trunk_parameters(self) -> int:
        """Number of parameters in blocks, norms and context, independent of vocabularies."""
        parts = (self.encoder, self.encoder_norm, self.context, self.decoder, self.decoder_norm)
        return sum(p.numel() for part in parts for p in part.parameters())

    def table_rows(self, index: int) -> Tensor:
        """Return the rows of modality ``index`` in the table: (its vocabulary, D)."""
        first = self.starts[index]
        return self.table.weight[first : first + self.modalities[index].vocab_size]

    def _block(self, block: nn.Module, *inputs: Any) -> Tensor:
        """Return the output of a block; with checkpointing, recompute it in the backward pass."""
        # Without dropout the state of the random numbers need not be saved.
        drops = self.dropout > 0 and self.training
        run = replayed(block) if drops else block
        if self.config.checkpointing and torch.is_grad_enabled():
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=drops)
        return run(*inputs)

    def encode(self, ids_BN: Tensor, modality_BN: Tensor, coords_BN2: Tensor) -> Context:
        """Return the context of the input tokens.

        With RoPE nothing is added to a token: queries and keys are rotated by position.
        """
        x_BND = self._embed(ids_BN, modality_BN, coords_BN2)
        if self.register is not None:
            x_BND = torch.cat([self.register.expand(len(x_BND), -1, -1), x_BND], dim=1)
            modality_BN = F.pad(modality_BN, (1, 0))
            coords_BN2 = F.pad(coords_BN2, (0, 0, 1, 0))
        return self._encode(x_BND, modality_BN, coords_BN2)

    def _embed(self, ids_BN: Tensor, modality_BN: Tensor, coords_BN2: Tensor) -> Tensor:
        x_BND = self.table(ids_BN + self.starts_C[modality_BN])  # type: ignore[index]
        x_BND = x_BND + self.encoder_modality(modality_BN)
        if not self.config.rotary:
            x_BND = x_BND + self.positions.added(modality_BN, coords_BN2, x_BND.dtype)
        return x_BND

    def _encode(
        self,
        x_BND: Tensor,
        modality_BN: Tensor,
        coords_BN2: Tensor,
        segments: Segments | None = None,
    ) -> Context:
        rotation = self._rotation(modality_BN, coords_BN2)
        for block in self.encoder:
            x_BND = self._block(block, x_BND, rotation, segments)
        states_BND = self.context(self.encoder_norm(x_BND))
        if self.config.context == "positioned":
            added = self.positions.added(modality_BN, coords_BN2, x_BND.dtype)
            states_BND = states_BND + added
        return Context(states_BND, modality_BN, coords_BN2)

    def _rotation(self, modality_BN: Tensor, coords_BN2: Tensor) -> Turns | None:
        rotation = self.positions.rotation(modality_BN, coords_BN2)
        if is_fused(modality_BN, modality_BN.shape[1]):
            return tables_of(rotation, self.config.dim // self.config.head_dim)
        return rotation

    def decode(
        self,
        context: Context,
        modality_BM: Tensor,
        coords_BM2: Tensor,
    ) -> Tensor:
        """Return the state of every target position, (B, M, D), see ``logits``.

        Positions are added to queries with RoPE too: RoPE only rotates q and k, so without them all
        queries of a modality would be equal.
        """
        x_BMD = self.decoder_modality(modality_BM)
        x_BMD = x_BMD + self.positions.added(modality_BM, coords_BM2, x_BMD.dtype)
        return self._decode(context, x_BMD, modality_BM, coords_BM2)

    def _decode(
        self,
        context: Context,
        x_BMD: Tensor,
        modality_BM: Tensor,
        coords_BM2: Tensor,
        among: Segments | None = None,
        across: Segments | None = None,
    ) -> Tensor:
        target = self._rotation(modality_BM, coords_BM2)
        source = self._rotation(context.modality_BN, context.coords_BN2)
        for block in self.decoder:
            x_BMD = self._block(block, x_BMD, context.states_BND, target, source, among, across)
        return self.decoder_norm(x_BMD)

    def head(self, index: int, full: bool = False) -> tuple[Tensor, float]:
        """Return the head (V, D) for the ids of modality ``index``, and a factor on its states.

        A tied head uses the rows of the table, divided by the root of the width: rows of N(0, 1)
        then start with logits of about 1 (T5, arXiv:1910.10683).

        Args:
            full: With a shared table, return the rows of the whole shared vocabulary, over which
                the reference trains.

        Raises:
            ValueError: ``full`` with a head for each modality.
        """
        weight, rows = self.head_rows(index, full)
        scale = self.config.dim**-0.5 if self.config.tied else 1.0
        return weight[rows], scale

    def head_rows(self, index: int, full: bool = False) -> tuple[nn.Parameter, slice]:
        """Return the parameter that contains ``head``, and its rows there.

        Raises:
            ValueError: ``full`` with a head for each modality.
        """
        shared = self.config.tables == "shared"
        if full and not shared:
            raise ValueError("full scores need tables 'shared'; here each modality has its own")
        if not (self.config.tied or shared):
            return self.heads[index].get_parameter("weight"), slice(None)
        whole = self.table if self.config.tied else self.heads[0]
        start = self.starts[index]
        rows = slice(None) if full else slice(start, start + self.modalities[index].vocab_size)
        return whole.get_parameter("weight"), rows

    def loss_heads(self, index: int) -> tuple[tuple[Tensor, ...], float]:
        """Return the vocabularies of the loss as parts of ``head``, and the factor on states.

        One part for each codebook, because a slot has ids of its own codebook only. A shared table
        is one part with all ids, over which the reference trains.
        """
        is_shared = self.config.tables == "shared"
        weight_VD, scale = self.head(index, full=is_shared)
        return weight_VD.chunk(1 if is_shared else self.modalities[index].num_codebooks), scale

    def logits(
        self, states: Tensor, index: int, codebook: int | Tensor = 0, full: bool = False
    ) -> Tensor:
        """Return logits (..., W) from states (..., D), over the W = V / Q ids of one codebook.

        They are float32 at least, whatever the type of the matrices; see ``wide_product``.

        Args:
            states: From ``decode``, for slots of modality ``index``.
            codebook: The codebook of all these slots, of which only the rows of the head are
                multiplied; or int64 (...), that of each slot: then the whole head is multiplied,
                and each state takes its part. Column w is the id codebook * W + w.
            full: Return the scores of the whole shared vocabulary instead, see ``head``.
        """
        weight_VD, scale = self.head(index, full)
        books = 1 if full else self.modalities[index].num_codebooks
        states = states if scale == 1 else states * scale
        if isinstance(codebook, int):
            scores = wide_product(states, weight_VD.chunk(books)[codebook])
        else:
            scores = _own_part(wide_product(states, weight_VD), codebook, books)
        cap = self.config.logit_soft_cap
        return cap * torch.tanh(scores / cap) if cap else scores

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return the decoder states (B, M, D) of a batch; the loss computes their logits."""
        context = self.encode(batch.input_ids_BN, batch.input_modality_BN, batch.input_coords_BN2)
        return self.decode(context, batch.target_modality_BM, batch.target_coords_BM2)

    def packed_states(self, batch: PackedTensors) -> Tensor:
        """Return the decoder states (U, D) of a packed batch, those of ``forward`` concatenated."""
        ids_1T, modality_1T = batch.input_ids_T[None], batch.input_modality_T[None]
        coords_1T2 = batch.input_coords_T2[None]
        rows_1T = ids_1T.clamp_min(0) + self.starts_C[modality_1T]  # type: ignore[index]
        x_1TD = self.table(rows_1T) + self._of_modality(self.encoder_modality, modality_1T)
        if not self.config.rotary:
            x_1TD = x_1TD + self.positions.looked_up(modality_1T, coords_1T2, x_1TD.dtype)
        if self.register is not None:
            x_1TD = torch.where(ids_1T[..., None] < 0, self.register, x_1TD)
        context = self._encode(x_1TD, modality_1T, coords_1T2, batch.encoder)
        modality_1U, coords_1U2 = batch.target_modality_U[None], batch.target_coords_U2[None]
        x_1UD = self._of_modality(self.decoder_modality, modality_1U)
        x_1UD = x_1UD + self.positions.looked_up(modality_1U, coords_1U2, x_1UD.dtype)
        x_1UD = self._decode(context, x_1UD, modality_1U, coords_1U2, batch.decoder, batch.across)
        return x_1UD[0]

    def _of_modality(self, table: nn.Embedding, modality_BN: Tensor) -> Tensor:
        """Return rows of a table with few rows, as a matrix product, whose gradient is one too.

        The gradient of a look-up would be accumulated serially into the few rows. Rows are padded
        to a multiple of 8 for the matrix units.
        """
        fill = -len(self.modalities) % 8
        kinds = torch.arange(len(self.modalities) + fill, device=modality_BN.device)
        rows = F.pad(table.weight, (0, 0, 0, fill))
        return (modality_BN[..., None] == kinds).to(rows.dtype) @ rows


def _own_part(scores: Tensor, codebook: Tensor, books: int) -> Tensor:
    """Return from scores (..., V) those of each slot's codebook, (..., V / books)."""
    apart = scores.unflatten(-1, (books, -1))
    own = codebook[..., None, None].expand(*scores.shape[:-1], 1, apart.shape[-1])
    return apart.gather(-2, own)[..., 0, :]
