"""Masking: from token ids to dense batches of given and asked-for tokens.

A strategy decides, for a group of samples, how many tokens of each modality every sample is given
and is asked for. All samples of a group have the same totals, so a batch holds real tokens only: no
padding, no attention mask. Within a modality the tokens are drawn at random; a text is given from
its start and asked for from where that ends, because it is read from left to right.

Shapes: B samples, L all token slots of a clip, C modalities, N inputs, M targets.
Source: 4M (arXiv:2312.06647) for budgets from a Dirichlet; MaskGIT (arXiv:2202.04200) for the
cosine law. Changed: overflow is handed on and never lost, and "all of X from all of Y" is drawn on
purpose.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nano4m.batch import MaskedBatch, TokenSequence, pack
from nano4m.config import MaskingConfig


class Budgets(NamedTuple):
    """Tokens given and asked for, int64 (B, C) each; the rows of each sum to one total."""

    inputs_BC: Tensor
    targets_BC: Tensor


Strategy = Callable[[Tensor, TokenSequence, MaskingConfig, Generator], Budgets]


def _uniform(low: int, high: int, generator: Generator) -> int:
    """Draw an integer in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _chance(probability: float, generator: Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


# How often any_to_any draws each number of sources; the share of one source is what single-source
# generation and the probes live on, the share of none is what generation from nothing lives on.
SOURCES_WEIGHTS = {0: 0.08, 1: 0.52, 2: 0.25, 3: 0.15}
WHOLE_SOURCE = 0.85
TARGET_SHARE = 0.7
ALL_TARGETS_WHOLE = 0.35
WHOLE_TARGET = 0.3
NEXT_TOKEN_ONLY = 0.5


def any_to_any(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Budgets:
    """Draw sources and targets: all or part of some modalities from all or part of others.

    One draw for the group. A target is asked for whole, or a part of it, given by the cosine law of
    MaskGIT, is known already as it is in the middle of generation. A text is asked for to its end,
    or only its next token, which is how it is written.

    Args:
        counts_BC: Valid tokens; equal rows, see ``mask``.
    """
    counts = counts_BC[0].tolist()
    present = [c for c, n in enumerate(counts) if n]
    choices = [k for k in SOURCES_WEIGHTS if k < len(present)]
    weights = torch.tensor([SOURCES_WEIGHTS[k] for k in choices])
    num_sources = choices[int(torch.multinomial(weights, 1, generator=generator))]
    order = [present[i] for i in torch.randperm(len(present), generator=generator).tolist()]
    sources, rest = order[:num_sources], order[num_sources:]

    inputs, targets = [0] * len(counts), [0] * len(counts)
    for c in sources:
        whole = _chance(WHOLE_SOURCE, generator)
        inputs[c] = counts[c] if whole else _uniform(1, counts[c], generator)
    asked = [c for c in rest if _chance(TARGET_SHARE, generator)] or rest[:1]
    all_whole = _chance(ALL_TARGETS_WHOLE, generator)
    for c in asked:
        if all_whole or _chance(WHOLE_TARGET, generator):
            known = 0
        else:
            unknown = math.cos(math.pi / 2 * float(torch.rand((), generator=generator)))
            known = min(counts[c] - 1, counts[c] - math.ceil(unknown * counts[c]))
        inputs[c], targets[c] = known, counts[c] - known
        if sequence.modalities[c].is_text and _chance(NEXT_TOKEN_ONLY, generator):
            inputs[c], targets[c] = _uniform(0, counts[c] - 1, generator), 1
    rows = (len(counts_BC), 1)
    return Budgets(torch.tensor([inputs]).repeat(rows), torch.tensor([targets]).repeat(rows))


def dirichlet(
    counts_BC: Tensor, sequence: TokenSequence, config: MaskingConfig, generator: Generator
) -> Budgets:
    """Draw 4M's budgets: totals once for the group, split per sample by a Dirichlet.

    What a modality cannot hold goes to others that can, so the totals are exact.
    """
    alpha = config.alphas[_uniform(0, len(config.alphas) - 1, generator)]
    room = int(counts_BC.sum(1).min())
    total_in = _uniform(1, min(config.max_inputs, room - 1), generator)
    total_out = _uniform(1, min(config.max_targets, room - total_in), generator)
    inputs_BC = _split(total_in, counts_BC, alpha, generator)
    return Budgets(inputs_BC, _split(total_out, counts_BC - inputs_BC, alpha, generator))


def _split(total: int, room_BC: Tensor, alpha: float, generator: Generator) -> Tensor:
    """Split ``total`` over modalities in Dirichlet proportions, never above ``room_BC``."""
    # torch.distributions.Dirichlet takes no generator; this is what it calls.
    concentration = torch.full(room_BC.shape, alpha, dtype=torch.float64)
    share_BC = torch._sample_dirichlet(concentration, generator=generator)
    budget_BC = torch.minimum((share_BC * total).long(), room_BC)
    # The rest goes where there is room, in a random order of modalities, likelier first.
    order_BC = torch.multinomial(share_BC + 1e-9, room_BC.shape[1], generator=generator)
    for column in order_BC.T:
        index = column[:, None]
        missing = total - budget_BC.sum(1, keepdim=True)
        space = (room_BC - budget_BC).gather(1, index)
        budget_BC = budget_BC.scatter_add(1, index, torch.minimum(missing, space))
    return budget_BC


STRATEGIES: dict[str, Strategy] = {"any_to_any": any_to_any, "dirichlet": dirichlet}
# These draw one set of budgets for a whole group, so its samples must have equal token counts.
SHARED_DRAW = {"any_to_any"}


def place(
    budgets: Budgets, valid_BL: Tensor, sequence: TokenSequence, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Choose the slots: bool (B, L) for inputs and for targets, disjoint, valid slots only."""
    score_BL = torch.rand(valid_BL.shape, generator=generator)
    for modality, span in zip(sequence.modalities, sequence.slices, strict=True):
        if modality.is_text:
            score_BL[:, span] = torch.linspace(0, 1, modality.length)
    score_BL = score_BL.masked_fill(~valid_BL, 2.0)
    inputs, targets = [], []
    for c, span in enumerate(sequence.slices):
        rank = score_BL[:, span].argsort(1).argsort(1)
        n_in, n_out = budgets.inputs_BC[:, c, None], budgets.targets_BC[:, c, None]
        inputs.append(rank < n_in)
        targets.append((rank >= n_in) & (rank < n_in + n_out))
    return torch.cat(inputs, 1) & valid_BL, torch.cat(targets, 1) & valid_BL


def mask(
    ids_BL: Tensor,
    valid_BL: Tensor,
    sequence: TokenSequence,
    config: MaskingConfig,
    generator: Generator,
) -> list[MaskedBatch]:
    """Mask a batch: groups of ``config.group_size`` samples, each with its own strategy and draw.

    Args:
        ids_BL: int64 ids of all modalities side by side, see ``TokenTable.gather``.
        valid_BL: Which of them are real tokens.

    Returns:
        Dense batches that together hold every sample once.
    """
    names = [n for n in STRATEGIES if getattr(config, n) > 0]
    weights = torch.tensor([getattr(config, n) for n in names], dtype=torch.float64)
    counts_BC = sequence.count(valid_BL)
    batches = []
    for start in range(0, len(ids_BL), config.group_size):
        rows = torch.arange(start, min(start + config.group_size, len(ids_BL)))
        name = names[int(torch.multinomial(weights, 1, generator=generator))]
        parts: Sequence[Tensor] = [rows]
        if name in SHARED_DRAW:
            _, kind = torch.unique(counts_BC[rows], dim=0, return_inverse=True)
            parts = [rows[kind == k] for k in range(int(kind.max()) + 1)]
        for part in parts:
            budgets = STRATEGIES[name](counts_BC[part], sequence, config, generator)
            chosen = place(budgets, valid_BL[part], sequence, generator)
            batches.append(pack(ids_BL[part], *chosen, sequence))
    return batches
