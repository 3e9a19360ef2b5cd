"""Which state of decoding a masked sample is in: the level that is decoded, and how far.

The counterpart of ``decoding_state``, from masks alone, so that it measures any strategy.

Shapes: B samples, T slots of one modality, F units, Q levels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LevelStates(NamedTuple):
    """The states of some samples of one modality.

    Attributes:
        level_B: int64, the level that is decoded; -1: the masks are no state of decoding.
        step_B: float64 in [0, 1), how far the decoding of the level is, by the cosine schedule.
        open_BF: bool, the units (frames of a sound, tokens of a grid) that are not finished.
    """

    level_B: Tensor
    step_B: Tensor
    open_BF: Tensor


def level_states(
    inputs_BT: Tensor, targets_BT: Tensor, valid_BT: Tensor, levels: int
) -> LevelStates:
    """Return the states of decoding of a modality that is no text.

    In a state of level q all tokens of earlier levels are inputs, those of level q are inputs or
    targets, no other level has targets, and of later levels only finished units have inputs.

    Args:
        inputs_BT, targets_BT, valid_BT: bool, masks of the modality.
        levels: Levels that are decoded one after the other; slot t is of level t mod Q.
    """
    given_BFQ, asked_BFQ, valid_BFQ = (
        mask_BT.unflatten(1, (-1, levels)) for mask_BT in (inputs_BT, targets_BT, valid_BT)
    )
    has_targets_BQ = asked_BFQ.any(1)
    level_B = has_targets_BQ.long().argmax(1)
    is_state_B = has_targets_BQ.sum(1) == 1
    level_Q = torch.arange(levels)
    earlier_B1Q = (level_Q < level_B[:, None])[:, None]
    own_B1Q = (level_Q == level_B[:, None])[:, None]
    later_B1Q = (level_Q > level_B[:, None])[:, None]
    is_state_B &= (given_BFQ | ~valid_BFQ | ~earlier_B1Q).all(2).all(1)
    is_state_B &= (given_BFQ | asked_BFQ | ~valid_BFQ | ~own_B1Q).all(2).all(1)
    # A unit is open where a token of it is unknown; it has no tokens of later levels.
    open_BF = (valid_BFQ & ~given_BFQ).any(2)
    is_state_B &= ~(open_BF & (given_BFQ & later_B1Q).any(2)).any(1)
    asked_B = (asked_BFQ & own_B1Q).sum((1, 2))
    size_B = (valid_BFQ & own_B1Q).sum((1, 2))
    share_B = (asked_B / size_B.clamp_min(1)).double().clamp(0, 1)
    step_B = torch.acos(share_B) * 2 / math.pi
    return LevelStates(torch.where(is_state_B, level_B, -1), step_B, open_BF)
