"""Continuation and infilling: a part of one modality is input, the rest of it target."""

from collections.abc import Sequence

from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.decoding_state import draw_state, plan_of
from nano4m.masking.plan import Plan, chance, known_part, same_for_all, uniform
from nano4m.tokens.batch import TokenSequence


def _pick(choices: Sequence[int], generator: Generator) -> int:
    return choices[uniform(0, len(choices) - 1, generator)]


def _plan(
    target: int,
    outside: int,
    is_target_L: Tensor,
    counts_BC: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
) -> Plan:
    """Return a plan with ``outside`` input tokens of the target, its others in a decoding state.

    Other modalities are inputs whole or not at all. As in ``any_to_any``, a part of the targets
    becomes input in some draws.
    """
    counts = counts_BC[0].tolist()
    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c, count in enumerate(counts):
        if c != target and chance(config.other_input_prob, generator):
            inputs[c] = count
    whole = chance(config.all_targets_whole, generator) or chance(config.whole_target, generator)
    if sequence.modalities[target].is_text:
        if chance(config.next_token, generator):
            inputs[target] = uniform(outside, counts[target] - 1, generator)
            targets[target] = 1
        else:
            left = counts[target] - outside
            known = 0 if whole else known_part(left, generator)
            inputs[target], targets[target] = outside + known, left - known
        return same_for_all(inputs, targets, len(counts_BC))
    part = (outside, is_target_L[sequence.slices[target]])
    state = draw_state(counts[target], target, sequence, config, generator, whole, part)
    return plan_of(inputs, targets, len(counts_BC), {target: state}, sequence)


def suffix(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return a plan whose input is the first part of one modality, and whose targets follow it.

    One draw for the group; the part (rows, whole frames, a text prefix) is uniform in length. Of a
    text the next token alone is the target, or all remaining ones (``next_token``). If no modality
    has two units, all tokens of one modality are targets.

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``other_input_prob``, ``all_targets_whole``, ``whole_target`` and ``next_token``.
        generator: Source of all random numbers.
    """
    counts = counts_BC[0].tolist()
    units = [n // size for n, (_, size) in zip(counts, sequence.units, strict=True)]
    longer = [c for c, n in enumerate(units) if n > 1]
    target = _pick(longer or [c for c, n in enumerate(counts) if n], generator)
    first = uniform(1, units[target] - 1, generator) if longer else 0
    is_target_L = sequence.coords_L2[:, 0] >= first
    outside = first * sequence.units[target][1]
    return _plan(target, outside, is_target_L, counts_BC, sequence, config, generator)


def infill(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return a plan whose targets are a gap of whole rows or frames, with inputs on both sides.

    One draw for the group: the gap is uniform in length, then in position. Texts are never
    infilled. If no modality of a clip has three units, ``suffix`` is used.

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``other_input_prob``, ``all_targets_whole`` and ``whole_target`` are used.
        generator: Source of all random numbers.
    """
    counts = counts_BC[0].tolist()
    units = [
        0 if m.is_text else n // size
        for m, n, (_, size) in zip(sequence.modalities, counts, sequence.units, strict=True)
    ]
    longer = [c for c, n in enumerate(units) if n > 2]
    if not longer:
        return suffix(counts_BC, sequence, config, generator)
    target = _pick(longer, generator)
    gap = uniform(1, units[target] - 2, generator)
    start = uniform(1, units[target] - 1 - gap, generator)
    unit_L = sequence.coords_L2[:, 0]
    is_target_L = (unit_L >= start) & (unit_L < start + gap)
    outside = counts[target] - gap * sequence.units[target][1]
    return _plan(target, outside, is_target_L, counts_BC, sequence, config, generator)
