"""Fixed positions from coordinates.

Shapes: B batch, N tokens, D width.
"""

import torch
from torch import Tensor


def sincos2d(coords_BN2: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Sine-cosine embedding of two coordinates, float32 (B, N, D).

    Half of the width encodes the first coordinate, half the second; each half is sines, then
    cosines at frequencies base^(-k / (dim / 4)). Source: 4M (arXiv:2312.06647), after MAE
    (arXiv:2111.06377).

    Raises:
        ValueError: ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sincos2d needs a width that is a multiple of 4, not {dim}")
    k = torch.arange(dim // 4, dtype=torch.float32, device=coords_BN2.device)
    angle = coords_BN2[..., None].float() * base ** (-k / (dim // 4))
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
