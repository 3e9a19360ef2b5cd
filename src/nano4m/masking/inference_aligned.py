"""Masks with the distribution of the sampler's own steps."""

import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig, Order
from nano4m.generation.decoding_order import halton_ranks
from nano4m.generation.token_schedules import token_counts
from nano4m.masking.plan import Plan, draw_inputs, same_for_all, uniform
from nano4m.tokens.batch import TokenSequence


def inference_aligned(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return the masks of a random decoding step: whole sources, one target partly known.

    One draw for the group: n steps, uniform in ``decode_steps`` and at most the tokens of the
    target, of which i in [0, n) are done. The cosine schedule gives the number of known tokens, an
    order drawn from ``decode_orders`` chooses them; the unknown ones are the targets. Of a text the
    target is the next token.

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``num_inputs_weights``, ``decode_steps`` and ``decode_orders`` are used.
        generator: Source of all random numbers.
    """
    counts = counts_BC[0].tolist()
    sources, rest = draw_inputs(counts, config, generator)
    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c in sources:
        inputs[c] = counts[c]
    target = rest[0]
    if sequence.modalities[target].is_text:
        inputs[target], targets[target] = uniform(0, counts[target] - 1, generator), 1
        return same_for_all(inputs, targets, len(counts_BC))
    steps = min(uniform(*config.decode_steps, generator), counts[target])
    filled = token_counts(counts[target], steps, "cosine")
    unknown = sum(filled[uniform(0, steps - 1, generator) :])
    inputs[target], targets[target] = counts[target] - unknown, unknown
    order = config.decode_orders[uniform(0, len(config.decode_orders) - 1, generator)]
    priority_BL = _priority(order, target, len(counts_BC), sequence)
    return same_for_all(inputs, targets, len(counts_BC), priority_BL)


def _priority(order: Order, target: int, rows: int, sequence: TokenSequence) -> Tensor | None:
    """Return the decoding rank of each slot of the target, int64 (B, L); None: random.

    ``coarse`` decodes the first codebook of all frames, then the second; a grid has one codebook.
    ``spread`` follows the Halton order: over rows and columns of a grid, over frames of a sound.
    """
    has_codebooks = sequence.modalities[target].layout == "codebooks"
    if order == "random" or (order == "coarse" and not has_codebooks):
        return None
    unit_L, inner_L = sequence.coords_L2.T
    span, (height, width) = sequence.slices[target], sequence.units[target]
    priority_BL = torch.zeros(rows, sequence.length, dtype=torch.int64)
    if order == "coarse":
        priority_BL[:, span] = inner_L[span]
        return priority_BL
    columns = 1 if has_codebooks else width
    ranks = torch.tensor(halton_ranks(height, columns))
    column_T = 0 if has_codebooks else inner_L[span]
    priority_BL[:, span] = ranks[unit_L[span] * columns + column_T]
    if has_codebooks:
        priority_BL[:, span] = priority_BL[:, span] * width + inner_L[span]
    return priority_BL
