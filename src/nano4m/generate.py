"""Generation, ids to ids: fill one modality after another from whatever is given.

Grids and sounds are filled in a few parallel steps. By MaskGIT (arXiv:2202.04200): predict all
unknown tokens, draw them, keep the most confident ones, with Gumbel noise on the confidence that
fades out. Or in an order that is known before (``orders``): choose the slots, then draw them.
Residual codebooks are filled coarse to fine, as SoundStorm does (arXiv:2305.09636). Texts are
written from left to right until their end token. Given tokens are never touched.

Every sample has its own random generator: sample i of a batch does not depend on the others.

Shapes: B batch, L all token slots of a clip, T slots of one modality, S slots of one codebook,
N slots that are still to be filled, V vocabulary of one modality, W ids that one slot may have,
R rows of the batch that are alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nano4m.batch import TokenSequence
from nano4m.config_generate import GenerateConfig, Sampling
from nano4m.errors import UserError
from nano4m.guidance import ChainStep, Guide, ask
from nano4m.modalities import TEXT_END, Modality
from nano4m.model.fourm import FourM
from nano4m.orders import slot_order
from nano4m.sampling import confidence, draw, gumbel
from nano4m.schedules import guidance_factor, share_steps, temperatures, token_counts


def log_probs(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    given_BL: Tensor,
    asked_BT: Tensor,
    batch_size: int = 64,
) -> Tensor:
    """Return log-probabilities of asked-for slots of one modality, float32 (B, T, V).

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        ids_BL: int64 ids; only given slots are read.
        given_BL: bool, what the encoder sees; rows may differ, also in number.
        asked_BT: int64 slots (all of one modality), as many for each row. The decoder sees all T at
            once, as in training.
        batch_size: Rows at once.
    """
    index = int(tokens.modality_L[asked_BT[0, 0]])
    out = torch.empty(*asked_BT.shape, tokens.modalities[index].vocab_size)
    for rows, logits in ask(model, tokens, ids_BL, given_BL, asked_BT, batch_size):
        out[rows] = logits.log_softmax(-1)
    return out


def num_codebooks(modality: Modality) -> int:
    """Return the codebooks Q of a modality; those of slot t, row-major, are ids of t mod Q.

    Codebook q has the ids q * V / Q to (q + 1) * V / Q - 1.

    Raises:
        ValueError: A vocabulary that is not the same number of ids for each codebook.
    """
    books = modality.shape[1] if modality.layout == "codes" else 1
    if modality.vocab_size % books:
        raise ValueError(
            f"{modality.name}: {modality.vocab_size} ids are not {books} codebooks of one size"
        )
    return books


@dataclass(frozen=True, kw_only=True)
class _Fill:
    """One modality on its way; the ids and marks of its span are written in place."""

    guide: Guide
    modality: Modality
    span: slice
    settings: Sampling
    ids_BL: Tensor
    given_BL: Tensor
    generators: Sequence[torch.Generator]
    sure_BT: Tensor
    """Log-probability with which each token was drawn."""

    def ask(self, rows: Tensor, slots_RT: Tensor, count: int, factor: float) -> Tensor:
        """Return logits (R, count, W) of the first slots over the ids of their own codebook."""
        ids, given = self.ids_BL[rows], self.given_BL[rows]
        logits = self.guide.logits(ids, given, slots_RT + self.span.start, factor)[:, :count]
        books = num_codebooks(self.modality)
        if books == 1:
            return logits
        own = (slots_RT[:, :count] % books)[..., None, None]
        apart = logits.unflatten(2, (books, -1))
        return apart.gather(2, own.expand(-1, -1, 1, apart.shape[3]))[:, :, 0]

    def write(self, rows: Tensor, slots_RN: Tensor, drawn_RN: Tensor) -> None:
        """Keep what was drawn, as ids of the slots' own codebooks."""
        books = num_codebooks(self.modality)
        width = self.modality.vocab_size // books
        ids = drawn_RN + slots_RN % books * width
        self.ids_BL[rows[:, None], slots_RN + self.span.start] = ids
        self.given_BL[rows[:, None], slots_RN + self.span.start] = True

    def own(self, rows: Tensor) -> list[torch.Generator]:
        """Return the generators of some rows."""
        return [self.generators[row] for row in rows.tolist()]


