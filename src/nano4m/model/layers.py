"""Pre-norm transformer blocks without biases.

Shapes: B batch, N encoder tokens, M decoder tokens, D width, E width inside an MLP, H heads, K head
width.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.model.config import ModelConfig
from nano4m.model.positions import Rotation, rotate

MOST_KEYS = 1024
"""Keys up to which attention on a CPU keeps its scores."""
MOST_SCORES = 1 << 15
"""Scores of a head up to which they are kept for the backward pass, and not made anew in it."""

MOST_HIDDEN = 1 << 22
"""Numbers inside an MLP up to which its GELU is kept for the backward pass."""


def _norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6, bias=False)


@cache
def _has_tiles() -> bool:
    """Return whether this CPU has AMX, on which fused attention is fast in its forward pass."""
    return torch.cpu._is_amx_tile_supported()


class _Attend(torch.autograd.Function):
    """Attention that keeps queries, keys and values alone and makes the scores anew."""

    @staticmethod
    def forward(ctx: Any, q_BHMK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor) -> Tensor:
        ctx.save_for_backward(q_BHMK, k_BHNK, v_BHNK)
        if _has_tiles():
            return F.scaled_dot_product_attention(q_BHMK, k_BHNK, v_BHNK)
        return _plain(q_BHMK, k_BHNK, v_BHNK)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_BHMK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BHMK, k_BHNK, v_BHNK = ctx.saved_tensors
        scale = q_BHMK.shape[-1] ** -0.5
        q_BHMK = q_BHMK * scale
        weight_BHMN = (q_BHMK @ k_BHNK.transpose(-1, -2)).softmax(-1)
        d_weight_BHMN = d_BHMK @ v_BHNK.transpose(-1, -2)
        d_v_BHNK = weight_BHMN.transpose(-1, -2) @ d_BHMK
        d_score_BHMN = torch.ops.aten._softmax_backward_data(
            d_weight_BHMN, weight_BHMN, -1, weight_BHMN.dtype
        )
        d_k_BHNK = d_score_BHMN.transpose(-1, -2) @ q_BHMK
        return (d_score_BHMN @ k_BHNK).mul_(scale), d_k_BHNK, d_v_BHNK


def _plain(q_BHMK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor) -> Tensor:
    scores_BHMN = (q_BHMK * q_BHMK.shape[-1] ** -0.5) @ k_BHNK.transpose(-1, -2)
    return scores_BHMN.softmax(-1) @ v_BHNK


def attention(q_BHMK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v, (B, H, M, K), by the way that is fast on the device.

    PyTorch's fused attention for CPUs multiplies in tiles too small for these lengths: backward in
    half precision takes 4 to 9 times as long as plain steps (docs/PERFORMANCE.md). It is used
    where AMX makes its forward pass the faster one and no such backward pass follows. Plain steps
    keep the (M, N) scores if they are few and make them anew for the backward pass if they are
    many; very long ones go the fused way.
    """
    fused = F.scaled_dot_product_attention
    length, keys = q_BHMK.shape[2], k_BHNK.shape[2]
    if q_BHMK.device.type != "cpu" or keys > MOST_KEYS:
        return fused(q_BHMK, k_BHNK, v_BHNK)
    if torch.compiler.is_compiling():
        return _plain(q_BHMK, k_BHNK, v_BHNK)
    learns = torch.is_grad_enabled() and (q_BHMK.requires_grad or v_BHNK.requires_grad)
    if _has_tiles() and (not learns or q_BHMK.dtype.itemsize >= 4):
        return fused(q_BHMK, k_BHNK, v_BHNK)
    if learns and length * keys > MOST_SCORES:
        return _Attend.apply(q_BHMK, k_BHNK, v_BHNK)
    return _plain(q_BHMK, k_BHNK, v_BHNK)


class _Attention(nn.Module):
    """What self- and cross-attention share: heads, norms of queries and keys, rotations."""

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
        query: Rotation | None,
        key: Rotation | None,
    ) -> Tensor:
        """Return the values that each query gathers, heads side by side, (B, M, D)."""
        q, k, v = (self._heads(t) for t in (q_BMD, k_BND, v_BND))
        q, k = self.norm_q(q), self.norm_k(k)
        if query is not None and key is not None:
            q, k = rotate(q, query), rotate(k, key)
        # Autocast computes norms in float32.
        q, k = q.to(v.dtype), k.to(v.dtype)
        return attention(q, k, v).transpose(1, 2).flatten(2)

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SelfAttention(_Attention):
    """Full attention of a set on itself."""

    def __init__(self, dim: int, head_dim: int, qk_norm: bool = False) -> None:
        super().__init__(dim, head_dim, qk_norm)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BND: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Return (B, N, D)."""
        q, k, v = self.qkv(x_BND).chunk(3, dim=-1)
        return self.out(self.attend(q, k, v, rotation, rotation))


class CrossAttention(_Attention):
    """Attention of decoder queries on the context."""

    def __init__(self, dim: int, head_dim: int, qk_norm: bool = False) -> None:
        super().__init__(dim, head_dim, qk_norm)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_BMD: Tensor,
        context_BND: Tensor,
        target: Rotation | None = None,
        source: Rotation | None = None,
    ) -> Tensor:
        """Return (B, M, D); queries turn by where they stand, keys by where the context stands."""
        k, v = self.kv(context_BND).chunk(2, dim=-1)
        return self.out(self.attend(self.q(x_BMD), k, v, target, source))


class _DownOfGelu(torch.autograd.Function):
    """gelu(up) @ weight', with the GELU made anew for the backward pass and not kept."""

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
    """Two linear layers with a GELU between."""

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

    It has three matrices where ``Mlp`` has two, so it is two thirds as wide, rounded up to a
    multiple of 8: about as many parameters.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        width = -(-2 * hidden // 24) * 8
        self.up = nn.Linear(dim, 2 * width, bias=False)
        self.down = nn.Linear(width, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        gate, value = self.up(x_BND).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


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
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Return (B, N, D)."""
        x_BND = x_BND + self.drop(self.attention(self.norm1(x_BND), rotation))
        return x_BND + self.drop(self.mlp(self.norm2(x_BND)))


class DecoderBlock(nn.Module):
    """Self-attention among all queries, cross-attention on the context, MLP."""

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
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x_BMD: Tensor,
        context_BND: Tensor,
        target: Rotation | None = None,
        source: Rotation | None = None,
    ) -> Tensor:
        """Return (B, M, D); ``target`` and ``source`` as in ``CrossAttention``."""
        x_BMD = x_BMD + self.drop(self.attention(self.norm1(x_BMD), target))
        context = self.norm_context(context_BND)
        x_BMD = x_BMD + self.drop(self.cross(self.norm_query(x_BMD), context, target, source))
        return x_BMD + self.drop(self.mlp(self.norm2(x_BMD)))
