"""Masking: properties over many seeds, planted faults, and parity with independent allocators."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from conftest import tiny_modalities, tiny_table
from nano4m.config.masking import STRATEGY_NAMES
from nano4m.config.run import MaskingConfig
from nano4m.errors import UserError
from nano4m.masking import STRATEGIES, draw_masks, mask, place
from nano4m.masking.check import check_masking
from nano4m.masking.plan import Plan, join
from nano4m.modalities import MODALITIES
from nano4m.tokens.batch import TokenSequence, pack

TOKENS = TokenSequence(tiny_modalities())
# Other lengths, other strides, a sound in the middle, fewer modalities.
OTHER = TokenSequence(
    tuple(
        MODALITIES[name].with_tokens(*size)
        for name, size in {
            "rgb": ((4, 5), 11),
            "sound": ((7, 3), 12),
            "caption": ((9,), 13),
        }.items()
    )
)


def _batch(rows=16, seed=0):
    table = tiny_table(seed=seed)
    ids, valid = table.gather(np.arange(rows), None)
    return torch.from_numpy(ids), torch.from_numpy(valid)


def _config(name: str, **more) -> MaskingConfig:
    return MaskingConfig(**{n: float(n == name) for n in STRATEGIES} | {"group_size": 8} | more)


def _valid(sequence: TokenSequence, seed: int) -> Tensor:
    """Four rows of two kinds: long and one-word captions, no sound, no picture."""
    kinds = []
    for length, absent in ((6, None), (1, None), (3, "sound"), (6, "rgb")):
        row = torch.ones(sequence.length, dtype=torch.bool)
        for m, span in zip(sequence.modalities, sequence.slices, strict=True):
            row[span] &= torch.arange(m.length) < length if m.is_text else m.name != absent
        kinds.append(row)
    return torch.stack([kinds[i] for i in (seed % 4, seed % 4, seed % 3, (seed + 1) % 4)])


def runs(slots: Tensor) -> list[tuple[int, int]]:
    """Return first and last of each run of consecutive True."""
    index = slots.nonzero()[:, 0].tolist()
    firsts = [i for i in index if i - 1 not in index]
    return list(zip(firsts, [i for i in index if i + 1 not in index], strict=True))


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


def all_faults(name: str, seeds: int, strategies=STRATEGIES, **settings) -> set[str]:
    """Return the faults of a strategy over many seeds, two layouts and odd clips."""
    found = set()
    for seed in range(seeds):
        sequence = (TOKENS, OTHER)[seed % 2]
        valid = _valid(sequence, seed // 2)
        draw = torch.Generator().manual_seed(seed)
        seen = torch.zeros(len(valid))
        for rows, given, asked in draw_masks(
            valid, sequence, _config(name, **settings), draw, strategies=strategies
        ):
            seen[rows] += 1
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
    ids, valid = _batch(4)
    draw = torch.Generator().manual_seed(0)
    _, given, asked = next(iter(draw_masks(valid, TOKENS, _config("dirichlet"), draw)))
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
        list(draw_masks(valid, TOKENS, _config("any_to_any"), draw, strategies=strategies))


def test_a_batch_holds_the_tokens_of_the_chosen_slots():
    _, valid = _batch()
    # Every id is its own slot number, so that a token tells where it comes from.
    slots = torch.arange(TOKENS.length).expand_as(valid).masked_fill(~valid, 999)
    for seed in range(50):
        for b in mask(slots, valid, TOKENS, MaskingConfig(), torch.Generator().manual_seed(seed)):
            assert (b.input_ids_BN != 999).all() and (b.target_ids_BM != 999).all()
            assert torch.equal(b.input_modality_BN, TOKENS.modality_L[b.input_ids_BN])
            assert torch.equal(b.target_coords_BM2, TOKENS.coords_L2[b.target_ids_BM])


def test_same_generator_same_batches():
    ids, valid = _batch()
    runs = [
        mask(ids, valid, TOKENS, MaskingConfig(group_size=4), torch.Generator().manual_seed(3))
        for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_place_takes_every_slot_of_a_grid_equally_often():
    _, valid = _batch(16)
    one = torch.zeros(16, 5, dtype=torch.int64)
    one[:, 2] = 1
    plan = Plan(one, torch.zeros_like(one))
    draw = torch.Generator().manual_seed(0)
    hits = sum(place(plan, valid, TOKENS, draw)[0].sum(0) for _ in range(600))
    share = hits[TOKENS.slices[2]] / hits.sum()
    assert hits[TOKENS.slices[2]].sum() == hits.sum()
    assert torch.allclose(share, torch.full_like(share, 1 / 6), atol=0.02)


# -- dirichlet ---------------------------------------------------------------------------------


def numpy_split(rng, total: int, alpha: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Split one total, one sample, one modality after another: an independent allocator."""
    share = rng.dirichlet(alpha)
    budget = np.zeros(len(room), dtype=int)
    while budget.sum() < total:
        missing = total - budget.sum()
        is_open = budget < room
        ideal = np.where(is_open, share + 1e-12, 0.0)
        ideal = ideal / ideal.sum() * missing
        extra = np.floor(ideal).astype(int)
        # Round up as many as are missing, each with its fraction's probability.
        order = rng.permutation(len(room))
        edges = np.floor(np.cumsum((ideal - extra)[order]) + rng.random() + 1e-9)
        extra[order] += np.diff(edges, prepend=0).astype(int)
        budget += np.minimum(extra, room - budget)
    return budget


