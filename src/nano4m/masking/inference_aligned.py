"""Masks with the distribution of the sampler's own steps."""

from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking.decoding_state import draw_step, next_tokens, plan_of
from nano4m.masking.plan import Plan, draw_inputs
from nano4m.tokens.batch import TokenSequence


def inference_aligned(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Plan:
    """Return the masks of a random decoding step: whole sources, one target partly known.

    One draw for the group: n steps, uniform in ``decode_steps`` and at most the tokens of the
    target, of which i in [0, n) are done; each codebook of a sound has n steps. The cosine schedule
    gives the number of known tokens, an order drawn from ``decode_orders`` chooses them; the
    unknown ones of the level are the targets. Of a text the target is the next token, after several
    prefixes.

    Args:
        counts_BC: Valid tokens; equal rows, see ``draw_masks``.
        sequence: Order of the slots.
        config: ``num_inputs_weights``, ``decode_steps``, ``decode_orders``, ``codebooks`` and
            ``prefixes`` are used.
        generator: Source of all random numbers.
    """
    counts, rows = counts_BC[0].tolist(), len(counts_BC)
    sources, rest = draw_inputs(counts, config, generator)
    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c in sources:
        inputs[c] = counts[c]
    target = rest[0]
    if sequence.modalities[target].is_text:
        first, *more = next_tokens(inputs, target, counts[target], rows, config, generator)
        return first._replace(more=tuple(more))
    state = draw_step(counts[target], target, sequence, config, generator)
    return plan_of(inputs, targets, rows, {target: state}, sequence)
