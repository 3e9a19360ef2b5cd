"""All or part of some modalities from all or part of others."""

from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.plan import Plan, chance, draw_inputs, known_part, same_for_all, uniform
from nano4m.tokens.batch import TokenSequence


def any_to_any(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Draw source and target modalities, once for the group.

    A target is predicted whole, or a part of it, drawn by the cosine schedule of MaskGIT, is input
    already, as in the middle of generation. Of a text either all remaining tokens or only the
    next one are targets, as in generation.

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``num_inputs_weights`` to ``next_token`` are used.
        generator: Source of all random numbers.
    """
    counts = counts_BC[0].tolist()
    sources, rest = draw_inputs(counts, config, generator)
    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c in sources:
        whole = chance(config.whole_input, generator)
        inputs[c] = counts[c] if whole else uniform(1, counts[c], generator)
    target_indices = [c for c in rest if chance(config.target_share, generator)] or rest[:1]
    all_whole = chance(config.all_targets_whole, generator)
    for c in target_indices:
        whole = all_whole or chance(config.whole_target, generator)
        known = 0 if whole else known_part(counts[c], generator)
        inputs[c], targets[c] = known, counts[c] - known
        if sequence.modalities[c].is_text and chance(config.next_token, generator):
            inputs[c], targets[c] = uniform(0, counts[c] - 1, generator), 1
    return same_for_all(inputs, targets, len(counts_BC))
