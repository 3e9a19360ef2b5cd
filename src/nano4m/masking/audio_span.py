"""Budgets as in ``dirichlet``, but inputs and targets of sounds are runs of whole frames.

"Sound" means any modality of layout "codebooks"; a frame has one token of each codebook.

Shapes: B samples, L slots, C modalities, F frames of a sound, R runs.
"""

import numpy as np
import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.dirichlet import (
    Limits,
    allocate,
    draw_shares,
    draw_totals,
    limits,
    next_token_only,
)
from nano4m.masking.plan import Plan
from nano4m.tokens.batch import TokenSequence


def _frame_sizes(sequence: TokenSequence) -> tuple[int, ...]:
    """Return the tokens of a frame for sounds, 1 for others."""
    pairs = zip(sequence.modalities, sequence.units, strict=True)
    return tuple(size if m.layout == "codebooks" else 1 for m, (_, size) in pairs)


def _is_sound(sequence: TokenSequence) -> np.ndarray:
    return np.array([m.layout == "codebooks" for m in sequence.modalities])


def reference_span(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return a plan with one input run of frames, anywhere, directly followed by the target run.

    The reference's rule: Dirichlet budgets over all modalities; a sound's budgets are rounded down
    to whole frames; a sound with neither inputs nor targets gets one input frame; a sound with only
    targets, two frames or more, has the first of them as input instead. So a sound's targets are
    preceded by inputs, and none of its other frames are used.

    Changed, because all samples of a group have the same totals without padding: where the
    reference loses tokens (rounding, overflow) or adds some (the forced frame), other modalities
    compensate, so the drawn totals hold; totals are at most what the other modalities can hold
    together, and at least one frame of inputs.

    Args:
        counts_BC: Valid tokens; rows may differ. The valid frames of a sound are its first ones.
        sequence: Order of the slots.
        config: ``alphas`` to ``target_limits`` are used.
        generator: Source of all random numbers.

    Raises:
        TooFewTokens: The smallest sample cannot hold the minima.
    """
    found = limits(counts_BC, sequence, config, _frame_sizes(sequence))
    inputs_BC, targets_BC = _budgets(found, sequence, config, generator, forced_prefix=True)
    priority_BL = torch.zeros(len(counts_BC), sequence.length, dtype=torch.int64)
    for c, (frames, size) in enumerate(sequence.units):
        if sequence.modalities[c].layout != "codebooks":
            continue
        used_B = (inputs_BC[:, c] + targets_BC[:, c]) // size
        places_B = counts_BC[:, c] // size - used_B + 1
        random_B = torch.rand(len(counts_BC), generator=generator, dtype=torch.float64)
        start_B1 = (random_B * places_B).long()[:, None]
        frame_F = torch.arange(frames)
        order_BF = torch.where(frame_F < start_B1, frames, frame_F - start_B1)
        priority_BL[:, sequence.slices[c]] = order_BF.repeat_interleave(size, 1)
    return Plan(inputs_BC, targets_BC, priority_BL)


def span(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return a plan with several input and target runs of frames in any order, with gaps.

    Targets are before, between or after inputs; ``no_audio_input_prob`` is the share of samples
    whose sounds have no inputs. Budgets are whole frames; other modalities take the remainders, and
    totals are at most what those can hold together, so that the totals are exact.

    Args:
        counts_BC: Valid tokens; rows may differ. The valid frames of a sound are its first ones.
        sequence: Order of the slots.
        config: ``alphas`` to ``no_audio_input_prob`` are used.
        generator: Source of all random numbers.

    Raises:
        TooFewTokens: The smallest sample cannot hold the minima.
    """
    found = limits(counts_BC, sequence, config, _frame_sizes(sequence))
    found = next_token_only(found, sequence, config, generator)
    is_silent_B = (
        torch.rand(len(counts_BC), generator=generator) < config.no_audio_input_prob
    ).numpy()
    is_heard_BC = ~(is_silent_B[:, None] & _is_sound(sequence))
    found = found._replace(
        in_low_BC=found.in_low_BC * is_heard_BC, in_high_BC=found.in_high_BC * is_heard_BC
    )
    inputs_BC, targets_BC = _budgets(found, sequence, config, generator, forced_prefix=False)
    priority_BL = torch.zeros(len(counts_BC), sequence.length, dtype=torch.int64)
    for c, (frames, size) in enumerate(sequence.units):
        if sequence.modalities[c].layout == "codebooks":
            input_frames_B, target_frames_B, frames_B = (
                n_BC[:, c] // size for n_BC in (inputs_BC, targets_BC, counts_BC)
            )
            kind_BF = _scatter(
                input_frames_B, target_frames_B, frames_B, frames, config.max_spans, generator
            )
            priority_BL[:, sequence.slices[c]] = kind_BF.repeat_interleave(size, 1)
    return Plan(inputs_BC, targets_BC, priority_BL)


def _budgets(
    found: Limits,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
    forced_prefix: bool,
) -> tuple[Tensor, Tensor]:
    """Return budgets of inputs and targets, sounds in whole frames, int64 (B, C) each.

    Args:
        found: Limits in whole frames.
        sequence: Order of the slots.
        config: ``alphas`` to ``max_targets`` are used.
        generator: Source of all random numbers.
        forced_prefix: Force an input frame before a sound's targets, see ``reference_span``.
    """
    is_sound_C = _is_sound(sequence)
    size_C = np.array(_frame_sizes(sequence))
    others = found.without(is_sound_C)
    low_in_B, low_out_B = found.in_low_BC.sum(1), found.out_low_BC.sum(1)
    forced = int(size_C[is_sound_C].sum()) if forced_prefix else 0
    fewest = (int(low_in_B.max()) + forced, int(low_out_B.max()))
    total_in_B, total_out_B = draw_totals(others, config, generator, fewest)
    shares = draw_shares(len(low_in_B), sequence, config, generator)

    def whole_frames(
        share_BC: np.ndarray, low_BC: np.ndarray, rest_B: np.ndarray, high_BC: np.ndarray
    ) -> np.ndarray:
        part_BC = (share_BC * rest_B[:, None]).astype(np.int64) // size_C * size_C
        return np.minimum(low_BC + part_BC, high_BC) * is_sound_C

    inputs_BC = whole_frames(shares[0], found.in_low_BC, total_in_B - low_in_B, found.in_high_BC)
    room_BC = np.minimum(found.out_high_BC, found.counts_BC - inputs_BC)
    targets_BC = whole_frames(shares[1], found.out_low_BC, total_out_B - low_out_B, room_BC)
    if forced_prefix:
        for c in np.flatnonzero(is_sound_C):
            size = size_C[c]
            spare_B = total_in_B - inputs_BC.sum(1) - others.in_low_BC.sum(1)
            no_input_B = (inputs_BC[:, c] == 0) & (found.in_high_BC[:, c] >= size)
            no_input_B &= spare_B >= size
            no_input_or_target_B = no_input_B & (targets_BC[:, c] == 0)
            only_target_B = no_input_B & (targets_BC[:, c] - size >= found.out_low_BC[:, c])
            only_target_B &= targets_BC[:, c] >= 2 * size
            inputs_BC[:, c] += size * (no_input_or_target_B | only_target_B)
            targets_BC[:, c] -= size * only_target_B
    totals = (total_in_B - inputs_BC.sum(1), total_out_B - targets_BC.sum(1))
    more_in_BC, more_out_BC = allocate(totals, shares, others, generator)
    return torch.from_numpy(inputs_BC + more_in_BC), torch.from_numpy(targets_BC + more_out_BC)


def _lengths(total_B: Tensor, runs: int, generator: Generator) -> Tensor:
    """Return totals cut into 1 to ``runs`` runs at uniform places, int64 (B, R); some may be 0."""
    rows = len(total_B)
    number_B1 = torch.randint(1, runs + 1, (rows, 1), generator=generator)
    random_BR = torch.rand(rows, runs - 1, generator=generator, dtype=torch.float64)
    cuts_BR = (random_BR * (total_B[:, None] + 1)).long()
    cuts_BR = torch.where(torch.arange(1, runs) < number_B1, cuts_BR, total_B[:, None])
    edges_BR = torch.cat([cuts_BR.sort(1).values, total_B[:, None]], 1)
    return edges_BR.diff(dim=1, prepend=torch.zeros_like(edges_BR[:, :1]))


def _scatter(
    input_frames_B: Tensor,
    target_frames_B: Tensor,
    frames_B: Tensor,
    frames: int,
    max_spans: int,
    generator: Generator,
) -> Tensor:
    """Return runs in random order: 0 for input frames, 1 targets, 2 neither, int64 (B, F).

    Args:
        input_frames_B, target_frames_B: Input and target frames.
        frames_B: Valid frames.
        frames: F.
        max_spans: Maximum runs of each kind; there is one gap more than both together.
        generator: Source of all random numbers.
    """
    kinds = []
    gaps = 2 * max_spans + 1
    sizes = (max_spans, max_spans, gaps)
    for kind, (total_B, runs) in enumerate(
        zip(
            (input_frames_B, target_frames_B, frames_B - input_frames_B - target_frames_B),
            sizes,
            strict=True,
        )
    ):
        kinds.append((torch.full((runs,), kind), _lengths(total_B, runs, generator)))
    kind_R = torch.cat([kind for kind, _ in kinds])
    length_BR = torch.cat([length for _, length in kinds], 1)
    order_BR = torch.rand(length_BR.shape, generator=generator).argsort(1)
    ends_BR = length_BR.gather(1, order_BR).cumsum(1)
    frame_BF = torch.arange(frames).expand(len(input_frames_B), -1).contiguous()
    run_BF = torch.searchsorted(ends_BR, frame_BF, right=True).clamp_max(len(kind_R) - 1)
    kind_BF = kind_R[order_BR.gather(1, run_BF)]
    return kind_BF.masked_fill(frame_BF >= frames_B[:, None], 2)
