"""All or part of some modalities from all or part of others."""

import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.decoding_state import TargetState, draw_state, next_tokens
from nano4m.masking.plan import Plan, chance, draw_inputs, known_part, same_for_all, uniform
from nano4m.tokens.batch import TokenSequence


def any_to_any(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Draw source and target modalities, once for the group.

    A target is in a state of decoding (``decoding_state``) in which nothing of it is known, or a
    part, drawn by the cosine schedule of MaskGIT. Of a text only the next token is asked for, as in
    generation, once beside the other targets and then alone after other prefixes
    (``MaskingConfig.prefixes``), or all remaining ones (``next_token``).

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``num_inputs_weights`` to ``prefixes`` are used.
        generator: Source of all random numbers.
    """
    counts = counts_BC[0].tolist()
    sources, rest = draw_inputs(counts, config, generator)
    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c in sources:
        whole = chance(config.whole_input, generator)
        inputs[c] = counts[c] if whole else uniform(1, counts[c], generator)
    given = list(inputs)
    target_indices = [c for c in rest if chance(config.target_share, generator)] or rest[:1]
    all_whole = chance(config.all_targets_whole, generator)
    more: tuple[Plan, ...] = ()
    priority_L = torch.zeros(sequence.length, dtype=torch.int64)
    for c in target_indices:
        whole = all_whole or chance(config.whole_target, generator)
        if not sequence.modalities[c].is_text:
            found = draw_state(counts[c], c, sequence, config, generator, whole)
        elif chance(config.next_token, generator):
            first, *rows = next_tokens(given, c, counts[c], len(counts_BC), config, generator)
            found, more = TargetState(int(first.inputs_BC[0, c]), 1, None), (*more, *rows)
        else:
            known = 0 if whole else known_part(counts[c], generator)
            found = TargetState(known, counts[c] - known, None)
        inputs[c], targets[c] = found.inputs, found.targets
        if found.priority_T is not None:
            priority_L[sequence.slices[c]] = found.priority_T
    priority_BL = priority_L.expand(len(counts_BC), -1) if bool(priority_L.any()) else None
    return same_for_all(inputs, targets, len(counts_BC), priority_BL)._replace(more=more)