def _alike(*keys_B: Tensor, batch_size: int) -> list[Tensor]:
    """Return row numbers in parts whose rows agree in all keys, at most ``batch_size`` long."""
    kinds, kind_B = torch.stack(keys_B, 1).unique(dim=0, return_inverse=True)
    alike = [(kind_B == kind).nonzero()[:, 0] for kind in range(len(kinds))]
    return [part for rows in alike for part in rows.split(batch_size)]


def _fill_level(fill: _Fill, slots_S: Tensor, steps: int) -> None:
    """Fill the slots of one codebook, or of all; other unknown slots are asked for as well.

    The decoder sees all that is unknown of the modality, as in training.
    """
    unknown_BT = ~fill.given_BL[:, fill.span]
    is_level_T = torch.zeros(fill.modality.length, dtype=torch.bool)
    is_level_T[slots_S] = True
    here, all_of_it = (unknown_BT & is_level_T).sum(1), unknown_BT.sum(1)
    for rows in _alike(here, all_of_it, batch_size=fill.guide.batch_size):
        count, whole = int(here[rows[0]]), int(all_of_it[rows[0]])
        if count:
            unknown = unknown_BT[rows]
            left = (unknown & is_level_T).nonzero()[:, 1].view(len(rows), count)
            others = (unknown & ~is_level_T).nonzero()[:, 1].view(len(rows), whole - count)
            _fill_rows(fill, rows, left, others, steps)


def _fill_rows(fill: _Fill, rows: Tensor, left_RN: Tensor, others_RT: Tensor, steps: int) -> None:
    """Fill ``left_RN`` of rows that lack equally many; ``others_RT`` stay unknown."""
    settings, own = fill.settings, fill.own(rows)
    by_confidence = settings.order == "confidence"
    if not by_confidence:
        left_RN = slot_order(settings.order, fill.modality, left_RN, own)
    counts = token_counts(left_RN.shape[1], steps, settings.schedule)
    for step, (count, heat) in enumerate(zip(counts, temperatures(settings, counts), strict=True)):
        factor = guidance_factor(settings.guidance_schedule, step, len(counts))
        drawable = left_RN.shape[1] if by_confidence else count
        logits = fill.ask(rows, torch.cat([left_RN, others_RT], 1), drawable, factor)
        drawn = draw(logits, heat, settings.top_k, settings.top_p, own)
        sure = confidence(logits, drawn) if by_confidence or settings.remask_rounds else None
        keep = torch.arange(count).expand(len(rows), -1)
        rest = torch.arange(count, left_RN.shape[1]).expand(len(rows), -1)
        if by_confidence and sure is not None:
            noise = settings.noise * (1 - (step + 1) / len(counts))
            score = sure + noise * gumbel(sure.shape[1:], own)
            ranked = score.argsort(dim=1, descending=True, stable=True)
            keep, rest = ranked[:, :count], ranked[:, count:].sort(1).values
        slots = left_RN.gather(1, keep)
        fill.write(rows, slots, drawn.gather(1, keep))
        if sure is not None:
            fill.sure_BT[rows[:, None], slots] = sure.gather(1, keep)
        left_RN = left_RN.gather(1, rest)


def _remask(fill: _Fill, made_BT: Tensor) -> None:
    """Draw the least sure of the generated tokens again, for some rounds; given ones stay."""
    settings = fill.settings
    made_B = made_BT.sum(1)
    for rows in _alike(made_B, batch_size=fill.guide.batch_size):
        total = int(made_B[rows[0]])
        if not total:
            continue
        count = max(1, round(settings.remask_share * total))
        # As hot as when so many were left.
        heat = temperatures(settings, [total - count, count])[-1]
        for _ in range(settings.remask_rounds):
            sure = fill.sure_BT[rows].masked_fill(~made_BT[rows], math.inf)
            slots = sure.argsort(dim=1, stable=True)[:, :count].sort(1).values
            fill.given_BL[rows[:, None], slots + fill.span.start] = False
            logits = fill.ask(rows, slots, count, 1.0)
            drawn = draw(logits, heat, settings.top_k, settings.top_p, fill.own(rows))
            fill.write(rows, slots, drawn)
            fill.sure_BT[rows[:, None], slots] = confidence(logits, drawn)


