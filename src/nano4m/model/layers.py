"""Pre-norm transformer blocks without biases.

Shapes: B batch, N encoder tokens, M decoder tokens, D width, H heads, K head width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def _heads(x_BND: Tensor, head_dim: int) -> Tensor:
    batch, length, width = x_BND.shape
    return x_BND.view(batch, length, width // head_dim, head_dim).transpose(1, 2)


def _merge(x_BHNK: Tensor) -> Tensor:
    return x_BHNK.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Full attention of a set on itself."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        q, k, v = (_heads(t, self.head_dim) for t in self.qkv(x_BND).chunk(3, dim=-1))
        return self.out(_merge(F.scaled_dot_product_attention(q, k, v)))


class CrossAttention(nn.Module):
    """Attention of decoder queries on the context."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BMD: Tensor, context_BND: Tensor) -> Tensor:
        """Return (B, M, D)."""
        q = _heads(self.q(x_BMD), self.head_dim)
        k, v = (_heads(t, self.head_dim) for t in self.kv(context_BND).chunk(2, dim=-1))
        return self.out(_merge(F.scaled_dot_product_attention(q, k, v)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        return self.down(F.gelu(self.up(x_BND)))


class EncoderBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, dim: int, head_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.attention = SelfAttention(dim, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.mlp = Mlp(dim, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return (B, N, D)."""
        x_BND = x_BND + self.drop(self.attention(self.norm1(x_BND)))
        return x_BND + self.drop(self.mlp(self.norm2(x_BND)))


class DecoderBlock(nn.Module):
    """Self-attention among all queries, cross-attention on the context, MLP."""

    def __init__(self, dim: int, head_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.attention = SelfAttention(dim, head_dim)
        self.norm_query = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.norm_context = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.cross = CrossAttention(dim, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, bias=False)
        self.mlp = Mlp(dim, hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BMD: Tensor, context_BND: Tensor) -> Tensor:
        """Return (B, M, D)."""
        x_BMD = x_BMD + self.drop(self.attention(self.norm1(x_BMD)))
        context = self.norm_context(context_BND)
        x_BMD = x_BMD + self.drop(self.cross(self.norm_query(x_BMD), context))
        return x_BMD + self.drop(self.mlp(self.norm2(x_BMD)))
