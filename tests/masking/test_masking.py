"""What holds for every masking strategy: properties over many seeds, and planted faults."""

from collections.abc import Callable

import pytest
import torch
from groups import OTHER, TOKENS, only, runs, tiny_rows
from torch import Tensor

from nano4m.config.masking import MaskingConfig
from nano4m.masking import STRATEGIES, draw_masks, mask, place
from nano4m.masking.plan import Plan, join
from nano4m.tokens.batch import TokenSequence, pack


def _valid(sequence: TokenSequence, seed: int) -> Tensor:
    """Four rows of two kinds: long and one-word captions, no sound, no picture."""
    kinds = []
    for length, absent in ((6, None), (1, None), (3, "sound"), (6, "rgb")):
        row = torch.ones(sequence.length, dtype=torch.bool)
        for m, span in zip(sequence.modalities, sequence.slices, strict=True):
            row[span] &= torch.arange(m.length) < length if m.is_text else m.name != absent
        kinds.append(row)
    return torch.stack([kinds[i] for i in (seed % 4, seed % 4, seed % 3, (seed + 1) % 4)])


def faults(given: Tensor, asked: Tensor, valid: Tensor, sequence: TokenSequence) -> set[str]:
    """Return what is wrong with the masks of a group; must be nothing for every strategy."""
    found = set()
    if (given & asked).any():
        found.add("a target is given")
    if ((given | asked) & ~valid).any():
        found.add("padding is used")
    if not asked.any(1).all():
        found.add("nothing is asked for")
    if len(set(given.sum(1).tolist())) > 1 or len(set(asked.sum(1).tolist())) > 1:
        found.add("totals differ")
    for m, span in zip(sequence.modalities, sequence.slices, strict=True):
        if m.is_text:
            for a, b in zip(given[:, span], asked[:, span], strict=True):
                n, k = int(a.sum()), int(b.sum())
                if not a[:n].all() or not b[n : n + k].all():
                    found.add("a text is not read from left to right")
    return found


def sound_faults(given: Tensor, asked: Tensor, valid: Tensor, size: int, kind: str) -> set[str]:
    """Return what is wrong with the spans of one row of one sound, (T,) each."""
    found = set()
    used = [runs(given), runs(asked)]
    for first, last in used[0] + used[1]:
        if first % size or (last + 1) % size:
            found.add("a span is not whole frames")
    if kind == "span":
        if max(map(len, used)) > 3:
            found.add("too many spans")
        return found
    if len(used[0]) > 1 or len(used[1]) > 1:
        found.add("more than one span")
    if used[1] and used[0] and used[1][0][0] != used[0][0][1] + 1:
        found.add("the target does not follow at once")
    if not used[0] and asked.sum() > size:
        found.add("asked for without a beginning")
    if not used[0] and not used[1] and valid.any():
        found.add("no sound at all")
    return found


def _asks_one_word(asked: Tensor, sequence: TokenSequence) -> bool:
    """Whether the only target of every row is a token of a text: rows that clips may fill twice."""
    return bool((asked.sum(1) == 1).all() and (asked & sequence.is_text_L).any(1).all())


