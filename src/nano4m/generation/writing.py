"""Texts, from left to right until their end token.

A gap before given words is filled to its last slot: the text does not end there.

Shapes: B batch, T slots of the text, V its vocabulary, R rows of the batch that are alike.
"""

import math

import torch
from torch import Tensor

from nano4m.generation.draw import numbers
from nano4m.generation.filling import Fill, alike
from nano4m.modalities import TEXT_END

CHECK = 8
"""Slots after which a device is asked once whether all texts have ended."""


def write_text(fill: Fill) -> None:
    """Write a text, one token a step, each row until its end token."""
    if fill.guide.on_device:
        _write_there(fill)
        return
    settings, length = fill.settings, fill.modality.length
    fill.steps = length
    for slot in range(length):
        known_BT = fill.given_BL[:, fill.span]
        is_end_BT = known_BT & (fill.ids_BL[:, fill.span] == TEXT_END)
        lacking = ~known_BT[:, slot] & ~is_end_BT[:, :slot].any(1)
        fill.done = slot
        if not bool(lacking.any()):
            continue
        goes_on_B = known_BT[:, slot + 1 :].any(1)
        for rows in lacking.nonzero()[:, 0].split(fill.guide.batch_size):
            slots = torch.full((len(rows), 1), slot)
            if slot == length - 1:
                fill.write(rows, slots, torch.full_like(slots, TEXT_END))
                continue
            logits = fill.ask(rows, slots, 1, 1.0, ())
            logits[goes_on_B[rows], :, TEXT_END] = -math.inf
            chance = fill.chance(fill.own(rows), 0)
            drawn = chance.draw(logits, settings.temperature, settings.top_k, settings.top_p)
            fill.write(rows, slots, drawn)
        fill.step_done()
    fill.known_BL = fill.given_BL.clone()


def _write_there(fill: Fill) -> None:
    """Write a text without waiting for each token.

    Which text has ended is known to the device alone, so all rows go on to the last end, and what
    was written behind an end is taken back. So are its random numbers: a row's generator moves on
    by those of its own text, as on a CPU.
    """
    known_BT, modality = fill.known_BL[:, fill.span], fill.modality
    # Rows that know the same slots show equally many tokens at every step.
    kind_B = known_BT.unique(dim=0, return_inverse=True)[1]
    keys = [kind_B, *fill.guide.shown(fill.known_BL).unbind(1)]
    parts = alike(*keys, batch_size=fill.guide.rows_at_once(1, modality.vocab_size))
    lacking = [(~known_BT[rows[0]]).nonzero()[:, 0].tolist() for rows in parts]
    fill.steps, first = sum(map(len, lacking)), 0
    for rows, slots in zip(parts, lacking, strict=True):
        fill.done = first
        _write_rows(fill, rows, slots)
        first += len(slots)
    fill.known_BL = fill.given_BL.cpu()


def _write_rows(fill: Fill, rows: Tensor, lacking: list[int]) -> None:
    """Write the texts of rows that know the same slots."""
    settings, length, device = fill.settings, fill.modality.length, fill.ids_BL.device
    if not lacking:
        return
    own, there = fill.own(rows), fill.send(rows)
    before_BL = fill.ids_BL.clone()
    known_L = fill.known_BL[rows[0]]
    last_known = max([*known_L[fill.span].nonzero()[:, 0].tolist(), -1])
    shown = fill.guide.shown(known_L[None])[0].tolist()
    states = [generator.get_state() for generator in own]
    each = numbers(1, settings.temperature, settings.top_p)
    chance = fill.chance(own, each * len(lacking))
    is_end_V = torch.arange(fill.modality.vocab_size, device=device) == TEXT_END
    for done, slot in enumerate(lacking):
        slots = torch.full((len(rows), 1), slot, device=device)
        if slot == length - 1:
            fill.write(there, slots, torch.full_like(slots, TEXT_END))
        else:
            logits = fill.ask(there, slots, 1, 1.0, [n + done for n in shown])
            if slot < last_known:
                logits = logits.masked_fill(is_end_V, -math.inf)
            drawn = chance.draw(logits, settings.temperature, settings.top_k, settings.top_p)
            fill.write(there, slots, drawn)
        if fill.on_step is not None:
            fill.step_done(*_ended(fill, rows, before_BL))
        if done % CHECK == CHECK - 1 and bool(_has_end(fill)[there].any(1).all()):
            break
    fill.ids_BL, fill.given_BL = _ended(fill, rows, before_BL)
    made_RT = fill.given_BL[there][:, fill.span].cpu() & ~known_L[fill.span]
    drawn_R = made_RT[:, : length - 1].sum(1).tolist()
    for generator, state, count in zip(own, states, drawn_R, strict=True):
        generator.set_state(state)
        torch.rand(count * each, generator=generator)


def _has_end(fill: Fill) -> Tensor:
    """Return which slots of the text hold its end, bool (B, T)."""
    return fill.given_BL[:, fill.span] & (fill.ids_BL[:, fill.span] == TEXT_END)


def _ended(fill: Fill, rows: Tensor, before_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids and marks (B, L) without what some rows wrote behind the end of their texts."""
    is_end_BT = _has_end(fill)
    behind_BT = is_end_BT.cumsum(1) - is_end_BT.long() > 0
    is_own_B = torch.zeros(len(fill.known_BL), dtype=torch.bool)
    is_own_B[rows] = True
    undone_BT = behind_BT & fill.send(is_own_B[:, None] & ~fill.known_BL[:, fill.span])
    ids_BL, given_BL = fill.ids_BL.clone(), fill.given_BL.clone()
    ids_BL[:, fill.span] = torch.where(undone_BT, before_BL[:, fill.span], ids_BL[:, fill.span])
    given_BL[:, fill.span] = given_BL[:, fill.span] & ~undone_BT
    return ids_BL, given_BL
