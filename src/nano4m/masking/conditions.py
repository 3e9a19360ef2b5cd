"""Conditions: the tasks of generation and of the probes that masked samples train, and how often.

Shapes: B samples, L slots, C modalities, T slots of one modality.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking import draw_masks
from nano4m.tokens.batch import TokenSequence

Kind = Literal[
    "whole", "only", "in part", "next token", "continuation", "infilling", "input length"
]

KINDS: dict[Kind, str] = {
    "whole": "targets: all tokens of a modality; inputs: all tokens of the sources, nothing else",
    "only": "as whole, without any other target",
    "in part": "as whole, but a part of the target modality is input, its rest is target",
    "next token": "target: one token of a text after its prefix; inputs: all tokens of the sources",
    "continuation": "inputs: the first rows, frames or words; targets: all after them; other"
    " modalities are inputs whole or not at all",
    "infilling": "targets: a gap of rows or frames between inputs; others whole or not at all",
    "input length": "input tokens over the most that generation uses: all but one modality",
}
"""Meaning of each kind."""

NOTHING, EVERYTHING = "nothing", "all others"


class Condition(NamedTuple):
    """One task; ``source`` is a modality, "nothing", "all others" or a quarter of a length."""

    kind: Kind
    source: str
    target: str

    def __str__(self) -> str:
        arrow = f"{self.source} -> {self.target}" if self.target else self.source
        return arrow if self.kind == "whole" else f"{arrow} ({self.kind})"


class _Group(NamedTuple):
    """Masks of some samples with their token counts."""

    inputs_BL: Tensor
    targets_BL: Tensor
    valid_BL: Tensor
    counts_BC: Tensor
    input_counts_BC: Tensor
    target_counts_BC: Tensor


def classify(
    inputs_BL: Tensor, targets_BL: Tensor, valid_BL: Tensor, sequence: TokenSequence
) -> dict[Condition, Tensor]:
    """Return, by condition, which samples train it, bool (B,); a sample may train several or none.

    With two modalities "all others" equals the one other.

    Args:
        inputs_BL, targets_BL: bool, input and target slots.
        valid_BL: bool, real tokens.
        sequence: Order of the slots.
    """
    counts = (sequence.count(mask_BL) for mask_BL in (valid_BL, inputs_BL, targets_BL))
    group = _Group(inputs_BL, targets_BL, valid_BL, *counts)
    found: dict[Condition, Tensor] = {}
    for target in range(len(sequence.modalities)):
        found |= _from_sources(group, sequence, target)
        found |= _inside(group, sequence, target)
    return found | _lengths(group)


def _from_sources(group: _Group, sequence: TokenSequence, target: int) -> dict[Condition, Tensor]:
    """Return the conditions whose inputs are whole other modalities."""
    _, _, _, counts_BC, input_counts_BC, target_counts_BC = group
    names = [m.name for m in sequence.modalities]
    name, is_text = names[target], sequence.modalities[target].is_text
    input_count_B, target_count_B, count_B = (
        input_counts_BC[:, target],
        target_counts_BC[:, target],
        counts_BC[:, target],
    )
    is_other_C = torch.arange(len(names)) != target
    is_whole_BC = (input_counts_BC == counts_BC) & (counts_BC > 0)
    num_inputs_B = ((input_counts_BC > 0) & is_other_C).sum(1)
    num_others_B = ((counts_BC > 0) & is_other_C).sum(1)
    num_targets_B = (target_counts_BC > 0).sum(1)
    sources = {NOTHING: num_inputs_B == 0}
    for source in is_other_C.nonzero()[:, 0].tolist():
        sources[names[source]] = is_whole_BC[:, source] & (num_inputs_B == 1)
    is_all_B = (is_whole_BC & is_other_C).sum(1) == num_others_B
    sources[EVERYTHING] = is_all_B & (num_others_B > 0)
    is_whole_target_B = (target_count_B == count_B) & (count_B > 0)
    is_rest_B = (
        (input_count_B > 0) & (target_count_B > 0) & (input_count_B + target_count_B == count_B)
    )
    found = {}
    for source_name, is_source_B in sources.items():
        whole_B = is_source_B & is_whole_target_B
        found[Condition("whole", source_name, name)] = whole_B
        found[Condition("only", source_name, name)] = whole_B & (num_targets_B == 1)
        if is_text:
            found[Condition("next token", source_name, name)] = is_source_B & (target_count_B == 1)
        else:
            found[Condition("in part", source_name, name)] = is_source_B & is_rest_B
    return found


def _inside(group: _Group, sequence: TokenSequence, target: int) -> dict[Condition, Tensor]:
    """Return the conditions whose targets are the end or a gap of one modality."""
    modality, span = sequence.modalities[target], sequence.slices[target]
    size = sequence.units[target][1]
    inputs_BT, targets_BT = group.inputs_BL[:, span], group.targets_BL[:, span]
    valid_BT = group.valid_BL[:, span]
    others_BC = torch.ones_like(group.counts_BC, dtype=torch.bool)
    others_BC[:, target] = False
    is_clear_BC = (group.input_counts_BC == 0) | (group.input_counts_BC == group.counts_BC)
    is_clear_B = (is_clear_BC | ~others_BC).all(1)
    input_count_B, target_count_B = (
        group.input_counts_BC[:, target],
        group.target_counts_BC[:, target],
    )
    # All valid tokens are inputs or targets, and the targets are one run of whole units.
    index_T = torch.arange(modality.length)
    first_B = torch.where(targets_BT, index_T, modality.length).amin(1)
    last_B = torch.where(targets_BT, index_T, -1).amax(1)
    is_run_B = ((inputs_BT | targets_BT) == valid_BT).all(1) & (
        last_B - first_B + 1 == target_count_B
    )
    is_run_B &= (first_B % size == 0) & (target_count_B > 0) & (input_count_B > 0) & is_clear_B
    count_B = group.counts_BC[:, target]
    is_end_B = last_B == count_B - 1
    found = {Condition("continuation", "its start", modality.name): is_run_B & is_end_B}
    if not modality.is_text:
        inside_B = is_run_B & ~is_end_B & (first_B > 0) & ((last_B + 1) % size == 0)
        found[Condition("infilling", "its sides", modality.name)] = inside_B
    return found


def _lengths(group: _Group) -> dict[Condition, Tensor]:
    """Return the samples in each quarter of the longest input of generation."""
    longest_B = group.counts_BC.sum(1) - group.counts_BC.amin(1)
    share_B = group.input_counts_BC.sum(1) / longest_B
    found = {}
    for quarter in range(4):
        low, high = quarter / 4, (quarter + 1) / 4
        is_in_B = (share_B > low) & (share_B <= high)
        if quarter == 0:
            is_in_B |= share_B == 0
        if quarter == 3:
            is_in_B |= share_B > 1
        found[Condition("input length", f"{low:.0%} to {high:.0%}", "")] = is_in_B
    return found


def draw_groups(
    config: MaskingConfig, sequence: TokenSequence, samples: int, seed: int, progress: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield masks of synthetic clips that have all modalities; text lengths are uniform.

    Yields:
        inputs, targets and valid, bool (B, L) each; within a group each text has one length, as in
        the groups of training.
    """
    draw = torch.Generator().manual_seed(seed)
    text_lengths = [m.length if m.is_text else 0 for m in sequence.modalities]
    for start in range(0, samples, config.group_size):
        rows = min(config.group_size, samples - start)
        valid_L = torch.ones(sequence.length, dtype=torch.bool)
        for span, most in zip(sequence.slices, text_lengths, strict=True):
            if most:
                length = int(torch.randint(1, most + 1, (), generator=draw))
                valid_L[span.start + length : span.stop] = False
        valid_BL = valid_L.expand(rows, -1)
        for part, inputs_BL, targets_BL in draw_masks(valid_BL, sequence, config, draw, progress):
            yield inputs_BL, targets_BL, valid_BL[part]


