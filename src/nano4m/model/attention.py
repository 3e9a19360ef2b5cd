"""Attention by the way that is fast on the device, for dense batches and for packed ones.

Shapes: B batch, H heads, M queries, N keys, K head width; packed: S sequences laid end to end in T
queries and U keys.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_KEYS = 1024
"""Keys up to which attention on a CPU keeps its scores."""
MOST_SCORES = 1 << 15
"""Scores of a head up to which they are kept for the backward pass, and not made anew in it."""


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


class Segments(NamedTuple):
    """Where the sequences of a packed batch begin.

    Attributes:
        query_starts_S, key_starts_S: int32 (S + 1,) on the device; sequence s has the queries
            query_starts[s] to query_starts[s + 1] - 1 and the keys in the same way.
        most_queries, most_keys: Of one sequence.
        groups: (sequences, queries, keys) of neighbours of equal lengths, where no kernel takes
            sequences of different lengths; empty where one does, so that what is compiled or
            captured does not depend on the lengths.
    """

    query_starts_S: Tensor
    key_starts_S: Tensor
    most_queries: int
    most_keys: int
    groups: tuple[tuple[int, int, int], ...] = ()


def has_varlen_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether one call attends inside sequences of different lengths.

    That is FlashAttention (arXiv:2307.08691) as PyTorch 2.10 and newer have it: on CUDA cards from
    Ampere on, in half precision, for heads of a multiple of 8 channels up to 256.
    """
    if device.type != "cuda" or dtype.itemsize > 2 or head_dim % 8 or head_dim > 256:
        return False
    try:
        import torch.nn.attention.varlen  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def packed_attention(q_1HTK: Tensor, k_1HUK: Tensor, v_1HUK: Tensor, segments: Segments) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v inside each sequence of a packed batch, (1, H, T, K)."""
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