def all_faults(name: str, seeds: int, strategies=STRATEGIES, **settings) -> set[str]:
    """Return the faults of a strategy over many seeds, two layouts and odd clips."""
    found = set()
    for seed in range(seeds):
        sequence = (TOKENS, OTHER)[seed % 2]
        valid = _valid(sequence, seed // 2)
        draw = torch.Generator().manual_seed(seed)
        seen = torch.zeros(len(valid))
        for rows, given, asked in draw_masks(
            valid, sequence, only(name, **settings), draw, strategies=strategies
        ):
            first = seen[rows] == 0
            seen[rows] = 1
            if not first.all() and not (first.sum() == 0 and _asks_one_word(asked, sequence)):
                found.add("a sample is lost or doubled")
            found |= faults(given, asked, valid[rows], sequence)
            if "span" in name:
                c = sequence.index("sound")
                span, size = sequence.slices[c], sequence.units[c][1]
                for parts in zip(given, asked, valid[rows], strict=True):
                    found |= sound_faults(*(p[span] for p in parts), size, name)
        if (seen != 1).any():
            found.add("a sample is lost or doubled")
    return found


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_draw_is_dense_disjoint_and_valid(name):
    assert not all_faults(name, 1000)


def _with(name: str, change: Callable[[Plan, Tensor, TokenSequence], Plan]):
    """Return the strategies with one of them broken."""

    def broken(counts, sequence, config, generator):
        return change(STRATEGIES[name](counts, sequence, config, generator), counts, sequence)

    return STRATEGIES | {name: broken}


def _late(plan: Plan, counts: Tensor, sequence: TokenSequence) -> Plan:
    """Start every target run one frame late."""
    priority = plan.priority_BL.clone()
    c = sequence.index("sound")
    span, (frames, size) = sequence.slices[c], sequence.units[c]
    for row in range(len(priority)):
        first_target = int(plan.inputs_BC[row, c]) // size
        order = priority[row, span]
        order[order == first_target] = frames + 1
    return plan._replace(priority_BL=priority)


def _by_one_token(plan: Plan, counts: Tensor, sequence: TokenSequence) -> Plan:
    return plan._replace(priority_BL=plan.priority_BL.roll(1, 1))


def _lost(plan: Plan, counts: Tensor, sequence: TokenSequence) -> Plan:
    """Clamp the budget of a modality instead of handing its overflow on."""
    inputs = plan.inputs_BC.clone()
    inputs[:, 0] = inputs[:, 0].clamp_max(1)
    return plan._replace(inputs_BC=inputs)


def _grasping(plan: Plan, counts: Tensor, sequence: TokenSequence) -> Plan:
    return plan._replace(targets_BC=plan.targets_BC + 1)


@pytest.mark.parametrize(
    "name, change, fault",
    [
        ("reference_span", _late, "the target does not follow at once"),
        ("reference_span", _by_one_token, "a span is not whole frames"),
        ("span", _by_one_token, "a span is not whole frames"),
        ("dirichlet", _lost, "totals differ"),
        ("span", _lost, "totals differ"),
    ],
)
def test_a_broken_strategy_is_caught(name, change, fault):
    assert fault in all_faults(name, 40, _with(name, change))


def test_a_leak_and_an_impossible_budget_are_caught():
    ids, valid = tiny_rows(4)
    draw = torch.Generator().manual_seed(0)
    _, given, asked = next(iter(draw_masks(valid, TOKENS, only("dirichlet"), draw)))
    leaked = given | asked
    assert "a target is given" in faults(leaked, asked, valid, TOKENS)
    assert not faults(given, asked, valid, TOKENS)
    with pytest.raises(ValueError, match="given and asked for at once"):
        pack(ids, leaked, asked, TOKENS)
    ragged = asked.clone()
    ragged[0, int(asked[0].nonzero()[0])] = False
    with pytest.raises(ValueError, match="different numbers of targets"):
        pack(ids, given, ragged, TOKENS)
    with pytest.raises(ValueError, match="nothing is asked for"):
        pack(ids, given, torch.zeros_like(valid), TOKENS)
    strategies = _with("any_to_any", _grasping)
    with pytest.raises(ValueError, match="more tokens of a modality than there are"):
        list(draw_masks(valid, TOKENS, only("any_to_any"), draw, strategies=strategies))


def test_a_batch_holds_the_tokens_of_the_chosen_slots():
    _, valid = tiny_rows()
    # Every id is its own slot number, so that a token tells where it comes from.
    slots = torch.arange(TOKENS.length).expand_as(valid).masked_fill(~valid, 999)
    for seed in range(50):
        for b in mask(slots, valid, TOKENS, MaskingConfig(), torch.Generator().manual_seed(seed)):
            assert (b.input_ids_BN != 999).all() and (b.target_ids_BM != 999).all()
            assert torch.equal(b.input_modality_BN, TOKENS.modality_L[b.input_ids_BN])
            assert torch.equal(b.target_coords_BM2, TOKENS.coords_L2[b.target_ids_BM])


def test_same_generator_same_batches():
    ids, valid = tiny_rows()
    runs = [
        mask(ids, valid, TOKENS, MaskingConfig(group_size=4), torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_place_takes_every_slot_of_a_grid_equally_often():
    _, valid = tiny_rows(16)
    one = torch.zeros(16, 5, dtype=torch.int64)
    one[:, 2] = 1
    plan = Plan(one, torch.zeros_like(one))
    draw = torch.Generator().manual_seed(0)
    hits = sum(place(plan, valid, TOKENS, draw)[0].sum(0) for _ in range(600))
    share = hits[TOKENS.slices[2]] / hits.sum()
    assert hits[TOKENS.slices[2]].sum() == hits.sum()
    assert torch.allclose(share, torch.full_like(share, 1 / 6), atol=0.02)


def test_joined_plans_keep_their_own_priorities():
    c = TOKENS.index("rgb")
    span, length = TOKENS.slices[c], TOKENS.modalities[c].length
    inputs, targets = torch.zeros(2, 16, len(TOKENS.modalities), dtype=torch.int64)
    inputs[:, c], targets[:, c] = 1, length - 1
    last_first = torch.zeros(16, TOKENS.length, dtype=torch.int64)
    last_first[:, span] = torch.arange(length).flip(0)
    plans = [Plan(inputs, targets, own) for own in (None, last_first, None)]
    valid = torch.ones(48, TOKENS.length, dtype=torch.bool)
    given, _ = place(join(plans), valid, TOKENS, torch.Generator().manual_seed(0))
    chosen = given[:, span].int().argmax(1)
    assert (chosen[16:32] == length - 1).all()
    assert len(chosen[:16].unique()) > 1 and len(chosen[32:].unique()) > 1