def _fill_parallel(fill: _Fill) -> None:
    """Fill a grid or a sound."""
    made_BT = ~fill.given_BL[:, fill.span]
    slots, books = torch.arange(fill.modality.length), num_codebooks(fill.modality)
    levels = [slots]
    if fill.settings.codebooks == "levels":
        levels = [slots[book::books] for book in range(books)]
    for level, steps in zip(levels, share_steps(fill.settings.steps, len(levels)), strict=True):
        _fill_level(fill, level, steps)
    if fill.settings.remask_rounds:
        _remask(fill, made_BT)


def _write_text(fill: _Fill) -> None:
    """Write a text, one token a step, each row until its end token.

    A gap before given words is filled to its last slot: the text does not end there.
    """
    settings, length = fill.settings, fill.modality.length
    for slot in range(length):
        known_BT = fill.given_BL[:, fill.span]
        is_end_BT = known_BT & (fill.ids_BL[:, fill.span] == TEXT_END)
        lacking = ~known_BT[:, slot] & ~is_end_BT[:, :slot].any(1)
        if not bool(lacking.any()):
            continue
        goes_on_B = known_BT[:, slot + 1 :].any(1)
        for rows in lacking.nonzero()[:, 0].split(fill.guide.batch_size):
            slots = torch.full((len(rows), 1), slot)
            if slot == length - 1:
                fill.write(rows, slots, torch.full_like(slots, TEXT_END))
                continue
            logits = fill.ask(rows, slots, 1, 1.0)
            logits[goes_on_B[rows], :, TEXT_END] = -math.inf
            heat, own = settings.temperature, fill.own(rows)
            fill.write(rows, slots, draw(logits, heat, settings.top_k, settings.top_p, own))


def _require_given(step: ChainStep, tokens: TokenSequence, given_BL: Tensor) -> None:
    """Refuse a condition of which no row has a token."""
    sources = {s for c in step.conditions or () for s in c.sources} | {*step.negative}
    for source in sorted(sources):
        if not bool(given_BL[:, tokens.slices[tokens.index(source)]].any()):
            raise UserError(
                f"{source!r} is a condition of {step.target!r}, but nothing is given of it; give "
                "it, or generate it in an earlier step of the chain"
            )


def generate(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    given_BL: Tensor,
    targets: Sequence[str | ChainStep],
    config: GenerateConfig,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Fill ``targets`` in order; each finished one is a condition of the next.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        ids_BL: int64 ids of a batch; only given slots are read.
        given_BL: bool, which slots are given. A target may be given in part, in any slots.
        targets: Modalities to fill; a name alone takes all that is given as its condition.
        config: How they are drawn. Steps above the tokens that a row lacks are cut to these.
        seeds: One seed a row.

    Returns:
        New (ids_BL, given_BL): every slot of every target is filled (a text: up to its end token),
        every slot given before has its old id.

    Raises:
        UserError: A target or condition that the model does not have, or of which nothing is given.
        ValueError: Not one seed a row.
    """
    if len(seeds) != len(ids_BL):
        raise ValueError(f"{len(seeds)} seeds for {len(ids_BL)} rows")
    chain = [t if isinstance(t, ChainStep) else ChainStep(target=t) for t in targets]
    chosen = [step.settings or config.for_modality(step.target) for step in chain]
    # All guides first: a mistake in the last step is told before the first one is computed.
    guides = [
        Guide(model, tokens, step, settings.guidance, config.batch_size)
        for step, settings in zip(chain, chosen, strict=True)
    ]
    ids_BL, given_BL = ids_BL.clone(), given_BL.clone()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for step, settings, guide in zip(chain, chosen, guides, strict=True):
        _require_given(step, tokens, given_BL)
        modality = tokens.modalities[guide.target]
        fill = _Fill(
            guide=guide,
            modality=modality,
            span=tokens.slices[guide.target],
            settings=settings,
            ids_BL=ids_BL,
            given_BL=given_BL,
            generators=generators,
            sure_BT=torch.zeros(len(ids_BL), modality.length),
        )
        (_write_text if modality.is_text else _fill_parallel)(fill)
    return ids_BL, given_BL
