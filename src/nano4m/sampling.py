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


def _pick(shares_TW: Tensor, noise_T: Tensor) -> Tensor:
    """Return the id in whose part of the cumulated shares the noise in [0, 1) falls, int64 (T,).

    Noise is a multiple of 2 ** -24, so its product with the total stays below the total; and an
    edge belongs to what follows it, so that a share of 0 is not drawn by a noise of 0.
    """
    edges_TW = shares_TW.cumsum(-1)
    place_T1 = noise_T[..., None] * edges_TW[..., -1:]
    return torch.searchsorted(edges_TW, place_T1, right=True)[..., 0]


def draw(
    logits_RTW: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draw one id a slot, int64 (R, T); temperature 0 takes the likeliest.

    The nucleus is drawn from without sorting: an id is drawn from all, and lies in the nucleus if
    those that are likelier hold less than ``top_p``. Only where it does not is the nucleus made and
    drawn from, so what comes out is distributed as the nucleus is.

    Args:
        logits_RTW: Unnormalised; -inf never comes out.
        temperature: Divides the logits, before ``top_k`` and ``top_p``.
        top_k: Ids drawn from, the likeliest ones; 0: all.
        top_p: Least probability of those drawn from, in (0, 1].
        generators: One a row.
    """
    if temperature == 0:
        return logits_RTW.argmax(-1)
    scaled_RTW = truncate(logits_RTW / temperature, top_k)
    shares_RTW = scaled_RTW.softmax(-1)
    drawn_RT = _pick(shares_RTW, uniform(shares_RTW.shape[1:2], generators))
    if top_p < 1:
        own_RT1 = shares_RTW.gather(-1, drawn_RT[..., None])
        likelier_RT = torch.where(shares_RTW > own_RT1, shares_RTW, 0).sum(-1)
        outside_RT = likelier_RT >= top_p
        if bool(outside_RT.any()):
            again = [
                torch.rand(count, generator=generator)
                for count, generator in zip(outside_RT.sum(1).tolist(), generators, strict=True)
            ]
            nucleus = truncate(scaled_RTW[outside_RT], 0, top_p).softmax(-1)
            drawn_RT[outside_RT] = _pick(nucleus, torch.cat(again))
    return drawn_RT


def confidence(logits_RTW: Tensor, drawn_RT: Tensor) -> Tensor:
    """Return the log-probability of what was drawn, untempered and untruncated, float32 (R, T)."""
    return logits_RTW.gather(2, drawn_RT[..., None])[..., 0] - logits_RTW.logsumexp(-1)
