"""The plan that a strategy returns, its conversion to slots, and draws that strategies share.

Shapes: B samples, L all token slots of a clip, C modalities.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.errors import UserError
from nano4m.tokens.batch import TokenSequence


class Plan(NamedTuple):
    """Number of input and target tokens of each modality, and which slots are taken first.

    inputs_BC, targets_BC: int64; the rows of each sum to one total.
    priority_BL: int64 in [0, 2 * longest modality), or None (all equal). Within a modality slots
        are sorted by it, ties at random; the first ones are inputs, the next ones targets.
    more: Further plans for the same samples: each gives them one more row of the batch.
    """

    inputs_BC: Tensor
    targets_BC: Tensor
    priority_BL: Tensor | None = None
    more: tuple["Plan", ...] = ()


Strategy = Callable[[Tensor, TokenSequence, MaskingConfig, Generator], Plan]
"""(counts_BC of valid tokens, sequence, config, generator) -> Plan."""


class TooFewTokens(UserError):
    """A clip has fewer tokens or modalities than a strategy needs."""


def same_for_all(
    inputs_C: Sequence[int],
    targets_C: Sequence[int],
    rows: int,
    priority_BL: Tensor | None = None,
) -> Plan:
    """Return a plan with the same budgets for all samples."""
    return Plan(
        torch.tensor([inputs_C]).repeat(rows, 1),
        torch.tensor([targets_C]).repeat(rows, 1),
        priority_BL,
    )


def join(plans: Sequence[Plan]) -> Plan:
    """Return the plans concatenated along the samples."""
    if len(plans) == 1:
        return plans[0]
    inputs_BC = torch.cat([plan.inputs_BC for plan in plans])
    targets_BC = torch.cat([plan.targets_BC for plan in plans])
    known = [own_BL for plan in plans if (own_BL := plan.priority_BL) is not None]
    if not known:
        return Plan(inputs_BC, targets_BC)
    parts = []
    for plan in plans:
        own_BL = plan.priority_BL
        equal_BL = known[0].new_zeros(len(plan.inputs_BC), known[0].shape[1])
        parts.append(equal_BL if own_BL is None else own_BL)
    return Plan(inputs_BC, targets_BC, torch.cat(parts))


def place(
    plan: Plan, valid_BL: Tensor, sequence: TokenSequence, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return the input and target slots, bool (B, L) each: disjoint, valid slots only.

    Raises:
        ValueError: A budget above the tokens of its modality.
    """
    if bool((plan.inputs_BC + plan.targets_BC > sequence.count(valid_BL)).any()):
        raise ValueError("a plan has more tokens of a modality than there are")
    shape = valid_BL.shape
    random_BL = torch.empty(shape, dtype=torch.int32).random_(generator=generator).numpy()
    # NumPy sorts rows of this length several times faster than torch.
    modality_L, index_L, is_text_L, valid = (
        t.numpy() for t in (sequence.modality_L, sequence.index_L, sequence.is_text_L, valid_BL)
    )
    behind = 2 * max(m.length for m in sequence.modalities)
    first_L = modality_L * (behind + 1)
    key_BL = first_L + index_L * is_text_L
    if plan.priority_BL is not None:
        key_BL = np.where(is_text_L, key_BL, first_L + plan.priority_BL.numpy())
    if not valid.all():
        key_BL = np.where(valid, key_BL, first_L + behind)
    # One sort for all modalities: by modality and priority, then a random tie-break, then slot.
    bits = sequence.length.bit_length()
    # The three share 63 bits, so very long sequences leave fewer than 31 for the tie-break.
    ties = min(31, 63 - bits - (len(sequence.modalities) * (behind + 1)).bit_length())
    random_BL = random_BL.astype(np.int64) >> (31 - ties)
    key_BL = (key_BL << (ties + bits)) + (random_BL << bits)
    key_BL += np.arange(sequence.length)
    key_BL.sort(axis=1)
    slots_BL = key_BL & ((1 << bits) - 1)
    slots_BL += np.arange(0, valid.size, sequence.length)[:, None]
    # Slot i of the sorted row belongs to the modality of slot i of the sequence.
    ends_BC = (plan.inputs_BC.numpy(), (plan.inputs_BC + plan.targets_BC).numpy())
    is_first_BL, is_either_BL = (index_L < end_BC[:, modality_L] for end_BC in ends_BC)
    is_input_BL, is_target_BL = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    is_input_BL.reshape(-1)[slots_BL[is_first_BL]] = True
    is_target_BL.reshape(-1)[slots_BL[is_either_BL & ~is_first_BL]] = True
    return torch.from_numpy(is_input_BL), torch.from_numpy(is_target_BL)


def uniform(low: int, high: int, generator: Generator) -> int:
    """Return a random integer in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def pick_weighted(weights: Sequence[float], generator: Generator) -> int:
    """Return a random position with probability proportional to its weight."""
    drawn = float(torch.rand((), generator=generator, dtype=torch.float64)) * sum(weights)
    last = 0
    for position, weight in enumerate(weights):
        if weight:
            last, drawn = position, drawn - weight
            if drawn < 0:
                break
    return last


def chance(probability: float, generator: Generator) -> bool:
    """Return True with this probability."""
    return bool(torch.rand((), generator=generator) < probability)


def known_part(total: int, generator: Generator) -> int:
    """Return how many of ``total`` tokens are known, 0 to total - 1, drawn by MaskGIT's schedule.

    The unknown share is cos(pi / 2 * u), u uniform in [0, 1) (arXiv:2202.04200, section 3.1).
    """
    unknown = math.cos(math.pi / 2 * float(torch.rand((), generator=generator)))
    return min(total - 1, total - math.ceil(unknown * total))


def draw_inputs(
    counts_C: Sequence[int], config: MaskingConfig, generator: Generator
) -> tuple[list[int], list[int]]:
    """Return randomly drawn source modalities and the other present ones, both shuffled.

    ``config.num_inputs_weights`` weighs the number of sources; at least one modality is no source.

    Raises:
        TooFewTokens: All numbers of sources that are possible here have weight 0.
    """
    present = [c for c, n in enumerate(counts_C) if n]
    weights = config.weights_of_num_inputs(len(counts_C))[: len(present)]
    if not sum(weights):
        raise TooFewTokens(
            f"masking.num_inputs_weights {config.num_inputs_weights}: a clip with {len(present)} "
            f"modalities has at most {len(present) - 1} sources; give a smaller number a weight"
        )
    number = pick_weighted(weights, generator)
    order = [present[i] for i in torch.randperm(len(present), generator=generator).tolist()]
    return order[:number], order[number:]
