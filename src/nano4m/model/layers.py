"""Pre-norm transformer blocks without biases.

Shapes: B batch, N encoder tokens, M decoder tokens, D width, E width inside an MLP, H heads, K head
width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.config.model import ModelConfig
from nano4m.model.attention import Segments, attention, packed_attention
from nano4m.model.cpu_blocks import (
    RotationTables,
    cross_attention,
    gated,
    is_fused,
    plain,
    self_attention,
)
from nano4m.model.dropout import Dropout
from nano4m.model.positions import Rotation, rotate

MOST_HIDDEN = 1 << 22
"""Hidden activations of an MLP up to which its GELU is kept for the backward pass."""


Turns = Rotation | RotationTables
"""Rotations of queries or keys; tables are made once for all blocks."""


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6, bias=False)


class _Attention(nn.Module):
    """Common parts of self- and cross-attention: heads, norms of queries and keys, rotations."""

    def __init__(self, dim: int, head_dim: int, qk_norm: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        # Source: ViT-22B (arXiv:2302.05442), a LayerNorm over each head of queries and keys.
        self.norm_q = _norm(head_dim) if qk_norm else nn.Identity()
        self.norm_k = _norm(head_dim) if qk_norm else nn.Identity()

    def attend(
        self,
        q_BMD: Tensor,
        k_BND: Tensor,
        v_BND: Tensor,
        query: Turns | None,
        key: Turns | None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return the attention output of each query, heads concatenated, (B, M, D).

        With ``segments`` B is 1 and sequences are concatenated, see ``packed_attention``.
        """
        query, key = plain(query), plain(key)
        q, k, v = (self._heads(t) for t in (q_BMD, k_BND, v_BND))
        q, k = self.norm_q(q), self.norm_k(k)
        if query is not None and key is not None:
            q, k = rotate(q, query), rotate(k, key)
        # Autocast computes norms in float32.
        q, k = q.to(v.dtype), k.to(v.dtype)
        if segments is not None:
            return packed_attention(q, k, v, segments).transpose(1, 2).flatten(2)
        return attention(q, k, v).transpose(1, 2).flatten(2)

    def is_fused(self, x_BMD: Tensor, keys: int, segments: Segments | None) -> bool:
        """Return whether attention to so many keys is one step, see ``cpu_blocks``."""
        has_norm = not isinstance(self.norm_q, nn.Identity)
        return not has_norm and segments is None and is_fused(x_BMD, keys)

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SelfAttention(_Attention):
    """Full self-attention."""

    def __init__(self, dim: int, head_dim: int, qk_norm: bool = False) -> None:
        super().__init__(dim, head_dim, qk_norm)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_BND: Tensor,
        rotation: Turns | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return (B, N, D)."""
        qkv = self.qkv(x_BND)
        if self.is_fused(x_BND, x_BND.shape[1], segments):
            return self.out(self_attention(qkv, self.head_dim, rotation))
        q, k, v = qkv.chunk(3, dim=-1)
        return self.out(self.attend(q, k, v, rotation, rotation, segments))


class CrossAttention(_Attention):
    """Attention of decoder queries to the context."""

    def __init__(self, dim: int, head_dim: int, qk_norm: bool = False) -> None:
        super().__init__(dim, head_dim, qk_norm)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_BMD: Tensor,
        context_BND: Tensor,
        target: Turns | None = None,
        source: Turns | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return (B, M, D); ``target`` rotates queries, ``source`` rotates keys."""
        q, kv = self.q(x_BMD), self.kv(context_BND)
        if self.is_fused(x_BMD, context_BND.shape[1], segments):
            return self.out(cross_attention(q, kv, self.head_dim, target, source))
        k, v = kv.chunk(2, dim=-1)
        return self.out(self.attend(q, k, v, target, source, segments))


class _DownOfGelu(torch.autograd.Function):
    """gelu(up) @ weight', with the GELU recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, up_BNE: Tensor, weight_DE: Tensor) -> Tensor:
        ctx.save_for_backward(up_BNE, weight_DE)
        return F.linear(F.gelu(up_BNE), weight_DE)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_BND: Tensor) -> tuple[Tensor, Tensor]:
        up_BNE, weight_DE = ctx.saved_tensors
        d_weight_DE = d_BND.flatten(0, -2).T @ F.gelu(up_BNE).flatten(0, -2)
        return torch.ops.aten.gelu_backward(d_BND @ weight_DE, up_BNE), d_weight_DE


class Mlp(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        up_BNE = self.up(x_BND)
        learns = torch.is_grad_enabled() and up_BNE.requires_grad
        if learns and up_BNE.numel() > MOST_HIDDEN and not torch.compiler.is_compiling():
            return _DownOfGelu.apply(up_BNE, self.down.weight)
        return self.down(F.gelu(up_BNE))


class SwiGlu(nn.Module):
    """down(silu(gate) * value). Source: GLU Variants (arXiv:2002.05202).

    The hidden width is 2/3 of that of ``Mlp``, rounded up to a multiple of 8, so that the parameter
    count is about equal.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        width = -(-2 * hidden // 24) * 8
        self.up = nn.Linear(dim, 2 * width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        return self.down(gated(self.up(x_BND)))


MLPS: dict[str, type[Mlp] | type[SwiGlu]] = {"gelu": Mlp, "swiglu": SwiGlu}


class EncoderBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = _norm(dim)
        self.attention = SelfAttention(dim, config.head_dim, config.qk_norm)
        self.norm2 = _norm(dim)
        self.mlp = MLPS[config.mlp](dim, int(dim * config.mlp_ratio))
        self.drop = Dropout(dropout)

    def forward(
        self,
        x_BND: Tensor,
        rotation: Turns | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return (B, N, D)."""
        x_BND = x_BND + self.drop(self.attention(self.norm1(x_BND), rotation, segments))
        return x_BND + self.drop(self.mlp(self.norm2(x_BND)))


class DecoderBlock(nn.Module):
    """Self-attention among all queries, cross-attention to the context, MLP."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        dim = config.dim
        self.norm1 = _norm(dim)
        self.attention = SelfAttention(dim, config.head_dim, config.qk_norm)
        self.norm_query = _norm(dim)
        self.norm_context = _norm(dim)
        self.cross = CrossAttention(dim, config.head_dim, config.qk_norm)
        self.norm2 = _norm(dim)
        self.mlp = MLPS[config.mlp](dim, int(dim * config.mlp_ratio))
        self.drop = Dropout(dropout)

    def forward(
        self,
        x_BMD: Tensor,
        context_BND: Tensor,
        target: Turns | None = None,
        source: Turns | None = None,
        among: Segments | None = None,
        across: Segments | None = None,
    ) -> Tensor:
        """Return (B, M, D); ``target`` and ``source`` as in ``CrossAttention``.

        Args:
            among, across: Of a packed batch: segments of self-attention and of cross-attention.
        """
        x_BMD = x_BMD + self.drop(self.attention(self.norm1(x_BMD), target, among))
        context = self.norm_context(context_BND)
        found = self.cross(self.norm_query(x_BMD), context, target, source, across)
        x_BMD = x_BMD + self.drop(found)
        return x_BMD + self.drop(self.mlp(self.norm2(x_BMD)))
