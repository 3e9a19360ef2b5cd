"""Generation, ids to ids: decode one modality after another, conditioned on any inputs.

Grids and sounds are decoded in a few parallel steps. Either as in MaskGIT (arXiv:2202.04200):
predict all unknown tokens, draw them, keep the most confident ones, with Gumbel noise on the
confidence that fades out. Or in a decoding order fixed in advance (``decoding_order``): choose the
slots, then draw them. Residual codebooks are decoded coarse to fine, as in SoundStorm
(arXiv:2305.09636), or in the order of a sequence (``tokens.patterns``). Texts are decoded from left
to right until their end token (``text``). Input tokens never change.

Every sample has its own random generator: sample i of a batch does not depend on the others.

All steps are planned before the first one: which rows are decoded together and how many tokens each
step fills follows from the inputs. So nothing waits for a GPU between two steps.

Shapes: B batch, L all token slots of a clip, T slots of one modality, S slots of one codebook, N
unknown slots, R rows that are decoded together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano4m.config.generation import GenerateConfig
from nano4m.errors import UserError
from nano4m.generation.decoding_order import slot_order
from nano4m.generation.decoding_state import DecodingState, OnStep, alike
from nano4m.generation.draw import confidence, numbers
from nano4m.generation.guidance import ChainStep, Guide
from nano4m.generation.likelihoods import log_probs as log_probs
from nano4m.generation.text_decoding import decode_text
from nano4m.generation.token_schedules import (
    guidance_factor,
    share_steps,
    temperatures,
    token_counts,
)
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence
from nano4m.tokens.patterns import PATTERNS, slots_of


@dataclass(frozen=True, kw_only=True)
class _RowGroup:
    """Rows with equally many unknown tokens, and the plan for them; tensors on the CPU.

    Attributes:
        rows: int64 (R,).
        slots_RN: int64 slots to decode, those of one codebook or all.
        counts: Tokens that each step fills.
        shown: Inputs of each branch of the guide at the first step.
        codebook: The codebook of ``slots_RN``; None: each slot its own.
    """

    rows: Tensor
    slots_RN: Tensor
    counts: list[int]
    shown: list[int]
    codebook: int | None


def _plan_codebook(
    state: DecodingState, known_BL: Tensor, slots_S: Tensor, steps: int, codebook: int | None
) -> list[_RowGroup]:
    """Return the plan for the slots of one codebook, or of all, if ``known_BL`` is known.

    The decoder queries these slots only, as in training: those of later codebooks stay unknown.
    """
    unknown_BT = ~known_BL[:, state.span]
    is_level_T = torch.zeros(state.modality.length, dtype=torch.bool)
    is_level_T[slots_S] = True
    found: list[_RowGroup] = []
    unknown_BT &= is_level_T
    here, guide = unknown_BT.sum(1), state.guide
    keys = [here, *guide.shown(known_BL).unbind(1)] if guide.on_device else [here]
    choices = state.modality.vocab_size if codebook is None else state.modality.codebook_size
    for rows in alike(*keys, batch_size=guide.rows_at_once(len(slots_S), choices)):
        count = int(here[rows[0]])
        if count:
            found.append(
                _RowGroup(
                    rows=rows,
                    slots_RN=unknown_BT[rows].nonzero()[:, 1].view(len(rows), count),
                    counts=token_counts(count, steps, state.settings.schedule),
                    shown=guide.shown(known_BL[rows[:1]])[0].tolist(),
                    codebook=codebook,
                )
            )
    return found


def _decode_codebook(state: DecodingState, part: _RowGroup) -> None:
    """Decode the planned slots of a group of rows."""
    settings, counts, own = state.settings, part.counts, state.own(part.rows)
    by_confidence = settings.order == "confidence"
    left_RN = part.slots_RN
    if not by_confidence:
        left_RN = slot_order(settings.order, state.modality, left_RN, own)
    step_temperatures, total = temperatures(settings, counts), 0
    for step, temperature in enumerate(step_temperatures):
        size = sum(counts[step:]) if by_confidence else counts[step]
        total += numbers(size, temperature, settings.top_p) + size * by_confidence
    random = state.random(own, total)
    rows, left_RN = state.send(part.rows), state.send(left_RN)
    shown = part.shown
    for step, (count, temperature) in enumerate(zip(counts, step_temperatures, strict=True)):
        factor = guidance_factor(settings.guidance_schedule, step, len(counts))
        drawable = left_RN.shape[1] if by_confidence else count
        logits = state.forward_logits(rows, left_RN, drawable, factor, shown, part.codebook)
        drawn = random.draw(logits, temperature, settings.top_k, settings.top_p)
        confidence_RN = (
            confidence(logits, drawn) if by_confidence or settings.remask_rounds else None
        )
        slots, left = left_RN[:, :count], left_RN[:, count:]
        if by_confidence and confidence_RN is not None:
            noise = settings.noise * (1 - (step + 1) / len(counts))
            score = confidence_RN + noise * random.gumbel(drawable)
            ranked = score.argsort(dim=1, descending=True, stable=True)
            keep, rest = ranked[:, :count], ranked[:, count:].sort(1).values
            slots, left = left_RN.gather(1, keep), left_RN.gather(1, rest)
            drawn, confidence_RN = drawn.gather(1, keep), confidence_RN.gather(1, keep)
        state.write(rows, slots, drawn)
        if confidence_RN is not None:
            state.confidence_BT[rows[:, None], slots] = confidence_RN
        left_RN = left
        shown = [n + count for n in shown]
        state.step_done()


def _plan_redraws(state: DecodingState, made_BT: Tensor) -> list[_RowGroup]:
    """Return the plan for redrawing the least confident generated tokens (``slots_RN``: all)."""
    made_B, filled_BL = made_BT.sum(1), state.known_BL.clone()
    filled_BL[:, state.span] = True
    shown_BP, found = state.guide.shown(filled_BL), []
    keys = [made_B, *shown_BP.unbind(1)] if state.guide.on_device else [made_B]
    most = state.guide.rows_at_once(state.modality.length, state.modality.vocab_size)
    for rows in alike(*keys, batch_size=most):
        total = int(made_B[rows[0]])
        if total:
            count = max(1, round(state.settings.remask_share * total))
            slots = made_BT[rows].nonzero()[:, 1].view(len(rows), total)
            shown = [n - count for n in shown_BP[rows[0]].tolist()]
            found.append(
                _RowGroup(
                    rows=rows,
                    slots_RN=slots,
                    counts=[count] * state.settings.remask_rounds,
                    shown=shown,
                    codebook=None if state.modality.num_codebooks > 1 else 0,
                )
            )
    return found


def _redraw_least_confident(state: DecodingState, part: _RowGroup) -> None:
    """Redraw the least confident generated tokens for some rounds; inputs stay."""
    settings, count, total = state.settings, part.counts[0], part.slots_RN.shape[1]
    # The temperature of the step at which as many tokens were unknown.
    temperature = temperatures(settings, [total - count, count])[-1]
    each = numbers(count, temperature, settings.top_p)
    random = state.random(state.own(part.rows), each * len(part.counts))
    is_made_RT = torch.zeros(len(part.rows), state.modality.length, dtype=torch.bool)
    hidden = state.send(~is_made_RT.scatter(1, part.slots_RN, True))
    rows = state.send(part.rows)
    for _ in part.counts:
        confidence_RN = state.confidence_BT[rows].masked_fill(hidden, math.inf)
        slots = confidence_RN.argsort(dim=1, stable=True)[:, :count].sort(1).values
        state.mark(rows, slots, torch.zeros_like(slots, dtype=torch.bool))
        logits = state.forward_logits(rows, slots, count, 1.0, part.shown, part.codebook)
        drawn = random.draw(logits, temperature, settings.top_k, settings.top_p)
        state.write(rows, slots, drawn)
        state.confidence_BT[rows[:, None], slots] = confidence(logits, drawn)
        state.step_done()


def _decode_parallel(state: DecodingState) -> None:
    """Decode a grid or a sound."""
    made_BT = ~state.known_BL[:, state.span]
    slots, books = torch.arange(state.modality.length), state.modality.num_codebooks
    levels: list[tuple[Tensor, int | None]] = [(slots, None if books > 1 else 0)]
    if state.settings.codebooks == "levels":
        levels = [(slots[book::books], book) for book in range(books)]
    elif state.settings.codebooks in PATTERNS and state.modality.layout == "codebooks":
        pattern = slots_of(state.settings.codebooks, len(slots) // books, books)
        levels = [
            (torch.tensor(step), step[0] % books if len(step) == 1 else None) for step in pattern
        ]
    parts, known_BL = [], state.known_BL.clone()
    shares = share_steps(state.settings.steps, len(levels))
    for (level, codebook), steps in zip(levels, shares, strict=True):
        parts += _plan_codebook(state, known_BL, level, steps, codebook)
        known_BL[:, level + state.span.start] = True
    again = _plan_redraws(state, made_BT) if state.settings.remask_rounds else []
    state.steps = sum(len(part.counts) for part in parts + again)
    for part in parts:
        _decode_codebook(state, part)
    for part in again:
        _redraw_least_confident(state, part)
    state.known_BL = known_BL


def _require_inputs(step: ChainStep, tokens: TokenSequence, known_BL: Tensor) -> None:
    """Refuse a condition of which no row has a token."""
    sources = {s for c in step.conditions or () for s in c.sources} | {*step.negative}
    for source in sorted(sources):
        if not bool(known_BL[:, tokens.slices[tokens.index(source)]].any()):
            raise UserError(
                f"{source!r} is a condition of {step.target!r}, but nothing is given of it; give "
                "it, or generate it in an earlier step of the chain"
            )


def generate(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    inputs_BL: Tensor,
    targets: Sequence[str | ChainStep],
    config: GenerateConfig,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
    on_device: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode ``targets`` in order; each finished one is a condition of the next.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        ids_BL: int64 ids of a batch; only inputs are read.
        inputs_BL: bool, input slots. A target may have inputs in any of its slots.
        targets: Modalities to decode; a name alone takes all that is known as its condition.
        config: Sampling settings. Steps above a row's unknown tokens are cut to their number.
        seeds: One seed a row.
        on_step: Called after every step with the target, the number of the step, the number of
            steps of the target, and ids and mask of known slots on the sampler's device. Rows with
            different numbers of unknown tokens take their steps one after the other; a text may end
            before its last step.
        on_device: Whether everything stays on the model's device and nothing is read back
            meanwhile; None: unless it is a CPU. The CPU implementation (False) computes duplicate
            rows once. See ``draw`` for what is the same in both.

    Returns:
        New (ids_BL, inputs_BL), on the device of the arguments: every slot of every target is
        filled (a text: up to its end token), and inputs have their old ids.

    Raises:
        UserError: A target or condition that the model does not have, or a condition without
            inputs.
        ValueError: Not one seed a row.
    """
    if len(seeds) != len(ids_BL):
        raise ValueError(f"{len(seeds)} seeds for {len(ids_BL)} rows")
    chain = [t if isinstance(t, ChainStep) else ChainStep(target=t) for t in targets]
    chosen = [step.settings or config.for_modality(step.target) for step in chain]
    # All guides first, so that an error in the last step is raised before the first one runs.
    guides = [
        Guide(model, tokens, step, settings.guidance, config.batch_size, on_device)
        for step, settings in zip(chain, chosen, strict=True)
    ]
    home, known_BL = ids_BL.device, inputs_BL.cpu()
    there = model.device if guides and guides[0].on_device else torch.device("cpu")
    ids_BL, inputs_BL = ids_BL.to(there, copy=True), inputs_BL.to(there, copy=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for step, settings, guide in zip(chain, chosen, guides, strict=True):
        _require_inputs(step, tokens, known_BL)
        modality = tokens.modalities[guide.target]
        state = DecodingState(
            guide=guide,
            modality=modality,
            span=tokens.slices[guide.target],
            settings=settings,
            ids_BL=ids_BL,
            inputs_BL=inputs_BL,
            known_BL=known_BL,
            generators=generators,
            confidence_BT=torch.zeros(len(ids_BL), modality.length, device=there),
            on_step=on_step,
        )
        (decode_text if modality.is_text else _decode_parallel)(state)
        ids_BL, inputs_BL, known_BL = state.ids_BL, state.inputs_BL, state.known_BL
    return ids_BL.to(home), inputs_BL.to(home)
