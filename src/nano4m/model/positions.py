"""Fixed positions from coordinates: embeddings added to tokens, or rotations of queries and keys.

Angles are computed in float32 and cast afterwards: in half precision neighbours at the end of a
long sequence would share a position.

Shapes: B batch, N tokens, C modalities, P positions, D width, H heads, K head width.
"""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nano4m.config.model import ModelConfig
from nano4m.modalities import Modality
from nano4m.tokens.patterns import ranks_of

BASE = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine of the angle of each pair of channels, float32 (B, 1, N, K / 2)."""

    cos: Tensor
    sin: Tensor


def _angles(value: Tensor, count: int) -> Tensor:
    """Return ``value`` times each of ``count`` frequencies BASE^(-k / count), float32."""
    k = torch.arange(count, dtype=torch.float32, device=value.device)
    return value[..., None].float() * BASE ** (-k / count)


def sincos1d(position: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal embedding of a position, float32 (..., D): all sines, then all cosines.

    Source: Attention Is All You Need (arXiv:1706.03762), section 3.5, not interleaved.

    Raises:
        ValueError: ``dim`` is odd.
    """
    if dim % 2:
        raise ValueError(f"sincos1d needs an even width, not {dim}")
    angle = _angles(position, dim // 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sincos2d(coords_BN2: Tensor, dim: int) -> Tensor:
    """Return the sinusoidal embedding of two coordinates, float32 (B, N, D).

    Half of the width encodes the first coordinate, half the second; each half is sines, then
    cosines at frequencies 10000^(-k / (dim / 4)). Source: 4M (arXiv:2312.06647), after MAE
    (arXiv:2111.06377).

    Raises:
        ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sincos2d needs a width that is a multiple of 4, not {dim}")
    angle = _angles(coords_BN2, dim // 4)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def rope1d(position_BN: Tensor, head_dim: int) -> Rotation:
    """Return the rotation by one position: pair k turns by position * 10000^(-k / (K / 2)).

    Source: RoFormer (arXiv:2104.09864); pairs are channels k and k + K / 2.

    Raises:
        ValueError: ``head_dim`` is odd.
    """
    if head_dim % 2:
        raise ValueError(f"rope1d needs an even head_dim, not {head_dim}")
    angle = _angles(position_BN, head_dim // 2)[:, None]
    return Rotation(angle.cos(), angle.sin())


def rope2d(coords_BN2: Tensor, head_dim: int) -> Rotation:
    """Return the rotation by two coordinates, one for each half of the pairs.

    Source: RoPE for vision transformers, axial form (arXiv:2403.13298).

    Raises:
        ValueError: ``head_dim`` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"rope2d needs a head_dim that is a multiple of 4, not {head_dim}")
    angle = _angles(coords_BN2, head_dim // 4).flatten(-2)[:, None]
    return Rotation(angle.cos(), angle.sin())


def rotate(x_BHNK: Tensor, rotation: Rotation) -> Tensor:
    """Return each pair of channels (k, k + K / 2) of (B, H, N, K), rotated by its angle."""
    cos, sin = (t.to(x_BHNK.dtype) for t in rotation)
    first, second = x_BHNK.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _ranks(order: str, modality: Modality) -> Tensor:
    """Return the 1-D position of each slot of a modality, int64 (T,)."""
    if modality.layout != "codebooks":
        return torch.arange(modality.length)
    return ranks_of(order, *modality.shape)


class Positions(nn.Module):
    """Positions of tokens, encoded as ``ModelConfig.positions`` says.

    The 1-D position of a token is row * columns + column within its modality (text: its index), of
    a sound its place in ``codebook_order``; the added embedding is a row of ``table``. The table is
    saved with the checkpoint, because sin and cos differ between machines in the last bit of
    float32.
    """

    def __init__(self, config: ModelConfig, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.config, self.modalities = config, modalities
        columns = torch.tensor([m.columns for m in modalities])
        self.register_buffer("columns_C", columns, persistent=False)
        ranks = None
        if config.codebook_order != "interleave":
            ranks = torch.cat([_ranks(config.codebook_order, m) for m in modalities])
        self.register_buffer("ranks", ranks, persistent=False)
        lengths = torch.tensor([0, *(m.length for m in modalities[:-1])])
        self.register_buffer("starts_C", lengths.cumsum(0), persistent=False)
        table = None
        if config.positions in ("sincos1d", "rope1d"):
            longest = max(m.length for m in modalities)
            table = sincos1d(torch.arange(longest), config.dim)
        self.register_buffer("table", table)

    def _index(self, modality_BN: Tensor, coords_BN2: Tensor) -> Tensor:
        row_BN, column_BN = coords_BN2.unbind(-1)
        slot_BN = row_BN * self.columns_C[modality_BN] + column_BN  # type: ignore[index]
        if self.ranks is None:
            return slot_BN
        return self.ranks[self.starts_C[modality_BN] + slot_BN]  # type: ignore[index]

    def added(self, modality_BN: Tensor, coords_BN2: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the embedding added to the tokens, ``dtype`` (B, N, D)."""
        if self.table is None:
            return sincos2d(coords_BN2, self.config.dim).to(dtype)
        return self.table[self._index(modality_BN, coords_BN2)].to(dtype)  # type: ignore[index]

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """Embeddings of all positions of all modalities, and the first row of each modality."""
        device = self.get_buffer("columns_C").device
        starts = [0]
        for m in self.modalities:
            starts.append(starts[-1] + m.length)
        coords = torch.tensor([c for m in self.modalities for c in m.coordinates()], device=device)
        kinds = [torch.full((m.length,), i) for i, m in enumerate(self.modalities)]
        table = self.added(torch.cat(kinds).to(device), coords, torch.float32)
        return table, torch.tensor(starts[:-1], dtype=torch.int32, device=device)

    def looked_up(self, modality_BN: Tensor, coords_BN2: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what ``added`` does, from a precomputed table."""
        table, starts_C = self._rows
        row_BN, column_BN = coords_BN2.unbind(-1)
        columns_BN = self.columns_C[modality_BN]  # type: ignore[index]
        return table.to(dtype)[starts_C[modality_BN] + row_BN * columns_BN + column_BN]

    def rotation(self, modality_BN: Tensor, coords_BN2: Tensor) -> Rotation | None:
        """Return the rotation of queries or keys at these positions; None without RoPE."""
        if self.config.positions == "rope1d":
            return rope1d(self._index(modality_BN, coords_BN2), self.config.head_dim)
        if self.config.positions == "rope2d":
            return rope2d(coords_BN2, self.config.head_dim)
        return None
