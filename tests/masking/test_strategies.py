"""What each masking strategy draws, compared with independent allocators and with the sampler."""

import math

import numpy as np
import pytest
import torch
from groups import OTHER, TOKENS, only, runs, tiny_rows
from scipy import stats

from nano4m.config.generation import Order
from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import GUIDED, PRESETS
from nano4m.errors import UserError
from nano4m.generation.decoding_order import slot_order
from nano4m.masking import STRATEGIES, draw_masks
from nano4m.masking.check import check_masking
from nano4m.tokens.batch import TokenSequence

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
    config = only(
        "dirichlet", alphas=alphas, input_alphas=factors, min_inputs=total_in,
        max_inputs=total_in, min_targets=total_out, max_targets=total_out, next_token=0.0,
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
    config = only(
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
    config = only(
        "dirichlet", input_limits=limits, target_limits=asked_limits, min_targets=3, alphas=(0.05,),
        next_token=0.0,
    )  # fmt: skip
    check_masking(config, TOKENS)
    totals = set()
    for seed in range(300):
        counts = torch.tensor([[4, 4, 6, 8, n] for n in (2, 3, 6, 6)])
        draw = torch.Generator().manual_seed(seed)
        inputs, targets, *_ = STRATEGIES["dirichlet"](counts, TOKENS, config, draw)
        assert (inputs + targets <= counts).all()
        for found, by_name in ((inputs, limits), (targets, asked_limits)):
            assert len(set(found.sum(1).tolist())) == 1
            for name, (low, high) in by_name.items():
                column = found[:, TOKENS.index(name)]
                assert low <= column.min() and column.max() <= high
        totals.add(int(inputs.sum(1)[0]))
    assert min(totals) == 2 and max(totals) >= 12


def test_a_clip_that_is_too_short_is_refused_with_the_numbers():
    _, valid = tiny_rows(4)
    config = only("dirichlet", min_inputs=40)
    with pytest.raises(UserError, match=r"cannot give 40 and be asked for 1; lower masking"):
        list(draw_masks(valid, TOKENS, config, torch.Generator()))


# -- spans -------------------------------------------------------------------------------------


def test_spans_lie_before_between_and_after_and_need_no_sound():
    c = OTHER.index("sound")
    span = OTHER.slices[c]
    valid = torch.ones(8, OTHER.length, dtype=torch.bool)
    seen = {"before": 0, "after": 0, "between": 0, "alone": 0, "several": 0}
    config = only("span", input_limits={"sound": (6, 12)}, target_limits={"sound": (3, 9)})
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
        config = only("reference_span", input_limits={"sound": (3, 3)},
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
    config = only("inference_aligned", decode_steps=(3, 5), codebooks="together")
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
            prefixes = [int(p.inputs_BC[0, target]) for p in (plan, *plan.more)]
            assert len(set(prefixes)) == len(prefixes) == config.prefixes_of(counts[target])
            for row in plan.more:
                assert row.targets_BC[0].sum() == row.targets_BC[0, target] == 1
                differs = (row.inputs_BC != plan.inputs_BC).any(0)
                assert differs.nonzero()[:, 0].tolist() == [target]
        else:
            assert (plan.inputs_BC + plan.targets_BC)[0, target] == counts[target]
            seen[target].add(int(plan.targets_BC[0, target]))
    assert seen == allowed


@pytest.mark.parametrize("name", ["inference_aligned", "any_to_any"])
def test_every_prefix_of_a_caption_is_asked_for_equally_often(name):
    valid = torch.ones(1, OTHER.length, dtype=torch.bool)
    c = OTHER.index("caption")
    count = OTHER.modalities[c].length
    config = only(name, prefixes=3, group_size=1)
    asked = np.zeros(count)
    for seed in range(3000):
        draw = torch.Generator().manual_seed(seed)
        for _, given, wanted in draw_masks(valid, OTHER, config, draw):
            if wanted[:, OTHER.slices[c]].any():
                asked[int(given[0, OTHER.slices[c]].sum())] += 1
    assert asked.min() > 100 and stats.chisquare(asked).pvalue > 1e-4, asked


def test_longer_captions_are_asked_for_after_more_prefixes():
    assert [MaskingConfig().prefixes_of(n) for n in (1, 4, 8, 16, 64)] == [1, 1, 2, 4, 4]
    assert MaskingConfig(prefixes=3).prefixes_of(64) == 3


def test_levels_are_decoded_one_after_the_other():
    valid = torch.ones(4, OTHER.length, dtype=torch.bool)
    c = OTHER.index("sound")
    span, (frames, books) = OTHER.slices[c], OTHER.units[c]
    config = only("inference_aligned", decode_steps=(3, 5), codebooks="levels")
    allowed = {n for k in (3, 4, 5) for n in sampler_counts(frames, k)}
    seen: dict[int, set[int]] = {level: set() for level in range(books)}
    for seed in range(600):
        draw = torch.Generator().manual_seed(seed)
        for _, given, asked in draw_masks(valid, OTHER, config, draw):
            for a, b in zip(given[:, span], asked[:, span], strict=True):
                by_level = b.view(frames, books).sum(0)
                if not b.any() or a.all():
                    continue
                (level,) = by_level.nonzero()[:, 0].tolist()
                known = a.view(frames, books).sum(0).tolist()
                assert known[:level] == [frames] * level and not any(known[level + 1 :])
                assert known[level] + by_level[level] == frames
                seen[level].add(int(by_level[level]))
    assert all(own == allowed for own in seen.values())


@pytest.mark.parametrize("codebooks", ["levels", "together"])
@pytest.mark.parametrize("order", ["spread", "raster"])
@pytest.mark.parametrize("name", ["inference_aligned", "any_to_any"])
def test_known_tokens_come_first_in_the_order_of_decoding(order, codebooks, name):
    config = only(name, decode_orders=(order,), codebooks=codebooks, levels_together=0.0)
    valid = torch.ones(4, OTHER.length, dtype=torch.bool)
    checked = 0
    for c, kind in ((0, "grid"), (1, "sound")):
        span, modality = OTHER.slices[c], OTHER.modalities[c]
        books = OTHER.units[c][1] if kind == "sound" and codebooks == "levels" else 1
        for seed in range(150):
            draw = torch.Generator().manual_seed(seed)
            for _, given, asked in draw_masks(valid, OTHER, config, draw):
                for a, b in zip(given[:, span], asked[:, span], strict=True):
                    if not b.any() or not a.any():
                        continue
                    level = int(b.long().argmax()) % books
                    slots = torch.arange(modality.length)[level::books]
                    wanted = slot_order(DECODED[order], modality, slots[None], [])[0]
                    # Sounds that are decoded together go frame by frame, their codebooks at random.
                    unit = OTHER.coords_L2[span][wanted, 0] if kind == "sound" else wanted
                    known = a[wanted]
                    first_unknown = int((~known).long().argmax())
                    later = unit[first_unknown:] != unit[first_unknown]
                    assert not known[first_unknown:][later].any()
                    checked += 1
    assert checked > 50


DECODED: dict[str, Order] = {"spread": "halton", "raster": "raster"}
"""Names of the orders in generation."""


@pytest.mark.parametrize("codebooks", ["levels", "together"])
@pytest.mark.parametrize("order", ["confidence", "random", "halton", "raster"])
def test_masks_follow_the_settings_of_generation(order, codebooks):
    farm = PRESETS["farm"]
    generate = GUIDED.model_copy(update={"order": order, "codebooks": codebooks})
    masks = farm.model_copy(update={"generate": generate}).masks
    assert masks.codebooks == codebooks
    assert masks.orders == ({"halton": "spread", "raster": "raster"}.get(order, "random"),)
    chosen = farm.masking.model_copy(update={"decode_orders": ("raster",), "codebooks": "levels"})
    masks = farm.model_copy(update={"generate": generate, "masking": chosen}).masks
    assert masks.orders == ("raster",) and masks.codebooks == "levels"


def test_codebooks_are_masked_as_the_modality_that_has_them_is_generated():
    farm = PRESETS["farm"]
    own = {"modalities": {"sound": {"codebooks": "together"}}}
    generate = GUIDED.model_copy(update=own)
    assert generate.for_modality("rgb").codebooks == "levels"
    assert farm.model_copy(update={"generate": generate}).masks.codebooks == "together"
    own = {"codebooks": "together", "modalities": {"sound": {"codebooks": "levels"}}}
    generate = GUIDED.model_copy(update=own)
    assert farm.model_copy(update={"generate": generate}).masks.codebooks == "levels"


# -- continuation ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["suffix", "infill"])
def test_the_part_that_is_asked_for_is_whole_rows_and_frames(name):
    config = only(name, all_targets_whole=1.0, next_token=0.0, codebooks="together")
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