def condition_shares(
    config: MaskingConfig,
    sequence: TokenSequence,
    samples: int = 20_000,
    seed: int = 0,
    progress: float = 0.0,
) -> dict[Condition, float]:
    """Return the fraction of drawn samples that train each condition.

    Args:
        config: Mixture, settings and ``group_size``.
        sequence: Layout of the clips; ids do not matter.
        samples: Number of samples to draw.
        seed: Seed of the draws.
        progress: Fraction of training done, in [0, 1].
    """
    # Small groups give more draws, and the shares do not depend on the group size.
    config = config.model_copy(update={"group_size": min(4, config.group_size)})
    groups = list(draw_groups(config, sequence, samples, seed, progress))
    inputs_BL, targets_BL, valid_BL = (torch.cat(parts) for parts in zip(*groups, strict=True))
    found = classify(inputs_BL, targets_BL, valid_BL, sequence)
    return {condition: is_B.double().mean().item() for condition, is_B in found.items()}


def used(shares: dict[Condition, float], sequence: TokenSequence) -> dict[Condition, float]:
    """Return the shares of the conditions that generation and the probes use.

    Texts are decoded and scored token by token, so no text is predicted whole; nor do they need a
    target to be the only one ("only").
    """
    texts = {m.name for m in sequence.modalities if m.is_text}
    return {
        condition: share
        for condition, share in shares.items()
        if condition.kind != "only"
        and not (condition.kind == "whole" and condition.target in texts)
    }


def rarest(shares: dict[Condition, float]) -> dict[Kind, dict[str, str | float]]:
    """Return, by kind, the least frequent condition and its share."""
    found: dict[Kind, dict[str, str | float]] = {}
    for condition in sorted(shares, key=lambda c: -shares[c]):
        found[condition.kind] = {"condition": str(condition), "share": shares[condition]}
    return {kind: found[kind] for kind in KINDS if kind in found}
