"""Conditions: the tasks of generation and of the probes that masks train, and how much of each.

Shares are of the target tokens of a modality: the loss is the mean over these, so a sample with
many targets counts more than one with few.

Shapes: B samples, L slots, C modalities, T slots of one modality.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking import draw_masks
from nano4m.masking.decoding_state import num_levels
from nano4m.masking.level_states import LevelStates, level_states
from nano4m.tokens.batch import TokenSequence

Kind = Literal[
    "whole",
    "only",
    "in part",
    "next token",
    "continuation",
    "infilling",
    "one at a time",
    "level",
    "quarter",
    "input length",
]

KINDS: dict[Kind, str] = {
    "whole": "targets: all tokens of a modality, or the first level of its codebooks; inputs: all "
    "tokens of the sources, nothing else",
    "only": "as whole, without any other target",
    "in part": "as whole, but a part of the target modality is input; targets: the rest of it, or "
    "of a level of its codebooks",
    "next token": "target: one token of a text after its prefix; inputs: all tokens of the sources",
    "continuation": "inputs: the first rows, frames or words; targets: those after them, of a text "
    "the next one; other modalities are inputs whole or not at all",
    "infilling": "targets: a gap of rows or frames between inputs; others whole or not at all",
    "one at a time": "target: one token of a text after its prefix, whatever the other inputs",
    "level": "a state of decoding: earlier codebooks known, later ones not, the rest of this one "
    "is target",
    "quarter": "a state of decoding, by quarters of the steps; of the target tokens of its level",
    "input length": "input tokens over the most that generation uses: all but one modality",
}
"""Meaning of each kind."""

STATES: tuple[Kind, ...] = ("one at a time", "level", "quarter")
"""The kinds that are states of decoding."""

NOTHING, EVERYTHING = "nothing", "all others"


class Condition(NamedTuple):
    """One task; ``source`` is a modality, "nothing", "all others", a level or a quarter."""

    kind: Kind
    source: str
    target: str

    def __str__(self) -> str:
        arrow = f"{self.source} -> {self.target}" if self.target else self.source
        return arrow if self.kind == "whole" else f"{arrow} ({self.kind})"


class _Group(NamedTuple):
    """Token counts of some masked samples and the states of their modalities."""

    counts_BC: Tensor
    input_counts_BC: Tensor
    target_counts_BC: Tensor
    states: list[LevelStates | None]


def levels_of(config: MaskingConfig, sequence: TokenSequence) -> list[int]:
    """Return the number of levels that each modality is decoded in; 0 for texts."""
    indices = range(len(sequence.modalities))
    is_text = [m.is_text for m in sequence.modalities]
    return [0 if is_text[c] else num_levels(sequence, c, config) for c in indices]


def classify(
    inputs_BL: Tensor,
    targets_BL: Tensor,
    valid_BL: Tensor,
    sequence: TokenSequence,
    levels: Sequence[int],
) -> dict[Condition, Tensor]:
    """Return, by condition, which samples train it, bool (B,); a sample may train several or none.

    With two modalities "all others" equals the one other.

    Args:
        inputs_BL, targets_BL: bool, input and target slots.
        valid_BL: bool, real tokens.
        sequence: Order of the slots.
        levels: Of each modality, see ``levels_of``.
    """
    counts = (sequence.count(mask_BL) for mask_BL in (valid_BL, inputs_BL, targets_BL))
    states = [
        level_states(inputs_BL[:, span], targets_BL[:, span], valid_BL[:, span], own)
        if own
        else None
        for span, own in zip(sequence.slices, levels, strict=True)
    ]
    counts_BC, input_counts_BC, target_counts_BC = counts
    group = _Group(counts_BC, input_counts_BC, target_counts_BC, states)
    found: dict[Condition, Tensor] = {}
    for target in range(len(sequence.modalities)):
        found |= _from_sources(group, sequence, target)
        found |= _inside(group, sequence, target)
        found |= _decoding(group, sequence, target, levels[target])
    return found | _lengths(group)


def _from_sources(group: _Group, sequence: TokenSequence, target: int) -> dict[Condition, Tensor]:
    """Return the conditions whose inputs are whole other modalities."""
    counts_BC, input_counts_BC = group.counts_BC, group.input_counts_BC
    target_counts_BC, states = group.target_counts_BC, group.states[target]
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
    is_rest_B = (input_count_B > 0) & (target_count_B > 0)
    if states is None:
        is_rest_B &= input_count_B + target_count_B == count_B
    else:
        is_rest_B &= states.level_B >= 0
        is_whole_target_B |= (states.level_B == 0) & (input_count_B == 0)
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
    modality, size = sequence.modalities[target], sequence.units[target][1]
    others_BC = torch.ones_like(group.counts_BC, dtype=torch.bool)
    others_BC[:, target] = False
    is_clear_BC = (group.input_counts_BC == 0) | (group.input_counts_BC == group.counts_BC)
    is_clear_B = (is_clear_BC | ~others_BC).all(1)
    input_count_B, target_count_B = (
        group.input_counts_BC[:, target],
        group.target_counts_BC[:, target],
    )
    states = group.states[target]
    if states is None:
        is_end_B = (input_count_B > 0) & (target_count_B == 1) & is_clear_B
        return {Condition("continuation", "its start", modality.name): is_end_B}
    # The open tokens are one run of whole rows or frames.
    open_BT = states.open_BF.repeat_interleave(modality.length // states.open_BF.shape[1], 1)
    index_T = torch.arange(modality.length)
    first_B = torch.where(open_BT, index_T, modality.length).amin(1)
    last_B = torch.where(open_BT, index_T, -1).amax(1)
    is_run_B = (last_B - first_B + 1 == open_BT.sum(1)) & (states.level_B >= 0)
    is_run_B &= (first_B % size == 0) & (input_count_B > 0) & (target_count_B > 0) & is_clear_B
    is_run_B &= first_B > 0
    is_end_B = last_B == group.counts_BC[:, target] - 1
    inside_B = is_run_B & ~is_end_B & ((last_B + 1) % size == 0)
    return {
        Condition("continuation", "its start", modality.name): is_run_B & is_end_B,
        Condition("infilling", "its sides", modality.name): inside_B,
    }


def _decoding(
    group: _Group, sequence: TokenSequence, target: int, levels: int
) -> dict[Condition, Tensor]:
    """Return the states of decoding, whatever the other modalities."""
    name, states = sequence.modalities[target].name, group.states[target]
    if states is None:
        is_one_B = group.target_counts_BC[:, target] == 1
        return {Condition("one at a time", "its start", name): is_one_B}
    found = {}
    for level in range(levels):
        is_here_B = states.level_B == level
        source = f"codebook {level + 1}" if levels > 1 else "its states"
        found[Condition("level", source, name)] = is_here_B
        for quarter in range(4):
            part = f"{source}, {quarter / 4:.0%} to {(quarter + 1) / 4:.0%}"
            is_in_B = (4 * states.step_B).long().clamp_max(3) == quarter
            found[Condition("quarter", part, name)] = is_here_B & is_in_B
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
    """Return the share of each modality's target tokens that train each condition.

    Those of an input length are of all target tokens, those of a quarter of the tokens of its
    level.

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
    levels = levels_of(config, sequence)
    found = classify(inputs_BL, targets_BL, valid_BL, sequence, levels)
    counts_BC = sequence.count(targets_BL).double()
    column = {m.name: counts_BC[:, c] for c, m in enumerate(sequence.modalities)}
    column[""] = counts_BC.sum(1)
    tokens = {c: float((is_B * column[c.target]).sum()) for c, is_B in found.items()}
    whole = {name: float(count_B.sum()) for name, count_B in column.items()}

    def of(condition: Condition) -> float:
        if condition.kind != "quarter":
            return whole[condition.target]
        level = condition.source.split(",")[0]
        return tokens[Condition("level", level, condition.target)]

    return {c: count / max(1.0, of(c)) for c, count in tokens.items()}