@pytest.mark.parametrize(
    "alphas, factors, total_in, total_out",
    [
        ((1.0,), {}, 12, 5),
        ((0.01, 0.1, 1.0, 10.0), {}, 9, 9),
        ((1.0,), {"rgb": 6.0, "caption": 0.2}, 10, 3),
    ],
)
def test_marginal_budgets_equal_those_of_an_independent_allocator(
    alphas, factors, total_in, total_out
):
    draws = 5000
    counts = torch.tensor([[4, 4, 6, 8, 3]])
    config = _config(
        "dirichlet", alphas=alphas, input_alphas=factors, min_inputs=total_in,
        max_inputs=total_in, min_targets=total_out, max_targets=total_out,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(1)
    plan = STRATEGIES["dirichlet"](counts.expand(draws, -1), TOKENS, config, draw)
    rng = np.random.default_rng(2)
    names = [m.name for m in TOKENS.modalities]
    factor = np.array([factors.get(n, 1.0) for n in names])
    room = counts[0].numpy()
    expected = []
    for _ in range(draws):
        alpha = rng.choice(alphas)
        given = numpy_split(rng, total_in, alpha * factor, room)
        asked = numpy_split(rng, total_out, alpha * np.ones(5), room - given)
        expected.append((given, asked))
    for ours, side in ((plan.inputs_BC, 0), (plan.targets_BC, 1)):
        theirs = np.array([pair[side] for pair in expected])
        for c in range(5):
            cdf = [np.cumsum(np.bincount(x[:, c], minlength=9)) for x in (ours.numpy(), theirs)]
            assert np.abs(cdf[0] - cdf[1]).max() / draws < 0.04, (names[c], side)


def test_without_overflow_the_mean_budget_is_the_share_of_alpha():
    counts = torch.full((20_000, 5), 1000)
    config = _config(
        "dirichlet", alphas=(2.0,), input_alphas={"sound": 4.0}, min_inputs=40, max_inputs=40
    )
    draw = torch.Generator().manual_seed(0)
    plan = STRATEGIES["dirichlet"](counts, _long(1000), config, draw)
    mean = plan.inputs_BC.double().mean(0)
    assert torch.allclose(mean, torch.tensor([5.0, 5, 5, 20, 5]).double(), atol=0.15)


def _long(length: int) -> TokenSequence:
    return TokenSequence(
        tuple(
            m.with_tokens((length,) if m.is_text else (length, 1), m.vocab_size)
            for m in TOKENS.modalities
        )
    )


def test_limits_by_modality_hold_in_every_draw():
    limits = {"rgb": (2, 3), "sound": (0, 0)}
    asked_limits = {"caption": (1, 2), "rgb": (0, 0), "normals": (0, 2), "depth": (0, 1)}
    config = _config(
        "dirichlet", input_limits=limits, target_limits=asked_limits, min_targets=3, alphas=(0.05,)
    )
    check_masking(config, TOKENS)
    totals = set()
    for seed in range(300):
        counts = torch.tensor([[4, 4, 6, 8, n] for n in (2, 3, 6, 6)])
        draw = torch.Generator().manual_seed(seed)
        inputs, targets, _ = STRATEGIES["dirichlet"](counts, TOKENS, config, draw)
        assert (inputs + targets <= counts).all()
        for found, by_name in ((inputs, limits), (targets, asked_limits)):
            assert len(set(found.sum(1).tolist())) == 1
            for name, (low, high) in by_name.items():
                column = found[:, TOKENS.index(name)]
                assert low <= column.min() and column.max() <= high
        totals.add(int(inputs.sum(1)[0]))
    assert min(totals) == 2 and max(totals) >= 12


def test_a_clip_that_is_too_short_is_refused_with_the_numbers():
    _, valid = _batch(4)
    config = _config("dirichlet", min_inputs=40)
    with pytest.raises(UserError, match=r"cannot give 40 and be asked for 1; lower masking"):
        list(draw_masks(valid, TOKENS, config, torch.Generator()))


# -- spans -------------------------------------------------------------------------------------


def test_spans_lie_before_between_and_after_and_need_no_sound():
    c = OTHER.index("sound")
    span = OTHER.slices[c]
    valid = torch.ones(8, OTHER.length, dtype=torch.bool)
    seen = {"before": 0, "after": 0, "between": 0, "alone": 0, "several": 0}
    config = _config("span", input_limits={"sound": (6, 12)}, target_limits={"sound": (3, 9)})
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        for _, given, asked in draw_masks(valid, OTHER, config, draw):
            for a, b in zip(given[:, span], asked[:, span], strict=True):
                if not b.any():
                    continue
                first, last = runs(b)[0][0], runs(b)[-1][1]
                heard = a.nonzero()[:, 0].tolist()
                seen["alone"] += not heard
                seen["several"] += len(runs(b)) > 1
                if heard:
                    seen["before"] += last < heard[0]
                    seen["after"] += first > heard[-1]
                    seen["between"] += heard[0] < first and last < heard[-1]
    assert min(seen.values()) > 30, seen


def test_the_reference_span_starts_anywhere():
    c = OTHER.index("sound")
    valid = torch.ones(8, OTHER.length, dtype=torch.bool)
    starts = torch.zeros(7)
    for seed in range(300):
        draw = torch.Generator().manual_seed(seed)
        config = _config("reference_span", input_limits={"sound": (3, 3)},
                         target_limits={"sound": (3, 3)})  # fmt: skip
        for _, given, asked in draw_masks(valid, OTHER, config, draw):
            sound = (given | asked)[:, OTHER.slices[c]]
            starts += torch.bincount(sound.long().argmax(1) // 3, minlength=7)
    assert starts[6] == 0
    assert torch.allclose(starts[:6] / starts.sum(), torch.full((6,), 1 / 6), atol=0.03)


# -- what the sampler sees ---------------------------------------------------------------------


def sampler_counts(total: int, steps: int) -> list[int]:
    """Follow the sampler's own loop: unknown tokens before each of its steps."""
    unknown, seen = total, []
    for step in range(steps):
        seen.append(unknown)
        left = int(total * math.cos(math.pi / 2 * (step + 1) / steps))
        unknown -= max(1, unknown - left)
    assert unknown == 0
    return seen


def test_inference_aligned_masks_are_those_of_sampling_steps():
    valid = torch.ones(4, OTHER.length, dtype=torch.bool)
    counts = OTHER.count(valid)[0].tolist()
    config = _config("inference_aligned", decode_steps=(3, 5))
    allowed = {c: {n for k in (3, 4, 5) for n in sampler_counts(counts[c], k)} for c in (0, 1)}
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for seed in range(400):
        draw = torch.Generator().manual_seed(seed)
        plan = STRATEGIES["inference_aligned"](OTHER.count(valid), OTHER, config, draw)
        (target,) = plan.targets_BC[0].nonzero()[:, 0].tolist()
        others = [int(n) for c, n in enumerate(plan.inputs_BC[0]) if c != target]
        assert all(n in (0, counts[c]) for n, c in zip(others, {0, 1, 2} - {target}, strict=True))
        if OTHER.modalities[target].is_text:
            assert plan.targets_BC[0, target] == 1
        else:
            assert (plan.inputs_BC + plan.targets_BC)[0, target] == counts[target]
            seen[target].add(int(plan.targets_BC[0, target]))
    assert seen == allowed


@pytest.mark.parametrize("order", ["spread", "coarse"])
def test_orders_of_decoding(order):
    config = _config("inference_aligned", decode_orders=(order,))
    valid = torch.ones(4, OTHER.length, dtype=torch.bool)
    span, sound = OTHER.slices[1], OTHER.coords_L2[OTHER.slices[1]]
    checked = 0
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        for _, given, asked in draw_masks(valid, OTHER, config, draw):
            for a, b in zip(given[:, span], asked[:, span], strict=True):
                if not b.any() or not a.any():
                    continue
                checked += 1
                if order == "coarse":
                    assert sound[a, 1].max() <= sound[b, 1].min()
                else:
                    # Whole frames, but for the last one.
                    split = set(sound[a, 0].tolist()) & set(sound[b, 0].tolist())
                    assert len(split) <= 1
                    for frame in split:
                        inside = sound[:, 0] == frame
                        assert sound[a & inside, 1].max() < sound[b & inside, 1].min()
    assert checked > 50


# -- continuation ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["suffix", "infill"])
def test_the_part_that_is_asked_for_is_whole_rows_and_frames(name):
    config = _config(name, all_targets_whole=1.0, next_token=0.0)
    valid = torch.ones(4, TOKENS.length, dtype=torch.bool)
    targets: set[str] = set()
    for seed in range(300):
        draw = torch.Generator().manual_seed(seed)
        for _, given, asked in draw_masks(valid, TOKENS, config, draw):
            (c,) = asked[0][:, None].logical_and(
                TOKENS.modality_L[:, None] == torch.arange(5)
            ).any(0).nonzero()[:, 0].tolist()  # fmt: skip
            span, size = TOKENS.slices[c], TOKENS.units[c][1]
            ((first, last),) = runs(asked[0, span])
            assert (given[:, span] | asked[:, span]).all() and first > 0
            assert first % size == 0 and (last + 1) % size == 0
            is_end = last == TOKENS.modalities[c].length - 1
            assert is_end == (name == "suffix")
            targets.add(TOKENS.modalities[c].name)
            for other, total in enumerate(TOKENS.count(given)[0].tolist()):
                assert other == c or total in (0, TOKENS.modalities[other].length)
    assert len(targets) == (5 if name == "suffix" else 1)


# -- configuration -----------------------------------------------------------------------------


def test_weights_follow_progress_and_the_strategies_have_the_names_of_their_weights():
    assert tuple(STRATEGIES) == STRATEGY_NAMES
    config = _config("dirichlet", end_weights={"suffix": 3.0, "dirichlet": 0.0})
    weights = dict(zip(STRATEGY_NAMES, config.weights(0.25), strict=True))
    assert weights["dirichlet"] == 0.75 and weights["suffix"] == 0.75
    assert config.uses("suffix") and config.uses("dirichlet") and not config.uses("infill")
    _, valid = _batch()

    def plans(progress):
        names = []

        def noted(name):
            return lambda *a: names.append(name) or STRATEGIES[name](*a)

        noting = {name: noted(name) for name in STRATEGIES}
        for seed in range(60):
            draw = torch.Generator().manual_seed(seed)
            list(draw_masks(valid, TOKENS, config, draw, progress, noting))
        return set(names)

    assert plans(0.0) == {"dirichlet"} and plans(1.0) == {"suffix"}
    assert plans(0.5) == {"dirichlet", "suffix"}
    with pytest.raises(ValueError, match="progress 1.5"):
        plans(1.5)


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict.fromkeys(STRATEGY_NAMES, 0.0), "every strategy has weight 0; give one of any_to_any"),
        ({"end_weights": dict.fromkeys(STRATEGY_NAMES, 0.0)}, "weight 0 at the end"),
        ({"end_weights": {"dirichlett": 1.0}}, "did you mean 'dirichlet'"),
        ({"any_to_any": -1.0}, "greater than or equal to 0"),
        ({"alphas": ()}, "alphas is empty"),
        ({"alphas": (1.0, 0.0)}, "must be positive numbers"),
        ({"input_alphas": {"sound": -1.0}}, "input_alphas"),
        ({"min_inputs": 9, "max_inputs": 8}, "min_inputs 9 is above max_inputs 8"),
        ({"min_targets": 9, "max_targets": 8}, "min_targets 9 is above max_targets 8"),
        ({"input_limits": {"sound": (4, 3)}}, "input_limits.sound 4 3"),
        ({"decode_steps": (0, 3)}, "decode_steps 0 3"),
        ({"decode_orders": ()}, "decode_orders is empty"),
        ({"num_inputs_weights": (0.0, 0.0)}, "every number of sources has weight 0"),
        ({"group_size": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        MaskingConfig(**settings)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"input_alphas": {"sond": 2.0}}, r"input_alphas.sond: no such .* did you mean 'sound'"),
        ({"target_limits": {"audio": (0, 2)}}, "masking.target_limits.audio"),
        ({"max_inputs": 28}, r"max_inputs 28: .* can have 27"),
        ({"max_targets": 29}, r"max_targets 29: .* can have 28"),
        ({"input_limits": {"sound": (0, 9)}}, "at most 8 tokens"),
        ({"input_limits": {"rgb": (3, 4)}, "target_limits": {"rgb": (2, 4)}}, "at least 5"),
        ({"input_limits": {"rgb": (4, 4)}, "max_inputs": 3}, "max_inputs 3"),
        ({"min_inputs": 20, "min_targets": 4}, "shortest clip holds 23"),
        ({"min_inputs": 14, "min_targets": 4, "span": 1.0}, "holds 15 tokens beside its sounds"),
        ({"reference_span": 1.0, "min_targets": 14}, "holds 15 tokens beside its sounds"),
        ({"input_limits": {"sound": (1, 1)}, "span": 1.0}, "whole frames of 2"),
        ({"num_inputs_weights": (0.0,) * 5 + (1.0,)}, "5 modalities allow 0 to 4 sources"),
    ],
)
def test_settings_that_the_modalities_cannot_meet_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        check_masking(MaskingConfig(**settings), TOKENS)


def test_strategies_that_need_what_is_not_there_are_refused():
    grid, text = (TOKENS.modalities[i] for i in (0, 4))
    with pytest.raises(UserError, match="masking.span 1.0: needs a modality of layout codes"):
        check_masking(_config("span"), TokenSequence((grid, text)))
    with pytest.raises(UserError, match="masking.infill 1.0: no modality has three rows"):
        check_masking(_config("infill"), TokenSequence((grid, text)))
    one = (text.with_tokens((1,), 5), grid.with_tokens((1, 4), 5))
    with pytest.raises(UserError, match="masking.suffix 1.0: no modality has two rows"):
        check_masking(_config("suffix"), TokenSequence(one))
    for name in STRATEGIES:
        check_masking(_config(name), TOKENS)


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
