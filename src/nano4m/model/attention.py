"""Attention of dense and of packed batches, with the implementation that is fast on the device.

Shapes: B batch, H heads, M queries, N keys, K head width; packed: S sequences concatenated into T
queries and U keys.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_KEYS = 1024
"""Keys up to which attention on a CPU materializes its scores."""
MOST_SCORES = 1 << 15
"""Scores of a head up to which they are kept for the backward pass instead of recomputed."""


@cache
def has_tiles() -> bool:
    """Return whether this CPU has AMX, which makes the forward pass of fused attention fast."""
    return torch.cpu._is_amx_tile_supported()


class _Attend(torch.autograd.Function):
    """Attention that saves only queries, keys and values, and recomputes the scores."""

    @staticmethod
    def forward(ctx: Any, q_BHMK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor) -> Tensor:
        ctx.save_for_backward(q_BHMK, k_BHNK, v_BHNK)
        if has_tiles():
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
    """Return softmax(q k' / sqrt(K)) v, (B, H, M, K), with the implementation fast on the device.

    PyTorch's fused attention for CPUs multiplies in tiles too small for these lengths: backward in
    half precision takes 4 to 9 times as long as plain operations (docs/PERFORMANCE.md). It is used
    where AMX makes its forward pass faster and no such backward pass follows, and for very long
    sequences. Plain operations keep the (M, N) scores for the backward pass if they are few, and
    recompute them otherwise.
    """
    fused = F.scaled_dot_product_attention
    length, keys = q_BHMK.shape[2], k_BHNK.shape[2]
    if q_BHMK.device.type != "cpu" or keys > MOST_KEYS:
        return fused(q_BHMK, k_BHNK, v_BHNK)
    if torch.compiler.is_compiling():
        return _plain(q_BHMK, k_BHNK, v_BHNK)
    learns = torch.is_grad_enabled() and (q_BHMK.requires_grad or v_BHNK.requires_grad)
    if has_tiles() and (not learns or q_BHMK.dtype.itemsize >= 4):
        return fused(q_BHMK, k_BHNK, v_BHNK)
    if learns and length * keys > MOST_SCORES:
        return _Attend.apply(q_BHMK, k_BHNK, v_BHNK)
    return _plain(q_BHMK, k_BHNK, v_BHNK)


class Segments(NamedTuple):
    """Boundaries of the sequences of a packed batch.

    Attributes:
        query_starts_S, key_starts_S: int32 (S + 1,) on the device; sequence s has the queries
            query_starts[s] to query_starts[s + 1] - 1, and its keys likewise.
        most_queries, most_keys: Maximum length of a sequence.
        groups: (sequences, queries, keys) of adjacent sequences of equal lengths, if no kernel
            supports sequences of different lengths; otherwise empty, so that compiled or captured
            code does not depend on the lengths.
    """

    query_starts_S: Tensor
    key_starts_S: Tensor
    most_queries: int
    most_keys: int
    groups: tuple[tuple[int, int, int], ...] = ()


def has_varlen_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether one kernel attends within sequences of different lengths.

    This is FlashAttention (arXiv:2307.08691) in PyTorch 2.10 and newer: CUDA cards from Ampere on,
    half precision, head widths that are a multiple of 8 up to 256.
    """
    if device.type != "cuda" or dtype.itemsize > 2 or head_dim % 8 or head_dim > 256:
        return False
    try:
        import torch.nn.attention.varlen  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def packed_attention(q_1HTK: Tensor, k_1HUK: Tensor, v_1HUK: Tensor, segments: Segments) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v within each sequence of a packed batch, (1, H, T, K)."""
    if not segments.groups:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (t[0].transpose(0, 1) for t in (q_1HTK, k_1HUK, v_1HUK))
        starts = segments.query_starts_S, segments.key_starts_S
        out_THK = varlen_attn(q, k, v, *starts, segments.most_queries, segments.most_keys)
        assert isinstance(out_THK, Tensor)
        return out_THK.transpose(0, 1)[None]
    parts, t, u = [], 0, 0
    for rows, queries, keys in segments.groups:
        own_q = q_1HTK[0, :, t : t + rows * queries].unflatten(1, (rows, queries)).transpose(0, 1)
        own_k, own_v = (
            x[0, :, u : u + rows * keys].unflatten(1, (rows, keys)).transpose(0, 1)
            for x in (k_1HUK, v_1HUK)
        )
        parts.append(attention(own_q, own_k, own_v).transpose(0, 1).flatten(1, 2))
        t, u = t + rows * queries, u + rows * keys
    return torch.cat(parts, 1)[None]
