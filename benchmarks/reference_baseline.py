"""The engine of the reference studies, written anew: what the benchmarks compare with.

It computes what the EPFL nano4M code with nano4M-Audio's recipe computes: batches padded to 256
given and 256 asked-for slots, attention as softmax over scores filled with -inf, one table and one
untied head of all ids for all modalities, scores of every slot over all ids, and for sampling one
clip at a time, everything computed anew at every step. Tensors have the names of the published
checkpoints, so that ``tests/benchmarks/test_baseline.py`` can load one and compare with the outputs
of the reference itself. Module by module this is plain PyTorch; nothing is made slow on purpose.

Shapes: B batch, N encoder slots, M decoder slots, D width, H heads, K head width, V ids, U unknown.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.modalities import Modality
from nano4m.tokens.batch import MaskedBatch

ABSENT = -100
"""Target of a padded slot."""
PAD = 50257
"""Id that fills captions up to their longest length; a token like any other to the model."""
START, END = 50258, 50259
SLOTS = 256
"""Slots of each side of a batch."""


class PaddedBatch(NamedTuple):
    """Sides of a batch, int64 (B, slots) each, ``real`` bool; padding holds 0, targets ABSENT."""

    input_ids_BN: Tensor
    input_modality_BN: Tensor
    enc_position_BN: Tensor
    enc_real_BN: Tensor
    target_ids_BM: Tensor
    target_modality_BM: Tensor
    dec_position_BM: Tensor
    dec_real_BM: Tensor

    @property
    def content(self) -> tuple[Tensor, Tensor]:
        """Which slots of each side hold a token that says something: no padding and no PAD."""
        return (
            self.enc_real_BN & (self.input_ids_BN != PAD),
            self.dec_real_BM & (self.target_ids_BM != PAD),
        )


class Norm(nn.Module):
    """LayerNorm with a trained gain; its bias is a buffer of zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def forward(self, x_BND: Tensor) -> Tensor:
        return F.layer_norm(x_BND, self.weight.shape, self.weight, self.bias, eps=1e-6)


