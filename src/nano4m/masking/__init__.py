"""Masking: from token ids to dense batches of inputs and targets.

A strategy decides, for a group of samples, how many tokens of each modality are inputs and targets
of every sample, and which slots are taken first. All samples of a group have the same totals, so a
batch holds real tokens only: no padding, no attention mask. The inputs of a text are always a
prefix and its targets follow them directly, because texts are decoded from left to right.

Shapes: B samples, L all token slots of a clip, C modalities.
Sources: 4M (arXiv:2312.06647) for Dirichlet budgets; MaskGIT (arXiv:2202.04200) for the cosine
schedule. Changed: overflow is redistributed instead of lost, and the conditions that generation
and the probes use are sampled explicitly.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress

import torch
from torch import Generator, Tensor

from nano4m.config.masking import STRATEGY_NAMES, MaskingConfig
from nano4m.masking.any_to_any import any_to_any
from nano4m.masking.audio_span import reference_span, span
from nano4m.masking.continuation import infill, suffix
from nano4m.masking.dirichlet import dirichlet
from nano4m.masking.inference_aligned import inference_aligned
from nano4m.masking.plan import Plan, Strategy, TooFewTokens, join, pick_weighted, place
from nano4m.tokens.batch import MaskedBatch, TokenSequence, pack

STRATEGIES: dict[str, Strategy] = {
    "any_to_any": any_to_any,
    "dirichlet": dirichlet,
    "span": span,
    "reference_span": reference_span,
    "inference_aligned": inference_aligned,
    "suffix": suffix,
    "infill": infill,
}
SPARSE = "suffix"
"""Strategy of clips that lack modalities, where the one that was drawn needs more: it continues one
modality, or predicts it from nothing."""
# These draw budgets per sample; the others draw one set for samples with equal token counts.
OWN_BUDGETS = {"dirichlet", "span", "reference_span"}


def draw_masks(
    valid_BL: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
    progress: float = 0.0,
    strategies: Mapping[str, Strategy] = STRATEGIES,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the input and target slots of each group of samples.

    Args:
        valid_BL: bool, the real tokens.
        sequence: Order of the slots.
        config: Mixture, settings and ``group_size``.
        generator: Source of all random numbers.
        progress: Fraction of training done, in [0, 1]; strategy weights may depend on it.
        strategies: By name, in the order of ``MaskingConfig.weights``.

    Yields:
        Row numbers int64 (b,), inputs and targets bool (b, L). Every row occurs once, and once more
        for each further prefix of its caption (``Plan.more``).
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress {progress} is not in [0, 1]")
    weights = config.weights(progress)
    counts_BC = sequence.count(valid_BL)
    parts, plans = [], []
    groups = list(torch.arange(len(valid_BL)).split(config.group_size))
    name, paired = "", False
    for number, rows in enumerate(groups):
        if paired:  # the previous group's plan covers this one too
            paired = False
            continue
        name = STRATEGY_NAMES[pick_weighted(weights, generator)]
        if config.paired_totals and name in OWN_BUDGETS and number + 1 < len(groups):
            both = torch.cat([rows, groups[number + 1]])
            with suppress(TooFewTokens):  # of one of them: each is drawn alone
                plans.append(strategies[name](counts_BC[both], sequence, config, generator))
                parts += [rows, groups[number + 1]]
                paired = True
                continue
        counts_bC = counts_BC[rows]
        own = [rows]
        if name not in OWN_BUDGETS and bool((counts_bC != counts_bC[0]).any()):
            _, kind = torch.unique(counts_bC, dim=0, return_inverse=True)
            own = [rows[kind == k] for k in range(int(kind.max()) + 1)]
        for part in own:
            for piece, plan in _plans(
                name, part, counts_BC, sequence, config, generator, strategies
            ):
                parts += [piece] * (1 + len(plan.more))
                plans += [plan, *plan.more]
    order = torch.cat(parts)
    inputs_BL, targets_BL = place(join(plans), valid_BL[order], sequence, generator)
    sizes = [len(part) for part in parts]
    yield from zip(parts, inputs_BL.split(sizes), targets_BL.split(sizes), strict=True)


def _plans(
    name: str,
    rows: Tensor,
    counts_BC: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
    strategies: Mapping[str, Strategy],
) -> list[tuple[Tensor, Plan]]:
    """Return the plan of some samples; SPARSE where clips that lack modalities cannot have it."""
    counts_bC = counts_BC[rows]
    try:
        return [(rows, strategies[name](counts_bC, sequence, config, generator))]
    except TooFewTokens:
        if bool((counts_bC > 0).all()):
            raise
    _, kind = torch.unique(counts_bC, dim=0, return_inverse=True)
    alike = [rows[kind == k] for k in range(int(kind.max()) + 1)]
    return [(own, strategies[SPARSE](counts_BC[own], sequence, config, generator)) for own in alike]


def mask(
    ids_BL: Tensor,
    valid_BL: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
    progress: float = 0.0,
) -> list[MaskedBatch]:
    """Return dense batches of groups of ``config.group_size`` samples, each masked by its own draw.

    Args:
        ids_BL: int64 ids of all modalities side by side, see ``TokenTable.gather``.
        valid_BL: bool, the real tokens.
        sequence: Order of the slots.
        config: Mixture, settings and ``group_size``.
        generator: Source of all random numbers.
        progress: Fraction of training done, in [0, 1]; strategy weights may depend on it.

    Returns:
        Batches that together hold every sample once, and once more for each further prefix of its
        caption.

    Raises:
        UserError: A clip has fewer tokens than the configuration requires; ``check_masking`` finds
            what can be found before training.
    """
    drawn = draw_masks(valid_BL, sequence, config, generator, progress)
    return [pack(ids_BL[rows], inputs, targets, sequence) for rows, inputs, targets in drawn]
