"""4M's token budgets (arXiv:2312.06647, section 2.2): a group's totals, split by modality.

Changed: no token is lost. What does not fit into a modality goes to others, so every sample of a
group has exactly the drawn totals, and limits by modality hold without redraws.

Arrays are NumPy's, because its calls on a few numbers take a quarter of torch's time.

Shapes: B samples, C modalities.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.plan import Plan, TooFewTokens, chance, uniform
from nano4m.tokens.batch import TokenSequence


class Limits(NamedTuple):
    """Minimum and maximum of input and target tokens of each modality, int64 (B, C) each.

    The input maximum leaves room for the target minimum and vice versa, so both minima can always
    be met.
    """

    counts_BC: np.ndarray
    in_low_BC: np.ndarray
    in_high_BC: np.ndarray
    out_low_BC: np.ndarray
    out_high_BC: np.ndarray

    def without(self, is_out_C: np.ndarray) -> "Limits":
        """Return the limits with no tokens for some modalities."""
        return Limits(*(limit_BC * ~is_out_C for limit_BC in self))

    @property
    def free_BC(self) -> np.ndarray:
        """How many input tokens of a modality leave the maximum of its targets reachable."""
        return np.minimum(self.in_high_BC, self.counts_BC - self.out_high_BC)


@lru_cache(maxsize=32)
def _bounds(
    lengths: tuple[int, ...], pairs: tuple[tuple[int, int] | None, ...], units: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return minimum and maximum tokens by modality, in whole units, int64 (C,) each."""
    pairs_C2 = np.array([p or (0, n) for p, n in zip(pairs, lengths, strict=True)], dtype=np.int64)
    units_C = np.array(units)
    return -(-pairs_C2[:, 0] // units_C) * units_C, pairs_C2[:, 1] // units_C * units_C


def limits(
    counts_BC: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    units: tuple[int, ...] | None = None,
) -> Limits:
    """Return the limits of the configuration for these samples.

    Args:
        counts_BC: Valid tokens.
        sequence: Order of the modalities.
        config: ``input_limits`` and ``target_limits`` are used.
        units: Tokens of each modality that stay together; None: one each.
    """
    units = units or (1,) * len(sequence.modalities)
    most_BC = counts_BC.numpy() // np.array(units) * np.array(units)
    lengths = tuple(m.length for m in sequence.modalities)
    (in_low_C, in_high_C), (out_low_C, out_high_C) = (
        _bounds(lengths, tuple(by_name.get(m.name) for m in sequence.modalities), units)
        for by_name in (config.input_limits, config.target_limits)
    )
    # A clip with fewer tokens than both minima uses all it has, inputs first.
    in_low_BC = np.minimum(in_low_C, most_BC)
    out_low_BC = np.minimum(out_low_C, most_BC - in_low_BC)
    return Limits(
        most_BC,
        in_low_BC,
        np.minimum(in_high_C, most_BC - out_low_BC),
        out_low_BC,
        np.minimum(out_high_C, most_BC - in_low_BC),
    )


def next_token_only(
    found: Limits, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Limits:
    """Return limits of at most one target token of each text, for ``next_token`` of the groups.

    Texts are decoded token by token, so more targets of one are never asked for at once.
    """
    texts_C = np.array([m.is_text for m in sequence.modalities])
    if not texts_C.any() or not chance(config.next_token, generator):
        return found
    most_BC = np.where(texts_C, np.maximum(1, found.out_low_BC), found.out_high_BC)
    return found._replace(out_high_BC=np.minimum(found.out_high_BC, most_BC))


def draw_totals(
    limits: Limits, config: MaskingConfig, generator: Generator, fewest: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of inputs and targets that all samples of the group can hold, int64 (B,) each.

    Uniform between ``min_inputs`` and ``max_inputs``, then between ``min_targets`` and
    ``max_targets``; never below ``fewest``, never above what the smallest sample can hold.

    More rows than ``group_size`` are a pair of groups: if the first has the minimum plus n, the
    second has the maximum minus n, so each is uniform and their sum is constant.

    Raises:
        TooFewTokens: The smallest sample cannot hold the minima.
    """
    low_in = max(config.min_inputs, fewest[0], int(limits.in_low_BC.sum(1).max()))
    low_out = max(config.min_targets, fewest[1], int(limits.out_low_BC.sum(1).max()))
    free_B, room_B = limits.free_BC.sum(1), limits.out_high_BC.sum(1)
    most_in_B = np.minimum(limits.in_high_BC.sum(1), free_B + room_B - low_out)
    high_in = min(int(most_in_B.min()), config.max_inputs or int(most_in_B.min()))
    rows, group = len(room_B), config.group_size
    if high_in >= low_in and int(room_B.min()) >= low_out:
        total_in = uniform(low_in, high_in, generator)
        totals_in = [total_in] if rows <= group else [total_in, low_in + high_in - total_in]
        # The most targets that fit beside the input total of each half.
        highs_out = []
        for total_in in totals_in:
            most_out = int((room_B - np.maximum(total_in - free_B, 0)).min())
            highs_out.append(min(most_out, config.max_targets or most_out))
        if min(highs_out) >= low_out:
            more = uniform(low_out, highs_out[0], generator) - low_out
            totals_out = [low_out + more]
            if rows > group:
                totals_out.append(max(low_out, highs_out[1] - more))
            sizes = [rows] if rows <= group else [group, rows - group]
            return np.repeat(totals_in, sizes), np.repeat(totals_out, sizes)
    raise TooFewTokens(
        f"a clip with {limits.counts_BC.sum(1).min()} usable tokens cannot give {low_in} and "
        f"be asked for {low_out}; lower masking.min_inputs, min_targets, input_limits or "
        f"target_limits"
    )


def draw_shares(
    rows: int, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return Dirichlet shares of inputs and targets, float64 (B, C); one alpha a sample."""
    which_B = torch.randint(len(config.alphas), (rows,), generator=generator)
    alpha_B1 = torch.tensor(config.alphas, dtype=torch.float64)[which_B, None]
    shares = []
    for factors in (config.input_alphas, config.target_alphas):
        factor_C = torch.tensor([factors.get(m.name, 1.0) for m in sequence.modalities])
        # torch.distributions.Dirichlet calls this, but takes no generator.
        share_BC = torch._sample_dirichlet(alpha_B1 * factor_C.double(), generator=generator)
        shares.append(share_BC.numpy())
    return shares[0], shares[1]


def split(
    total_B: np.ndarray, share_BC: np.ndarray, room_BC: np.ndarray, generator: Generator
) -> np.ndarray:
    """Return totals split by shares and capped by the room, int64 (B, C); rows sum to the totals.

    Fractions are rounded up or down at random, so that the mean equals the share. Tokens that do
    not fit go to the modalities with room left, again by shares, until none remain.

    Raises:
        ValueError: A total is above the room of its row.
    """
    if (total_B > room_BC.sum(1)).any():
        raise ValueError("a total is above the room")
    budget_BC, missing_B = np.zeros_like(room_BC), total_B
    while missing_B.any():
        left_BC = room_BC - budget_BC
        # A tiny share for all that have room: very small alphas make some shares exactly 0.
        edges_BC = ((share_BC + 1e-12) * (left_BC > 0)).cumsum(1)
        edges_BC /= np.maximum(edges_BC[:, -1:], 1e-12)
        shift_B1 = torch.rand(len(total_B), 1, generator=generator, dtype=torch.float64).numpy()
        part_BC = np.floor(edges_BC * missing_B[:, None] + shift_B1).astype(np.int64)
        part_BC[:, 1:] -= part_BC[:, :-1].copy()
        budget_BC += np.minimum(part_BC, left_BC)
        missing_B = total_B - budget_BC.sum(1)
    return budget_BC


def allocate(
    totals: tuple[np.ndarray, np.ndarray],
    shares: tuple[np.ndarray, np.ndarray],
    limits: Limits,
    generator: Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return totals of inputs and targets, int64 (B,) each, split within limits, int64 (B, C) each.

    Inputs come first: minima, then the rest by shares. If limits on the targets leave too little
    room for the target total, inputs move to modalities where they take none of it.
    """
    (total_in_B, total_out_B), (share_in_BC, share_out_BC) = totals, shares
    low_BC, high_BC, out_high_BC = limits.in_low_BC, limits.in_high_BC, limits.out_high_BC
    inputs_BC = low_BC + split(total_in_B - low_BC.sum(1), share_in_BC, high_BC - low_BC, generator)
    takes_BC = np.maximum(inputs_BC - limits.free_BC, 0)
    excess_B = np.maximum(takes_BC.sum(1) + total_out_B - out_high_BC.sum(1), 0)
    if excess_B.any():
        inputs_BC = inputs_BC - split(excess_B, takes_BC, takes_BC, generator)
        room_BC = np.maximum(limits.free_BC - inputs_BC, 0)
        inputs_BC = inputs_BC + split(excess_B, share_in_BC, room_BC, generator)
    low_BC = limits.out_low_BC
    room_BC = np.minimum(out_high_BC, limits.counts_BC - inputs_BC) - low_BC
    targets_BC = low_BC + split(total_out_B - low_BC.sum(1), share_out_BC, room_BC, generator)
    return inputs_BC, targets_BC


def dirichlet(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return 4M's budgets: totals of the group, split per sample by two Dirichlet draws.

    Args:
        counts_BC: Valid tokens; rows may differ.
        sequence: Order of the slots.
        config: ``alphas`` to ``target_limits`` and ``next_token`` are used.
        generator: Source of all random numbers.

    Raises:
        TooFewTokens: The smallest sample cannot hold the minima.
    """
    found = next_token_only(limits(counts_BC, sequence, config), sequence, config, generator)
    totals = draw_totals(found, config, generator)
    shares = draw_shares(len(counts_BC), sequence, config, generator)
    budgets = allocate(totals, shares, found, generator)
    inputs_BC, targets_BC = (torch.from_numpy(budget_BC) for budget_BC in budgets)
    return Plan(inputs_BC, targets_BC)
