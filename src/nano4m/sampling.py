"""Drawing one id a slot from logits, each row from its own random numbers.

Temperature comes first, then top-k, then top-p on what that leaves: a nucleus of the distribution
that is drawn from (Holtzman et al. 2019, arXiv:1904.09751).

Shapes: R rows, T slots, W ids that a slot may have.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def uniform(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw numbers in (0, 1), float32 (R, *shape), each row from its own generator."""
    rows = [torch.rand(*shape, generator=generator) for generator in generators]
    return torch.stack(rows).clamp_min(1e-20)


def gumbel(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw standard Gumbel noise, float32 (R, *shape), each row from its own generator."""
    return -(-uniform(shape, generators).log()).log()


def truncate(scaled_RTW: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return logits with -inf outside the top-k and, of those, the smallest set that holds top-p.

    Args:
        scaled_RTW: Logits over their temperature.
        top_k: Ids kept; 0: all.
        top_p: Least probability of the ids kept, in (0, 1]. The likeliest one always stays.
    """
    is_cut = 0 < top_k < scaled_RTW.shape[-1]
    if not is_cut and top_p >= 1:
        return scaled_RTW
    ordered, order = scaled_RTW.sort(dim=-1, descending=True, stable=True)
    beyond = torch.zeros_like(ordered, dtype=torch.bool)
    if is_cut:
        beyond[..., top_k:] = True
        ordered = ordered.masked_fill(beyond, -math.inf)
    if top_p < 1:
        share = ordered.softmax(-1)
        beyond |= share.cumsum(-1) - share >= top_p
    return scaled_RTW.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -math.inf)


def draw(
    logits_RTW: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draw one id a slot, int64 (R, T), by the Gumbel-max trick; temperature 0 takes the likeliest.

    Args:
        logits_RTW: Unnormalised; -inf never comes out.
        temperature: Divides the logits, before ``top_k`` and ``top_p``.
        generators: One a row.
    """
    if temperature == 0:
        return logits_RTW.argmax(-1)
    scaled = truncate(logits_RTW / temperature, top_k, top_p)
    return (scaled + gumbel(scaled.shape[1:], generators)).argmax(-1)


def confidence(logits_RTW: Tensor, drawn_RT: Tensor) -> Tensor:
    """Return the log-probability of what was drawn, untempered and untruncated, float32 (R, T)."""
    return logits_RTW.gather(2, drawn_RT[..., None])[..., 0] - logits_RTW.logsumexp(-1)
