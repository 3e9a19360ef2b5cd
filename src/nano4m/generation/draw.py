"""Drawing one id a slot from logits, each row with its own random numbers.

Temperature is applied first, then top-k, then top-p to the rest (nucleus sampling, Holtzman et al.
2019, arXiv:1904.09751).

On a CPU random numbers are drawn when needed (``FreshNumbers``). For another device the same CPU
generators draw them in advance, in one transfer, and nothing is read back (``PredrawnNumbers``).
Both sample the same distribution, each row independently. With ``top_p`` 1 the numbers are equal
too, so ids differ only through rounding of the logits. With a nucleus, a CPU draws a second number
only for slots whose first id is outside it, the other way one for every slot, so the same seed
gives other ids.

Shapes: R rows, T slots, W ids that a slot may have.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


def uniform(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Return random numbers in (0, 1), float32 (R, *shape), each row from its own generator."""
    rows = [torch.rand(*shape, generator=generator) for generator in generators]
    return torch.stack(rows).clamp_min(1e-20)


def gumbel(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard Gumbel noise, float32 (R, *shape), each row from its own generator."""
    return -(-uniform(shape, generators).log()).log()


def truncate(scaled_RTW: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Return logits with -inf outside the top-k and, in it, outside the smallest set of top-p.

    Args:
        scaled_RTW: Logits over their temperature.
        top_k: Ids kept; 0: all.
        top_p: Least probability of the ids kept, in (0, 1]. The most likely one is always kept.
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
    """Return the id whose part of the cumulated shares holds the noise in [0, 1), int64 (T,).

    Noise is a multiple of 2 ** -24, so its product with the total stays below the total. An edge
    belongs to the id after it, so noise 0 never draws an id with share 0.
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
    """Return one drawn id a slot, int64 (R, T); temperature 0 takes the most likely.

    The nucleus is sampled without sorting: an id is drawn from all, and accepted if the more likely
    ids hold less than ``top_p``. Otherwise the slot is drawn again from its explicit nucleus, so
    the result has the distribution of the nucleus.

    Args:
        logits_RTW: Unnormalised; -inf is never drawn.
        temperature: Divides the logits, before ``top_k`` and ``top_p``.
        top_k: Number of most likely ids to draw from; 0: all.
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


def keep_top_k(scaled_RTW: Tensor, top_k: int) -> Tensor:
    """Return the top-k of ``truncate`` without a full sort; ties keep the lower ids."""
    if not 0 < top_k < scaled_RTW.shape[-1]:
        return scaled_RTW
    least_RT1 = scaled_RTW.topk(top_k, -1).values[..., -1:]
    above_RTW, equal_RTW = scaled_RTW > least_RT1, scaled_RTW == least_RT1
    room_RT1 = top_k - above_RTW.sum(-1, keepdim=True)
    kept_RTW = above_RTW | equal_RTW & (equal_RTW.cumsum(-1, dtype=torch.int32) <= room_RT1)
    return scaled_RTW.masked_fill(~kept_RTW, -math.inf)


def _most_outside(slots: int, top_p: float) -> int:
    """Return a bound on how many of some slots draw an id outside the nucleus.

    Each does with probability at most 1 - top_p. More than ten standard deviations and twenty above
    the mean have probability below 1e-14 (Bernstein's inequality).
    """
    mean = slots * (1 - top_p)
    return min(slots, math.ceil(mean + 10 * math.sqrt(mean) + 20))


def draw_there(
    logits_RTW: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    first_RT: Tensor,
    second_RT: Tensor | None,
) -> Tensor:
    """Return what ``draw`` does, from given random numbers, without reading from the device.

    A bounded number of slots is gathered, those outside the nucleus first, and these are drawn
    again. Slots beyond the bound, see ``_most_outside``, take their most likely id.

    Args:
        logits_RTW, temperature, top_k, top_p: As for ``draw``.
        first_RT: Numbers in (0, 1); not read if the temperature is 0.
        second_RT: More of them, read if ``top_p`` is below 1.
    """
    if temperature == 0:
        return logits_RTW.argmax(-1)
    scaled_RTW = keep_top_k(logits_RTW / temperature, top_k)
    shares_RTW = scaled_RTW.softmax(-1)
    drawn_RT = _pick(shares_RTW, first_RT)
    own_RT1 = shares_RTW.gather(-1, drawn_RT[..., None])
    # Parallel cumulative sums are not monotonic: an edge may round past an id with share 0.
    wrong_RT = own_RT1[..., 0] <= 0
    if top_p >= 1 or second_RT is None:
        return torch.where(wrong_RT, shares_RTW.argmax(-1), drawn_RT)
    likelier_RT = torch.where(shares_RTW > own_RT1, shares_RTW, 0).sum(-1)
    outside_N = (likelier_RT >= top_p).flatten()
    likeliest_N, drawn_N = shares_RTW.argmax(-1).flatten(), drawn_RT.flatten()
    drawn_N = torch.where(wrong_RT.flatten() | outside_N, likeliest_N, drawn_N)
    most = _most_outside(len(outside_N), top_p)
    places = outside_N.byte().argsort(descending=True, stable=True)[:most]
    nucleus = truncate(scaled_RTW.flatten(0, 1)[places], 0, top_p).softmax(-1)
    again = _pick(nucleus, second_RT.flatten()[places])
    has_share = nucleus.gather(-1, again[..., None])[..., 0] > 0
    chosen = torch.where(outside_N[places] & has_share, again, drawn_N[places])
    return drawn_N.scatter(0, places, chosen).view_as(drawn_RT)


def numbers(slots: int, temperature: float, top_p: float) -> int:
    """Return how many random numbers ``draw_there`` uses for some slots of a row."""
    return 0 if temperature == 0 else slots * (2 if top_p < 1 else 1)


class RandomNumbers(Protocol):
    """Draws for the rows of a batch, each from its own random numbers."""

    def draw(self, logits_RTW: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Return one id a slot, int64 (R, T)."""

    def gumbel(self, slots: int) -> Tensor:
        """Return standard Gumbel noise, float32 (R, slots)."""


class FreshNumbers:
    """Random numbers of each row's generator, drawn when needed."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def draw(self, logits_RTW: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Return one id a slot, int64 (R, T)."""
        return draw(logits_RTW, temperature, top_k, top_p, self.generators)

    def gumbel(self, slots: int) -> Tensor:
        """Return standard Gumbel noise, float32 (R, slots)."""
        return gumbel((slots,), self.generators)


class PredrawnNumbers:
    """Random numbers of each row's generator, all drawn at once and sent to a device.

    Args:
        total: Numbers for each row.
        generators: One a row.
        device: Where they are used.
    """

    def __init__(
        self, total: int, generators: Sequence[torch.Generator], device: torch.device
    ) -> None:
        # Copies from pinned memory overlap with work on the device.
        shape, pinned = (len(generators), total), device.type == "cuda"
        drawn = torch.empty(shape, pin_memory=pinned)
        for row, generator in zip(drawn.unbind(), generators, strict=True):
            torch.rand(total, generator=generator, out=row)
        self._numbers = drawn.to(device, non_blocking=True).clamp_min(1e-20)
        self._used = 0

    def _take(self, count: int) -> Tensor:
        self._used += count
        return self._numbers[:, self._used - count : self._used]

    def draw(self, logits_RTW: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
        """Return one id a slot, int64 (R, T)."""
        slots = logits_RTW.shape[1]
        parts = self._take(numbers(slots, temperature, top_p)).split(slots, dim=1)
        first = parts[0] if parts else logits_RTW
        second = parts[1] if len(parts) > 1 else None
        return draw_there(logits_RTW, temperature, top_k, top_p, first, second)

    def gumbel(self, slots: int) -> Tensor:
        """Return standard Gumbel noise, float32 (R, slots)."""
        return -(-self._take(slots).log()).log()


def confidence(logits_RTW: Tensor, drawn_RT: Tensor) -> Tensor:
    """Return the log-probability of the drawn ids, untempered and untruncated, float32 (R, T)."""
    return logits_RTW.gather(2, drawn_RT[..., None])[..., 0] - logits_RTW.logsumexp(-1)
