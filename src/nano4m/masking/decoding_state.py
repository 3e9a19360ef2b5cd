"""States of decoding one modality: which of its tokens are known, and which are predicted next.

A grid, or a sound of one codebook, is decoded in steps, and before each step some of its tokens are
known. A sound of Q residual codebooks is decoded level by level (``generate.codebooks levels``):
before a step of level q all tokens of the earlier levels are known, some of level q, and none of
the later levels; only tokens of level q are predicted. A text is decoded token by token.

Shapes: T slots of one modality, U tokens of one level.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig, Order
from nano4m.generation.decoding_order import halton_ranks
from nano4m.generation.token_schedules import token_counts
from nano4m.masking.plan import Plan, chance, known_part, same_for_all, uniform
from nano4m.tokens.batch import TokenSequence


class TargetState(NamedTuple):
    """How many tokens of the target modality are inputs and targets, and which come first.

    ``priority_T`` is int64 as in ``Plan``, or None.
    """

    inputs: int
    targets: int
    priority_T: Tensor | None


def num_levels(sequence: TokenSequence, target: int, config: MaskingConfig) -> int:
    """Return the number of levels that are decoded one after the other."""
    is_coded = sequence.modalities[target].layout == "codebooks"
    return sequence.units[target][1] if is_coded and config.codebooks != "together" else 1


def _state(
    level: int,
    known: int,
    levels: int,
    counts: tuple[int, int],
    target: int,
    sequence: TokenSequence,
    order: Order,
    is_target_T: Tensor | None,
    together: bool = False,
) -> TargetState:
    """Return the state with ``known`` tokens of ``level``.

    Args:
        level, known, levels: As in the module's docstring.
        counts: Tokens outside the part that is decoded, and tokens of a level in it.
        target, sequence: The modality.
        order: Which tokens of a level are known first.
        is_target_T: bool, the part that is decoded; None: all.
        together: All levels are targets at once.
    """
    outside, size = counts
    inputs = outside + level * size + known
    targets = size * levels if together else size - known
    ranks_T = _ranks(order, target, sequence)
    if levels == 1 and is_target_T is None and ranks_T is None:
        return TargetState(inputs, targets, None)
    priority_T = torch.zeros(sequence.modalities[target].length, dtype=torch.int64)
    places = 1
    if ranks_T is not None:
        priority_T, places = ranks_T, int(ranks_T.max()) + 1
    if levels > 1:
        inner_T = sequence.coords_L2[sequence.slices[target], 1]
        priority_T = inner_T * places + priority_T
    if is_target_T is not None:
        priority_T = torch.where(is_target_T, priority_T + 1, 0)
    return TargetState(inputs, targets, priority_T)


def _ranks(order: Order, target: int, sequence: TokenSequence) -> Tensor | None:
    """Return the place of each slot in a fixed order inside a level, int64 (T,); None: random."""
    if order == "random":
        return None
    is_coded = sequence.modalities[target].layout == "codebooks"
    height, width = sequence.units[target]
    unit_T, inner_T = sequence.coords_L2[sequence.slices[target]].T
    if is_coded:
        ranks = torch.tensor(halton_ranks(height, 1)) if order == "spread" else torch.arange(height)
        return ranks[unit_T]
    if order == "raster":
        return unit_T * width + inner_T
    return torch.tensor(halton_ranks(height, width))[unit_T * width + inner_T]


def draw_state(
    count: int,
    target: int,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
    whole: bool,
    part: tuple[int, Tensor] | None = None,
) -> TargetState:
    """Return a random state of decoding a modality that is no text.

    Args:
        count: Its valid tokens.
        target, sequence: The modality.
        config: ``codebooks``, ``levels_together`` and ``decode_orders`` are used.
        generator: Source of all random numbers.
        whole: Whether nothing of the level is known; else a part, by MaskGIT's schedule.
        part: Tokens outside the part that is decoded, and bool (T,) of the slots in it.
    """
    outside, is_target_T = part if part else (0, None)
    levels = num_levels(sequence, target, config)
    size = (count - outside) // levels
    together = levels > 1 and chance(config.levels_together, generator)
    level = 0 if together else uniform(0, levels - 1, generator)
    known = 0 if whole or together else known_part(size, generator)
    order = config.orders[uniform(0, len(config.orders) - 1, generator)]
    counts = (outside, size)
    return _state(level, known, levels, counts, target, sequence, order, is_target_T, together)


def draw_step(
    count: int, target: int, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> TargetState:
    """Return the state before a random step of the sampler, for a modality that is no text.

    Args:
        count: Its valid tokens, all decoded.
        target, sequence: The modality.
        config: ``decode_steps``, ``codebooks`` and ``decode_orders`` are used.
        generator: Source of all random numbers.
    """
    levels = num_levels(sequence, target, config)
    size = count // levels
    level = uniform(0, levels - 1, generator)
    # Steps of each level, though a sampler shares its steps among them: with few steps for many
    # levels it would visit nothing but their beginnings, and with more of them all else.
    filled = token_counts(size, uniform(*config.decode_steps, generator), "cosine")
    known = size - sum(filled[uniform(0, len(filled) - 1, generator) :])
    order = config.orders[uniform(0, len(config.orders) - 1, generator)]
    return _state(level, known, levels, (0, size), target, sequence, order, None)


def plan_of(
    inputs: Sequence[int],
    targets: Sequence[int],
    rows: int,
    states: Mapping[int, TargetState],
    sequence: TokenSequence,
) -> Plan:
    """Return the plan of ``rows`` samples whose targets are in these states.

    Args:
        inputs, targets: Tokens of each modality; those in ``states`` are replaced by their own.
        rows: Samples.
        states: By index of the modality.
        sequence: Order of the slots.
    """
    inputs, targets = list(inputs), list(targets)
    priority_L = None
    for c, state in states.items():
        inputs[c], targets[c] = state.inputs, state.targets
        if state.priority_T is not None:
            if priority_L is None:
                priority_L = torch.zeros(sequence.length, dtype=torch.int64)
            priority_L[sequence.slices[c]] = state.priority_T
    priority_BL = None if priority_L is None else priority_L.expand(rows, -1)
    return same_for_all(inputs, targets, rows, priority_BL)


def next_tokens(
    sources: Sequence[int],
    target: int,
    count: int,
    rows: int,
    config: MaskingConfig,
    generator: Generator,
) -> tuple[Plan, ...]:
    """Return plans that ask for the next token of a text alone, each after another prefix.

    Args:
        sources: Input tokens of each modality; those of the text do not matter.
        target: Index of the text.
        count: Its tokens.
        rows: Samples.
        config: ``prefixes`` is used.
        generator: Source of all random numbers.
    """
    number = min(count, config.prefixes_of(count))
    plans = []
    for prefix in torch.randperm(count, generator=generator)[:number].tolist():
        inputs, targets = list(sources), [0] * len(sources)
        inputs[target], targets[target] = prefix, 1
        plans.append(same_for_all(inputs, targets, rows))
    return tuple(plans)