def least_states(shares: dict[Condition, float]) -> dict[str, dict[str, float]]:
    """Return how much of each modality is trained in the states that generation visits.

    Returns:
        By modality: of a text the share of its target tokens that are asked one at a time; of
        others the share of each level's states and the least quarter of a level.
    """
    found: dict[str, dict[str, float]] = {}
    for condition, share in shares.items():
        own = found.setdefault(condition.target, {}) if condition.kind in STATES else {}
        if condition.kind == "quarter":
            own["least quarter"] = min(share, own.get("least quarter", 1.0))
        else:
            own[condition.source if condition.kind == "level" else condition.kind] = share
    return found


def used(shares: dict[Condition, float], sequence: TokenSequence) -> dict[Condition, float]:
    """Return the shares of the conditions that generation and the probes use.

    Texts are decoded and scored token by token, so no text is predicted whole; nor do they need a
    target to be the only one ("only"). The states of decoding are apart, see ``least_states``.
    """
    texts = {m.name for m in sequence.modalities if m.is_text}
    return {
        condition: share
        for condition, share in shares.items()
        if condition.kind not in ("only", *STATES)
        and not (condition.kind == "whole" and condition.target in texts)
    }


def rarest(shares: dict[Condition, float]) -> dict[Kind, dict[str, str | float]]:
    """Return, by kind, the least frequent condition and its share."""
    found: dict[Kind, dict[str, str | float]] = {}
    for condition in sorted(shares, key=lambda c: -shares[c]):
        found[condition.kind] = {"condition": str(condition), "share": shares[condition]}
    return {kind: found[kind] for kind in KINDS if kind in found}
