"""Parts of the blocks as single steps of the graph, for a CPU.

There every operation costs some ten microseconds beside its work, and elementwise ones are bound by
memory. One node of the graph for all of attention between its projections, or for a gate, needs a
third of the operations: none is recorded, results are written where they are needed, and positions
turn whole rows of heads.

Shapes: B batch, M queries, N keys, H heads, K head width, D = H * K, W a multiple of D.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.model.attention import MOST_KEYS, MOST_SCORES, has_tiles
from nano4m.model.positions import Rotation


class RotationTables:
    """A rotation for whole rows of heads, made once for all blocks.

    Args:
        plain: Cosine and sine of the angles.
        heads: Number of heads.
    """

    def __init__(self, plain: Rotation, heads: int) -> None:
        self.plain, self.heads = plain, heads
        self._made: dict[Any, tuple[Tensor, Tensor]] = {}

    def scaled(self, dtype: torch.dtype, *scales: float) -> tuple[Tensor, Tensor]:
        """Return factors of a row and of its swapped halves, each (B, N, W = len(scales) * D)."""
        if (dtype, scales) not in self._made:
            cos, sin = (t[:, 0, :, None] for t in self.plain)  # (B, N, 1, K / 2)

            def rows(once: Tensor) -> Tensor:
                parts = [(once * s).to(dtype).expand(-1, -1, self.heads, -1) for s in scales]
                return torch.cat(parts, 2).flatten(2)

            own = rows(torch.cat([cos, cos], -1)), rows(torch.cat([-sin, sin], -1))
            self._made[dtype, scales] = own
        return self._made[dtype, scales]


def tables_of(rotation: Rotation | RotationTables | None, heads: int) -> RotationTables | None:
    """Return the tables of a rotation, unless it has them."""
    if rotation is None or isinstance(rotation, RotationTables):
        return rotation
    return RotationTables(rotation, heads)


def plain(rotation: Rotation | RotationTables | None) -> Rotation | None:
    """Return the angles of a rotation."""
    return rotation.plain if isinstance(rotation, RotationTables) else rotation


def is_fused(x: Tensor, keys: int) -> bool:
    """Return whether attention of queries like ``x`` to so many keys is one step here."""
    return x.device.type == "cpu" and keys <= MOST_KEYS and not torch.compiler.is_compiling()


def _turn(
    x_BNW: Tensor,
    tables: tuple[Tensor, Tensor],
    half: int,
    sign: int = 1,
    out: Tensor | None = None,
) -> Tensor:
    """Return rows of heads, each pair of channels (k, k + K / 2) turned by ``sign`` its angle.

    With -1 it is the gradient of what was turned, from the gradient of the result.
    """
    pairs = x_BNW.unflatten(-1, (-1, 2, half))
    swapped_BNW = torch.cat([pairs[..., 1:, :], pairs[..., :1, :]], -2).flatten(-3)
    cos_BNW, sin_BNW = tables
    return torch.mul(x_BNW, cos_BNW, out=out).addcmul_(swapped_BNW, sin_BNW, value=sign)


def _apart(x_BND: Tensor, head_dim: int) -> Tensor:
    """Return the heads as a batch, (B * H, N, K), contiguous."""
    return x_BND.unflatten(-1, (-1, head_dim)).transpose(1, 2).flatten(0, 1)


def _together(x_RNK: Tensor, batch: int) -> Tensor:
    """Return (B, H, N, K) with the channels of a token adjacent, as (B, N, H, K)."""
    return x_RNK.unflatten(0, (batch, -1)).transpose(1, 2)


class _Attention(torch.autograd.Function):
    """softmax(q k' / sqrt(K)) v of turned queries and keys."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor | None,
        head_dim: int,
        query: RotationTables | None,
        key: RotationTables | None,
    ) -> Tensor:
        scale, half, dtype = head_dim**-0.5, head_dim // 2, first.dtype
        width = first.shape[-1] // (3 if second is None else 1)
        if second is None:
            qk, v = first[..., : 2 * width], first[..., 2 * width :]
            if query is not None:
                qk = _turn(qk, query.scaled(dtype, scale, 1.0), half)
            q, k = qk.chunk(2, -1)
        else:
            q, (k, v) = first, second.chunk(2, -1)
            if query is not None and key is not None:
                q = _turn(q, query.scaled(dtype, scale), half)
                k = _turn(k, key.scaled(dtype, 1.0), half)
        q, k, v = (_apart(t, head_dim) for t in (q, k, v))
        if query is None:
            q = q * scale
        is_kept = q.shape[1] * k.shape[1] <= MOST_SCORES
        weights = None
        if has_tiles() and not (is_kept and any(ctx.needs_input_grad)):
            out = F.scaled_dot_product_attention(q[None], k[None], v[None], scale=1.0)[0]
        else:
            weights = torch.bmm(q, k.mT).softmax(-1)
            out = torch.bmm(weights, v)
        ctx.save_for_backward(q, k, v, weights if is_kept else None)
        ctx.of = (head_dim, width, second is None, query, key, len(first))
        return _together(out, len(first)).flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_BMD: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        head_dim, width, is_self, query, key, batch = ctx.of
        scale, half, dtype = head_dim**-0.5, head_dim // 2, d_BMD.dtype
        if weights is None:
            weights = torch.bmm(q, k.mT).softmax(-1)
        d_out = _apart(d_BMD, head_dim)
        d_v = torch.bmm(weights.mT, d_out)
        d_weights = torch.bmm(d_out, v.mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_q, d_k = torch.bmm(d_scores, k), torch.bmm(d_scores.mT, q)
        d_q = _together(d_q, batch)
        d_k, d_v = (_together(t, batch) for t in (d_k, d_v))

        def written(parts: tuple[Tensor, ...], out: Tensor) -> None:
            for number, part in enumerate(parts):
                out[..., number * width : (number + 1) * width].unflatten(-1, (-1, head_dim)).copy_(
                    part
                )

        def joined(parts: tuple[Tensor, ...]) -> Tensor:
            out = d_BMD.new_empty(batch, parts[0].shape[1], len(parts) * width)
            written(parts, out)
            return out

        if is_self:
            d_first = d_BMD.new_empty(batch, d_BMD.shape[1], 3 * width)
            if query is None:
                written((d_q * scale, d_k, d_v), d_first)
            else:
                written((d_v,), d_first[..., 2 * width :])
                tables, d_qk = query.scaled(dtype, scale, 1.0), d_first[..., : 2 * width]
                _turn(joined((d_q, d_k)), tables, half, -1, d_qk)
            return d_first, None, None, None, None
        d_second = d_BMD.new_empty(batch, d_k.shape[1], 2 * width)
        if query is None or key is None:
            written((d_k, d_v), d_second)
            return joined((d_q * scale,)), d_second, None, None, None
        d_first = d_BMD.new_empty(batch, d_BMD.shape[1], width)
        _turn(joined((d_q,)), query.scaled(dtype, scale), half, -1, d_first)
        written((d_v,), d_second[..., width:])
        _turn(joined((d_k,)), key.scaled(dtype, 1.0), half, -1, d_second[..., :width])
        return d_first, d_second, None, None, None


def self_attention(
    qkv_BN3D: Tensor, head_dim: int, rotation: Rotation | RotationTables | None
) -> Tensor:
    """Return the attention output of each token, heads concatenated, (B, N, D).

    Args:
        qkv_BN3D: Queries, keys and values, (B, N, 3 D).
        head_dim: K.
        rotation: Of queries and keys; None: they are not turned.
    """
    tables = tables_of(rotation, qkv_BN3D.shape[-1] // (3 * head_dim))
    return _Attention.apply(qkv_BN3D, None, head_dim, tables, tables)


def cross_attention(
    q_BMD: Tensor,
    kv_BN2D: Tensor,
    head_dim: int,
    query: Rotation | RotationTables | None,
    key: Rotation | RotationTables | None,
) -> Tensor:
    """Return the attention output of each query, (B, M, D).

    Args:
        q_BMD: Queries.
        kv_BN2D: Keys and values, (B, N, 2 D).
        head_dim: K.
        query, key: Rotations; None: they are not turned.
    """
    heads = q_BMD.shape[-1] // head_dim
    tables = tables_of(query, heads), tables_of(key, heads)
    return _Attention.apply(q_BMD, kv_BN2D, head_dim, *tables)


class _Gate(torch.autograd.Function):
    """silu(gate) * value, which keeps only its input."""

    @staticmethod
    def forward(ctx: Any, up_BN2E: Tensor) -> Tensor:
        ctx.save_for_backward(up_BN2E)
        gate, value = up_BN2E.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_BNE: Tensor) -> Tensor:
        (up_BN2E,) = ctx.saved_tensors
        gate, value = up_BN2E.chunk(2, -1)
        d_up = torch.empty_like(up_BN2E)
        d_gate, d_value = d_up.chunk(2, -1)
        torch.mul(d_BNE, F.silu(gate), out=d_value)
        torch.ops.aten.silu_backward.grad_input(d_BNE * value, gate, grad_input=d_gate)
        return d_up


def gated(up_BN2E: Tensor) -> Tensor:
    """Return silu(gate) * value of (gate, value), (..., 2 E) to (..., E)."""
    if up_BN2E.device.type != "cpu" or torch.compiler.is_compiling():
        gate, value = up_BN2E.chunk(2, dim=-1)
        return F.silu(gate) * value
    return _Gate.apply(up_BN2E)
