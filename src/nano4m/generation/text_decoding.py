"""Decoding of texts, from left to right until their end token.

A gap before input tokens is filled to its last slot: the text does not end there.

Shapes: B batch, T slots of the text, V its vocabulary, R rows that are decoded together.
"""

import math

import torch
from torch import Tensor

from nano4m.generation.decoding_state import DecodingState, alike
from nano4m.generation.draw import numbers
from nano4m.modalities import TEXT_END

CHECK = 8
"""Number of slots between two reads from the device of whether all texts have ended."""


def decode_text(state: DecodingState) -> None:
    """Decode a text, one token a step, each row until its end token."""
    if state.guide.on_device:
        _write_there(state)
        return
    settings, length = state.settings, state.modality.length
    state.steps = length
    for slot in range(length):
        known_BT = state.inputs_BL[:, state.span]
        is_end_BT = known_BT & (state.ids_BL[:, state.span] == TEXT_END)
        lacking = ~known_BT[:, slot] & ~is_end_BT[:, :slot].any(1)
        state.done = slot
        if not bool(lacking.any()):
            continue
        goes_on_B = known_BT[:, slot + 1 :].any(1)
        for rows in lacking.nonzero()[:, 0].split(state.guide.batch_size):
            slots = torch.full((len(rows), 1), slot)
            if slot == length - 1:
                state.write(rows, slots, torch.full_like(slots, TEXT_END))
                continue
            logits = state.forward_logits(rows, slots, 1, 1.0, (), 0)
            logits[goes_on_B[rows], :, TEXT_END] = -math.inf
            random = state.random(state.own(rows), 0)
            drawn = random.draw(logits, settings.temperature, settings.top_k, settings.top_p)
            state.write(rows, slots, drawn)
        state.step_done()
    state.known_BL = state.inputs_BL.clone()


def _write_there(state: DecodingState) -> None:
    """Decode a text without waiting for each token.

    Only the device knows which texts have ended, so all rows continue until the last one has, and
    tokens behind an end are undone. So are their random numbers: a row's generator advances by
    those of its own text, as on a CPU.
    """
    known_BT, modality = state.known_BL[:, state.span], state.modality
    # Rows with the same known slots have equally many inputs at every step.
    kind_B = known_BT.unique(dim=0, return_inverse=True)[1]
    keys = [kind_B, *state.guide.shown(state.known_BL).unbind(1)]
    parts = alike(*keys, batch_size=state.guide.rows_at_once(1, modality.vocab_size))
    lacking = [(~known_BT[rows[0]]).nonzero()[:, 0].tolist() for rows in parts]
    state.steps, first = sum(map(len, lacking)), 0
    for rows, slots in zip(parts, lacking, strict=True):
        state.done = first
        _write_rows(state, rows, slots)
        first += len(slots)
    state.known_BL = state.inputs_BL.cpu()


def _write_rows(state: DecodingState, rows: Tensor, lacking: list[int]) -> None:
    """Decode the texts of rows with the same known slots."""
    settings, length, device = state.settings, state.modality.length, state.ids_BL.device
    if not lacking:
        return
    own, there = state.own(rows), state.send(rows)
    before_BL = state.ids_BL.clone()
    known_L = state.known_BL[rows[0]]
    last_known = max([*known_L[state.span].nonzero()[:, 0].tolist(), -1])
    shown = state.guide.shown(known_L[None])[0].tolist()
    states = [generator.get_state() for generator in own]
    each = numbers(1, settings.temperature, settings.top_p)
    random = state.random(own, each * len(lacking))
    is_end_V = torch.arange(state.modality.vocab_size, device=device) == TEXT_END
    for done, slot in enumerate(lacking):
        slots = torch.full((len(rows), 1), slot, device=device)
        if slot == length - 1:
            state.write(there, slots, torch.full_like(slots, TEXT_END))
        else:
            logits = state.forward_logits(there, slots, 1, 1.0, [n + done for n in shown], 0)
            if slot < last_known:
                logits = logits.masked_fill(is_end_V, -math.inf)
            drawn = random.draw(logits, settings.temperature, settings.top_k, settings.top_p)
            state.write(there, slots, drawn)
        if state.on_step is not None:
            state.step_done(*_ended(state, rows, before_BL))
        if done % CHECK == CHECK - 1 and bool(_has_end(state)[there].any(1).all()):
            break
    state.ids_BL, state.inputs_BL = _ended(state, rows, before_BL)
    made_RT = state.inputs_BL[there][:, state.span].cpu() & ~known_L[state.span]
    drawn_R = made_RT[:, : length - 1].sum(1).tolist()
    for generator, rng_state, count in zip(own, states, drawn_R, strict=True):
        generator.set_state(rng_state)
        torch.rand(count * each, generator=generator)


def _has_end(state: DecodingState) -> Tensor:
    """Return which known slots of the text hold its end token, bool (B, T)."""
    return state.inputs_BL[:, state.span] & (state.ids_BL[:, state.span] == TEXT_END)


def _ended(state: DecodingState, rows: Tensor, before_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids and mask (B, L) without the tokens that some rows have behind their text's end."""
    is_end_BT = _has_end(state)
    behind_BT = is_end_BT.cumsum(1) - is_end_BT.long() > 0
    is_own_B = torch.zeros(len(state.known_BL), dtype=torch.bool)
    is_own_B[rows] = True
    undone_BT = behind_BT & state.send(is_own_B[:, None] & ~state.known_BL[:, state.span])
    ids_BL, inputs_BL = state.ids_BL.clone(), state.inputs_BL.clone()
    ids_BL[:, state.span] = torch.where(undone_BT, before_BL[:, state.span], ids_BL[:, state.span])
    inputs_BL[:, state.span] = inputs_BL[:, state.span] & ~undone_BT
    return ids_BL, inputs_BL
