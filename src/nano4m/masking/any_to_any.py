"""All or part of some modalities from all or part of others."""

from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.decoding_state import TargetState, draw_state, next_tokens, plan_of
from nano4m.masking.plan import Plan, chance, draw_inputs, known_part, uniform
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
    inputs = [0] * len(counts)
    for c in sources:
        whole = chance(config.whole_input, generator)
        inputs[c] = counts[c] if whole else uniform(1, counts[c], generator)
    target_indices = [c for c in rest if chance(config.target_share, generator)] or rest[:1]
    all_whole = chance(config.all_targets_whole, generator)
    more: tuple[Plan, ...] = ()
    states: dict[int, TargetState] = {}
    for c in target_indices:
        whole = all_whole or chance(config.whole_target, generator)
        if not sequence.modalities[c].is_text:
            states[c] = draw_state(counts[c], c, sequence, config, generator, whole)
        elif chance(config.next_token, generator):
            first, *rows = next_tokens(inputs, c, counts[c], len(counts_BC), config, generator)
            states[c], more = TargetState(int(first.inputs_BC[0, c]), 1, None), (*more, *rows)
        else:
            known = 0 if whole else known_part(counts[c], generator)
            states[c] = TargetState(known, counts[c] - known, None)
    targets = [0] * len(counts)
    return plan_of(inputs, targets, len(counts_BC), states, sequence)._replace(more=more)
