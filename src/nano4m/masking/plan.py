"""What a strategy returns, how it becomes slots, and the draws that strategies share.

Shapes: B samples, L all token slots of a clip, C modalities.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from nano4m.batch import TokenSequence
from nano4m.config import MaskingConfig
from nano4m.errors import UserError


class Plan(NamedTuple):
    """How many tokens of each modality are given and asked for, and which are taken first.

    inputs_BC, targets_BC: int64; the rows of each sum to one total.
    priority_BL: int64 in [0, 2 * longest modality), or None (all equal). Inside a modality the
        slots are sorted by it, ties at random; the first ones are inputs, the next ones targets.
    """

    inputs_BC: Tensor
    targets_BC: Tensor
    priority_BL: Tensor | None = None


Strategy = Callable[[Tensor, TokenSequence, MaskingConfig, Generator], Plan]
"""(counts_BC of valid tokens, sequence, config, generator) -> Plan."""


def same_for_all(
    inputs_C: Sequence[int],
    targets_C: Sequence[int],
    rows: int,
    priority_BL: Tensor | None = None,
) -> Plan:
    """Return the plan in which all samples have the same budgets."""
    return Plan(
        torch.tensor([inputs_C]).repeat(rows, 1),
        torch.tensor([targets_C]).repeat(rows, 1),
        priority_BL,
    )


def place(
    plan: Plan, valid_BL: Tensor, sequence: TokenSequence, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Choose the slots: bool (B, L) for inputs and for targets, disjoint, valid slots only.

    Raises:
        ValueError: A budget that a modality cannot hold.
    """
    if bool((plan.inputs_BC + plan.targets_BC > sequence.count(valid_BL)).any()):
        raise ValueError("a plan asks for more tokens of a modality than there are")
    behind = 2 * max(m.length for m in sequence.modalities)
    priority_BL = sequence.index_L * sequence.is_text_L
    if plan.priority_BL is not None:
        priority_BL = torch.where(sequence.is_text_L, priority_BL, plan.priority_BL)
    first_L = sequence.modality_L * (behind + 1)
    # One sort for all modalities: whole parts are modality and priority, the fraction is the tie.
    key_BL = first_L + torch.where(valid_BL, priority_BL, behind)
    key_BL = key_BL + torch.rand(valid_BL.shape, generator=generator, dtype=torch.float64)
    # NumPy sorts rows of this length several times faster than torch.
    slots_BL = torch.from_numpy(key_BL.numpy().argsort(1))
    # Slot i of the sorted row belongs to the modality of slot i of the sequence.
    rank_BL = torch.empty_like(slots_BL).scatter_(1, slots_BL, sequence.index_L.expand_as(slots_BL))
    inputs_BL = plan.inputs_BC[:, sequence.modality_L]
    targets_BL = plan.targets_BC[:, sequence.modality_L]
    is_input_BL = rank_BL < inputs_BL
    return is_input_BL, (rank_BL < inputs_BL + targets_BL) & ~is_input_BL


def uniform(low: int, high: int, generator: Generator) -> int:
    """Draw an integer in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def chance(probability: float, generator: Generator) -> bool:
    """Draw True with this probability."""
    return bool(torch.rand((), generator=generator) < probability)


def known_part(total: int, generator: Generator) -> int:
    """Draw how many of ``total`` targets are known, 0 to total - 1, by the law of MaskGIT.

    The unknown share is cos(pi / 2 * u), u uniform in [0, 1) (arXiv:2202.04200, section 3.1).
    """
    unknown = math.cos(math.pi / 2 * float(torch.rand((), generator=generator)))
    return min(total - 1, total - math.ceil(unknown * total))


def draw_sources(
    counts_C: Sequence[int], config: MaskingConfig, generator: Generator
) -> tuple[list[int], list[int]]:
    """Draw which modalities are sources; return them and the other present ones, both shuffled.

    ``config.sources`` weighs their number; at least one modality is left to ask for.

    Raises:
        UserError: ``config.sources`` has no number that is possible here.
    """
    present = [c for c, n in enumerate(counts_C) if n]
    weights = torch.tensor(config.sources[: len(present)], dtype=torch.float64)
    if not float(weights.sum()):
        raise UserError(
            f"masking.sources {config.sources}: a clip with {len(present)} modalities has at most "
            f"{len(present) - 1} sources; give a smaller number a weight"
        )
    number = int(torch.multinomial(weights, 1, generator=generator))
    order = [present[i] for i in torch.randperm(len(present), generator=generator).tolist()]
    return order[:number], order[number:]
