"""Generation, ids to ids: fill one modality after another from whatever is given.

Grids and sounds are filled in a few parallel steps by MaskGIT (arXiv:2202.04200): predict all
unknown tokens, draw them, keep the most confident ones, with Gumbel noise on the confidence that
fades out.
Texts are written from left to right until their end token. Given tokens are never touched.

Every sample has its own random generator: sample i of a batch does not depend on the others.

Shapes: B batch, L all token slots of a clip, T slots asked for, V vocabulary of one modality,
R rows of the batch that are alike.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nano4m.batch import TokenSequence
from nano4m.config import GenerateConfig
from nano4m.errors import UserError, nearest
from nano4m.modalities import TEXT_END
from nano4m.model.fourm import FourM


@torch.inference_mode()
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
    device = model.device
    index = int(tokens.modality_L[asked_BT[0, 0]])
    out = torch.empty(*asked_BT.shape, tokens.modalities[index].vocab_size)
    counts = given_BL.sum(1)
    for count in counts.unique().tolist():
        # Rows with equally many given tokens make a dense batch.
        for rows in (counts == count).nonzero()[:, 0].split(batch_size):
            slots_BN = given_BL[rows].nonzero()[:, 1].view(len(rows), count)
            context = model.encode(
                ids_BL[rows].gather(1, slots_BN).to(device),
                tokens.modality_L[slots_BN].to(device),
                tokens.coords_L2[slots_BN].to(device),
            )
            asked = asked_BT[rows]
            states = model.decode(
                context, tokens.modality_L[asked].to(device), tokens.coords_L2[asked].to(device)
            )
            out[rows] = model.logits(states, index).float().log_softmax(-1).cpu()
    return out


def _uniform(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Draw numbers in (0, 1), float32 (R, *shape), each row from its own generator."""
    rows = [torch.rand(*shape, generator=generator) for generator in generators]
    return torch.stack(rows).clamp_min(1e-20)


def _draw(
    log_p_RTV: Tensor, config: GenerateConfig, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw one id a slot with temperature, then top-p, int64 (R, T), by the Gumbel-max trick."""
    if config.temperature == 0:
        return log_p_RTV.argmax(-1)
    scaled = log_p_RTV / config.temperature
    if config.top_p < 1:
        ordered, order = scaled.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= config.top_p
        scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -math.inf)
    noise = _uniform(scaled.shape[1:], generators)
    return (scaled - (-noise.log()).log()).argmax(-1)


def _fill_parallel(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    given_BL: Tensor,
    span: slice,
    config: GenerateConfig,
    generators: Sequence[torch.Generator],
) -> None:
    """Fill the slots of ``span`` in place by MaskGIT."""
    unknown_at_start = (~given_BL[:, span]).sum(1)
    # A modality of 3 tokens needs 3 steps at most; rows may differ in what they lack.
    num_steps = min(config.steps, int(unknown_at_start.max()))
    for step in range(num_steps):
        left_B = (unknown_at_start * math.cos(math.pi / 2 * (step + 1) / num_steps)).long()
        unknown_BT = ~given_BL[:, span]
        noise = config.noise * (1 - (step + 1) / num_steps)
        before = given_BL.clone()
        for count in unknown_BT.sum(1).unique().tolist():
            if not count:
                continue
            rows = (unknown_BT.sum(1) == count).nonzero()[:, 0]
            asked = unknown_BT[rows].nonzero()[:, 1].view(len(rows), count) + span.start
            predicted = log_probs(
                model, tokens, ids_BL[rows], before[rows], asked, config.batch_size
            )
            own = [generators[row] for row in rows.tolist()]
            drawn = _draw(predicted, config, own)
            score = predicted.gather(2, drawn[..., None])[..., 0]
            score = score - noise * (-_uniform(score.shape[1:], own).log()).log()
            # Rows that lack equally many tokens now may have lacked different numbers at the start.
            for number in left_B[rows].unique().tolist():
                same = (left_B[rows] == number).nonzero()[:, 0]
                keep = score[same].topk(max(1, count - number)).indices
                slots, ids = asked[same].gather(1, keep), drawn[same].gather(1, keep)
                ids_BL[rows[same, None], slots] = ids
                given_BL[rows[same, None], slots] = True


def _write_text(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    given_BL: Tensor,
    span: slice,
    config: GenerateConfig,
    generators: Sequence[torch.Generator],
) -> None:
    """Write the text of ``span`` in place, one token a step, each row until its end token."""
    for slot in range(span.start, span.stop):
        written = given_BL[:, span]
        ended = (written & (ids_BL[:, span] == TEXT_END)).any(1)
        rows = (~given_BL[:, slot] & ~ended).nonzero()[:, 0]
        if not len(rows):
            continue
        asked = torch.full((len(rows), 1), slot)
        predicted = log_probs(model, tokens, ids_BL[rows], given_BL[rows], asked, config.batch_size)
        drawn = _draw(predicted, config, [generators[row] for row in rows.tolist()])[:, 0]
        ids_BL[rows, slot] = TEXT_END if slot == span.stop - 1 else drawn
        given_BL[rows, slot] = True


def generate(
    model: FourM,
    tokens: TokenSequence,
    ids_BL: Tensor,
    given_BL: Tensor,
    targets: Sequence[str],
    config: GenerateConfig,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Fill ``targets`` in order; each finished one is a condition of the next.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        ids_BL: int64 ids of a batch; only given slots are read.
        given_BL: bool, which slots are given. A target may be given in part.
        targets: Names of modalities to fill.
        config: Steps, temperature, noise, top-p.
        seeds: One seed a row.

    Returns:
        New (ids_BL, given_BL): every slot of every target is filled (a text: up to its end token),
        every slot given before has its old id.

    Raises:
        UserError: A target that the model does not have.
        ValueError: Not one seed a row.
    """
    if len(seeds) != len(ids_BL):
        raise ValueError(f"{len(seeds)} seeds for {len(ids_BL)} rows")
    names = [m.name for m in tokens.modalities]
    for name in targets:
        if name not in names:
            raise UserError(f"this model has no modality {name!r}; {nearest(name, names)}")
    ids_BL, given_BL = ids_BL.clone(), given_BL.clone()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for name in targets:
        index = tokens.index(name)
        fill = _write_text if tokens.modalities[index].is_text else _fill_parallel
        fill(model, tokens, ids_BL, given_BL, tokens.slices[index], config, generators)
    return ids_BL, given_BL