def _attend(q_BMD: Tensor, k_BND: Tensor, v_BND: Tensor, real_BN: Tensor, head: int) -> Tensor:
    """Return the gathered values (B, M, D); padded keys are left out, padded queries are not."""
    q, k, v = (t.unflatten(-1, (-1, head)).transpose(1, 2) for t in (q_BMD, k_BND, v_BND))
    scores_BHMN = q @ k.transpose(-1, -2) * head**-0.5
    scores_BHMN = scores_BHMN.masked_fill(~real_BN[:, None, None, :], -math.inf)
    return (scores_BHMN.softmax(-1) @ v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention of all real slots on all others."""

    def __init__(self, dim: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BND: Tensor, real_BN: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BND).chunk(3, dim=-1)
        return self.attn_out_proj(_attend(q, k, v, real_BN, self.head))


class CrossAttention(nn.Module):
    """Attention of the decoder's slots on the context."""

    def __init__(self, dim: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.attn_out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BMD: Tensor, context_BND: Tensor, real_BN: Tensor) -> Tensor:
        k, v = self.kv(context_BND).chunk(2, dim=-1)
        return self.attn_out_proj(_attend(self.q(x_BMD), k, v, real_BN, self.head))


class Mlp(nn.Module):
    """Two layers, four times as wide between, with the exact GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BND)))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.attn, self.mlp = SelfAttention(dim, head), Mlp(dim)

    def forward(self, x_BND: Tensor, real_BN: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND), real_BN)
        return x_BND + self.mlp(self.norm2(x_BND))


class DecoderBlock(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP."""

    def __init__(self, dim: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(dim), Norm(dim)
        self.query_norm, self.context_norm = Norm(dim), Norm(dim)
        self.self_attn, self.cross_attn = SelfAttention(dim, head), CrossAttention(dim, head)
        self.mlp = Mlp(dim)

    def forward(
        self, x_BMD: Tensor, real_BM: Tensor, context_BND: Tensor, real_BN: Tensor
    ) -> Tensor:
        x_BMD = x_BMD + self.self_attn(self.norm1(x_BMD), real_BM)
        context = self.context_norm(context_BND)
        x_BMD = x_BMD + self.cross_attn(self.query_norm(x_BMD), context, real_BN)
        return x_BMD + self.mlp(self.norm2(x_BMD))


class Blocks(nn.Module):
    """A list of blocks under the published name."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers that make a baseline; the defaults are those of d6-6w512 with five modalities."""

    vocab: int = 50304
    modalities: int = 5
    longest: int = 512
    dim: int = 512
    head: int = 64
    depth: tuple[int, int] = (6, 6)


class Baseline(nn.Module):
    """The reference's model."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.sizes = sizes
        self.enc_tok_emb = nn.Embedding(sizes.vocab, dim)
        position = torch.arange(sizes.longest)[:, None]
        angle = position * 10000 ** (-torch.arange(dim // 2) / (dim // 2))
        self.register_buffer("pos_emb", torch.cat([angle.sin(), angle.cos()], dim=1))
        self.enc_mod_emb = nn.Embedding(sizes.modalities, dim)
        self.dec_mod_emb = nn.Embedding(sizes.modalities, dim)
        self.encoder = Blocks([EncoderBlock(dim, sizes.head) for _ in range(sizes.depth[0])])
        self.enc_norm = Norm(dim)
        self.dec_context_proj = nn.Linear(dim, dim)
        self.decoder = Blocks([DecoderBlock(dim, sizes.head) for _ in range(sizes.depth[1])])
        self.dec_norm = Norm(dim)
        self.to_logits = nn.Linear(dim, sizes.vocab, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw matrices and tables from N(0, 0.02); the head is drawn too.

        The reference starts the head at 0. Drawn, losses say something from the first step on.
        """
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.ndim == 2:
                    weight.normal_(0.0, 0.02, generator=generator)
                elif name.endswith("bias"):
                    weight.zero_()

    def states(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """Return what encoder and decoder end in, (B, N, D) and (B, M, D)."""
        position_BND = self.pos_emb[batch.enc_position_BN]  # type: ignore[index]
        x_BND = self.enc_tok_emb(batch.input_ids_BN) + self.enc_mod_emb(batch.input_modality_BN)
        x_BND = x_BND + position_BND
        for block in self.encoder.blocks:
            x_BND = block(x_BND, batch.enc_real_BN)
        encoded_BND = self.enc_norm(x_BND)
        context_BND = self.dec_context_proj(encoded_BND) + position_BND
        y_BMD = self.dec_mod_emb(batch.target_modality_BM)
        y_BMD = y_BMD + self.pos_emb[batch.dec_position_BM]  # type: ignore[index]
        for block in self.decoder.blocks:
            y_BMD = block(y_BMD, batch.dec_real_BM, context_BND, batch.enc_real_BN)
        return encoded_BND, self.dec_norm(y_BMD)

    def forward(self, batch: PaddedBatch) -> Tensor:
        """Return scores of every slot over all ids, (B, M, V)."""
        return self.to_logits(self.states(batch)[1])

    def losses(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of each modality, 0 where it is absent, and their mean."""
        token_T = token_losses(self(batch), batch)
        means = modality_means(token_T, batch, self.sizes.modalities)
        return means, means.sum() / len(means)


def token_losses(logits_BMV: Tensor, batch: PaddedBatch) -> Tensor:
    """Return the cross-entropy of each slot over all ids, (B * M,), 0 at padding."""
    return F.cross_entropy(
        logits_BMV.flatten(0, 1),
        batch.target_ids_BM.flatten(),
        ignore_index=ABSENT,
        reduction="none",
    )


def modality_means(token_T: Tensor, batch: PaddedBatch, modalities: int) -> Tensor:
    """Return the mean over the real targets of each modality, (C,), 0 for one without any."""
    real_T, kind_T = batch.dec_real_BM.flatten(), batch.target_modality_BM.flatten()
    means = []
    for index in range(modalities):
        own_T = real_T & (kind_T == index)
        means.append(token_T[own_T].mean() if bool(own_T.any()) else token_T.new_zeros(()))
    return torch.stack(means)


def build_optimizer(model: nn.Module, lr: float = 1e-4) -> torch.optim.AdamW:
    """Return AdamW as the reference calls it: PyTorch's own choice of loop, norms not decayed."""
    decayed = [w for w in model.parameters() if w.ndim > 1]
    free = [w for w in model.parameters() if w.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)


def padded(batch: MaskedBatch, modalities: tuple[Modality, ...], slots: int = SLOTS) -> PaddedBatch:
    """Return a dense batch of ours as the reference holds it: the same real tokens, padded."""
    columns_C = torch.tensor([m.columns for m in modalities])
    sides: list[Tensor] = []
    for ids_BN, modality_BN, coords_BN2, filler in (
        (batch.input_ids_BN, batch.input_modality_BN, batch.input_coords_BN2, 0),
        (batch.target_ids_BM, batch.target_modality_BM, batch.target_coords_BM2, ABSENT),
    ):
        missing = (0, slots - ids_BN.shape[1])
        row_BN, column_BN = coords_BN2.unbind(-1)
        position_BN = row_BN * columns_C[modality_BN] + column_BN
        real_BN = F.pad(torch.ones_like(ids_BN, dtype=torch.bool), missing, value=False)
        sides += [F.pad(ids_BN, missing, value=filler)]
        sides += [F.pad(modality_BN, missing), F.pad(position_BN, missing), real_BN]
    return PaddedBatch(*sides)


@torch.inference_mode()
def maskgit(
    model: Baseline,
    given: list[tuple[int, Tensor]],
    target: int,
    length: int,
    vocab: int,
    steps: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    """Fill one modality of one clip as the reference samples, int64 (length,).

    At each step all that is known is encoded anew, every unknown slot is scored over all ids and
    then cut to the target's, drawn at a falling temperature, and the most probable are kept by the
    cosine law; the last step takes the likeliest.

    Args:
        model: In evaluation mode.
        given: (index of a modality, ids of its first slots).
        target: Index of the modality to fill.
        length: Its slots.
        vocab: Its ids.
        steps: Forward passes.
        generator: Of the draws.
        temperature: Of the first step.
    """
    made_T = torch.full((length,), -1)
    for step in range(steps):
        known = [(index, torch.arange(len(ids)), ids) for index, ids in given]
        filled = (made_T >= 0).nonzero()[:, 0]
        known.append((target, filled, made_T[filled]))
        unknown_U = (made_T < 0).nonzero()[:, 0]
        position_N = torch.cat([p for _, p, _ in known])
        modality_N = torch.cat([torch.full_like(p, i) for i, p, _ in known])
        logits_UV = model(
            PaddedBatch(
                torch.cat([ids for *_, ids in known])[None],
                modality_N[None],
                position_N[None],
                torch.ones_like(position_N, dtype=torch.bool)[None],
                torch.zeros_like(unknown_U)[None],
                torch.full_like(unknown_U, target)[None],
                unknown_U[None],
                torch.ones_like(unknown_U, dtype=torch.bool)[None],
            )
        )[0, :, :vocab]
        if step == steps - 1:
            made_T[unknown_U] = logits_UV.argmax(-1)
            break
        heat = max(temperature * (1 - step / (steps - 1)), 1e-3)
        share_UV = (logits_UV / heat).softmax(-1)
        drawn_U1 = torch.multinomial(share_UV, 1, generator=generator)
        sure_U = share_UV.gather(1, drawn_U1)[:, 0]
        left = int(length * math.cos(math.pi / 2 * (step + 1) / steps))
        kept = sure_U.topk(min(len(unknown_U), max(1, len(unknown_U) - left))).indices
        made_T[unknown_U[kept]] = drawn_U1[kept, 0]
    return made_T
