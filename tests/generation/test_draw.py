"""Drawing, schedules and orders: sums and distributions against independent references."""

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import binom, chisquare

from conftest import tiny_modalities
from nano4m.config.generation import GenerateConfig, Sampling, onex, parse_overrides
from nano4m.config.presets import FARM
from nano4m.config.run import Config
from nano4m.generation.decoding_order import halton_ranks, radical_inverse, slot_order
from nano4m.generation.draw import (
    FreshNumbers,
    PredrawnNumbers,
    _most_outside,
    _pick,
    confidence,
    draw,
    draw_there,
    keep_top_k,
    truncate,
)
from nano4m.generation.token_schedules import (
    condition_weights,
    guidance_factor,
    share_steps,
    temperatures,
    token_counts,
)
from nano4m.modalities import MODALITIES

LAWS = ("cosine", "linear", "constant")


def seeded(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed)]


# -- schedules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", LAWS)
def test_every_step_fills_a_token_and_all_together_fill_all(schedule):
    for total, steps in itertools.product(range(65), range(1, 65)):
        counts = token_counts(total, steps, schedule)
        assert sum(counts) == total and len(counts) == min(total, steps)
        assert all(count >= 1 for count in counts)
        if schedule == "constant" and counts:
            assert max(counts) - min(counts) <= 1


def test_laws_by_hand():
    assert token_counts(8, 3, "cosine") == [2, 2, 4]  # 6.93 and 4 are left
    assert token_counts(12, 3, "linear") == [2, 4, 6]
    assert token_counts(12, 3, "constant") == [4, 4, 4]
    assert token_counts(5, 9, "cosine") == [1] * 5
    assert token_counts(0, 4, "cosine") == []
    for wrong in ((-1, 2, "cosine"), (4, 0, "cosine"), (4, 2, "cubic")):
        with pytest.raises(ValueError):
            token_counts(*wrong)


def test_temperatures_by_hand():
    counts = [2, 3, 5]
    assert temperatures(Sampling(temperature=0.7), counts) == [0.7] * 3
    falling = Sampling(temperature=2.0, temperature_schedule="linear")
    assert temperatures(falling, counts) == pytest.approx([2, 1.6, 1.0])
    found = temperatures(Sampling(temperature=6, temperature_schedule="onex:0.5:0.5"), counts)
    wanted = [0.5 + 5.5 * (x**-0.5 - 0.1) / 0.9 for x in (1, 1 + 99 * 0.2, 1 + 99 * 0.5)]
    assert found == pytest.approx(wanted) and found[0] == 6
    assert temperatures(falling, []) == []
    # A schedule that falls does not heat what is colder already.
    cold = Sampling(temperature=0.0, temperature_schedule="onex:0.5:0.5")
    assert temperatures(cold, counts) == [0, 0, 0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "onex:0.1:1", "onex:0.1:0.5"])
def test_temperatures_never_rise_and_stay_in_range(schedule):
    settings = Sampling(temperature=3.0, temperature_schedule=schedule)
    for total, steps in itertools.product((1, 7, 64), (1, 3, 64)):
        found = temperatures(settings, token_counts(total, steps, "cosine"))
        assert found[0] == pytest.approx(3.0) and min(found) > 0
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(found))


def test_guidance_rises_to_one_and_weights_to_themselves():
    for schedule in ("constant", "linear", "cosine"):
        found = [guidance_factor(schedule, step, 5) for step in range(5)]
        assert found[-1] == pytest.approx(1) and min(found) > 0 and found == sorted(found)
    assert guidance_factor("linear", 1, 4) == 0.5
    assert condition_weights([3.0], 1) == [3.0]
    assert condition_weights([3.0], 0.5) == pytest.approx([2.0])  # 1 + (3 - 1) / 2
    assert condition_weights([3.0, 1.0, -2.0], 0.5) == pytest.approx([1.875, 0.625, -1.25])
    assert condition_weights([0.5], 0.2) == pytest.approx([0.5])
    with pytest.raises(ValueError):
        guidance_factor("linear", 4, 4)


def test_codebooks_share_the_steps_coarse_first():
    assert share_steps(8, 1) == [8]
    assert share_steps(8, 3) == [3, 3, 2]
    assert share_steps(2, 4) == [1, 1, 1, 1]


# -- drawing -----------------------------------------------------------------------------------


def nucleus(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Return the probabilities that are left, worked out one id at a time."""
    p = np.exp(logits / temperature - np.max(logits / temperature))
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    order = order[:top_k] if top_k else order
    total, kept, reached = sum(p[i] for i in order), [], 0.0
    for i in order:
        if reached >= top_p:
            break
        kept.append(i)
        reached += p[i] / total
    left = np.zeros_like(p)
    left[kept] = p[kept]
    return left / left.sum()


@pytest.mark.parametrize("top_k, top_p", [(0, 0.9), (0, 0.3), (5, 1.0), (5, 0.8), (99, 0.5)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_truncation_follows_temperature_as_in_numpy(top_k, top_p, temperature):
    logits = np.random.default_rng(0).normal(size=(20, 12)) * 2
    found = truncate(torch.tensor(logits) / temperature, top_k, top_p).softmax(-1).numpy()
    for row, one in zip(found, logits, strict=True):
        np.testing.assert_allclose(row, nucleus(one, temperature, top_k, top_p), atol=1e-9)


def test_the_nucleus_is_of_the_tempered_distribution():
    # Hot, it takes three ids to hold half of it; before temperature one alone did.
    log_p = torch.tensor([0.6, 0.2, 0.1, 0.1]).log()
    assert int(torch.isfinite(truncate(log_p, 0, 0.5)).sum()) == 1
    assert int(torch.isfinite(truncate(log_p / 100, 0, 0.5)).sum()) == 2
    drawn = {int(draw(log_p[None, None], 100.0, 0, 0.5, seeded(s))) for s in range(60)}
    assert len(drawn) == 2


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(1, 0, 1.0), (0.5, 0, 1.0), (2, 4, 0.9), (1, 0, 0.8), (3, 5, 0.5), (1, 0, 0.1)],
)
@pytest.mark.parametrize("way", ["fresh", "ahead"])
def test_draws_follow_the_distribution(way, temperature, top_k, top_p):
    logits = torch.tensor([1.0, 0.2, -0.3, 2.0, 0.0, -1.0])
    many = logits.expand(20000, -1)[None]
    chance = (
        FreshNumbers(seeded(1))
        if way == "fresh"
        else PredrawnNumbers(40000, seeded(1), many.device)
    )
    drawn = chance.draw(many, temperature, top_k, top_p)[0]
    wanted = nucleus(logits.double().numpy(), temperature, top_k, top_p)
    seen = torch.bincount(drawn, minlength=6).double().numpy()
    assert not seen[wanted == 0].any()
    some = wanted > 0
    if some.sum() == 1:
        return
    assert chisquare(seen[some], wanted[some] * 20000).pvalue > 0.01
    # The test has teeth: two parts in a hundred moved from one id to another are noticed.
    moved = wanted.copy()
    moved[3], moved[0] = moved[3] - 0.02, moved[0] + 0.02
    assert chisquare(seen[some], moved[some] * 20000).pvalue < 1e-4


@pytest.mark.parametrize("top_k, top_p", [(0, 0.9), (0, 0.35), (4, 0.7), (3, 1.0)])
def test_every_pair_of_numbers_leads_to_the_same_id_as_on_a_cpu(top_k, top_p, monkeypatch):
    """Number by number over a fine grid: both ways pick the same, so both are the nucleus."""
    logits = torch.tensor([0.3, 1.7, -0.4, 1.1, 0.0, -math.inf])
    grid = (torch.arange(64) + 0.5) / 64
    first, second = (g.flatten() for g in torch.meshgrid(grid, grid, indexing="ij"))
    many = logits.expand(1, len(first), -1)
    there = draw_there(many, 0.8, top_k, top_p, first[None], second[None])[0]
    one_by_one = []
    for a, b in zip(first, second, strict=True):
        drawn = iter([a, b])
        monkeypatch.setattr(torch, "rand", lambda *_, generator, d=drawn: next(d).view(1))
        one_by_one.append(int(draw(many[:, :1], 0.8, top_k, top_p, seeded(0))))
    assert there.tolist() == one_by_one
    wanted = nucleus(logits[:5].double().numpy(), 0.8, top_k, top_p)
    seen = torch.bincount(there, minlength=6)[:5].double().numpy() / len(first)
    np.testing.assert_allclose(seen, wanted, atol=0.03)


def test_the_numbers_drawn_ahead_are_those_that_are_drawn_when_needed():
    logits = torch.randn(3, 20, 7, generator=seeded(5)[0])
    fresh = FreshNumbers([g for s in range(3) for g in seeded(s)])
    ahead = PredrawnNumbers(20 + 20 + 9, [g for s in range(3) for g in seeded(s)], logits.device)
    assert torch.equal(ahead.draw(logits, 0.9, 0, 1.0), fresh.draw(logits, 0.9, 0, 1.0))
    assert torch.equal(ahead.gumbel(20), fresh.gumbel(20))
    assert torch.equal(ahead.draw(logits, 0.0, 0, 0.5), logits.argmax(-1)), "takes no numbers"
    assert torch.equal(ahead.draw(logits[:, :9], 2.0, 2, 1.0), fresh.draw(logits[:, :9], 2.0, 2, 1))


@pytest.mark.parametrize("top_k", [0, 1, 3, 7, 12, 40])
def test_the_k_likeliest_without_a_sort_are_those_of_a_stable_one(top_k):
    logits = torch.randint(4, (50, 6, 12), generator=seeded(0)[0]).float()
    logits[:, :, 9:] = -math.inf
    assert torch.equal(keep_top_k(logits, top_k), truncate(logits, top_k))


def test_more_slots_outside_the_nucleus_than_planned_are_next_to_impossible():
    for slots, top_p in itertools.product((1, 16, 700, 10**5), (0.05, 0.5, 0.95, 0.999)):
        most = _most_outside(slots, top_p)
        assert most <= slots
        assert most == slots or binom.sf(most, slots, 1 - top_p) < 1e-14
    # Where more fall outside than fit, they take their likeliest id.
    logits = torch.tensor([0.0, 1.0]).expand(1, 1000, -1)
    lost = torch.full((1, 1000), 0.01)
    assert (draw_there(logits, 1.0, 0, 0.7, lost, lost) == 1).all()


def test_a_row_is_drawn_from_its_own_numbers_alone():
    logits = torch.randn(4, 50, 30, generator=seeded(3)[0])
    four = draw(logits, 1.0, 0, 0.5, [g for s in range(4) for g in seeded(s)])
    assert torch.equal(draw(logits[2:3], 1.0, 0, 0.5, seeded(2))[0], four[2])


def test_no_noise_points_behind_the_last_id_or_at_what_is_forbidden():
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]])
    assert _pick(shares, torch.zeros(2)).tolist() == [0, 2]
    assert _pick(shares, torch.full((2,), 1 - 2**-24)).tolist() == [1, 2]
    # Whatever rounding makes of the total; and it does not always make 1 of it.
    many = torch.randn(20000, 40, generator=seeded(0)[0]).softmax(-1)
    assert len(many.cumsum(-1)[:, -1].unique()) > 3
    assert int(_pick(many, torch.full((20000,), 1 - 2**-24)).max()) == 39


def test_temperature_zero_takes_the_likeliest_and_never_the_forbidden():
    logits = torch.randn(3, 5, 7, generator=seeded(0)[0])
    assert torch.equal(draw(logits, 0, 3, 0.1, []), logits.argmax(-1))
    logits[:, :, :6] = -math.inf
    assert (draw(logits, 5.0, 0, 0.9, [*seeded(0), *seeded(1), *seeded(2)]) == 6).all()


def test_confidence_is_the_untempered_log_probability():
    logits = torch.randn(2, 3, 5, generator=seeded(0)[0])
    drawn = torch.tensor([[0, 1, 2], [4, 3, 2]])
    wanted = logits.log_softmax(-1).gather(2, drawn[..., None])[..., 0]
    torch.testing.assert_close(confidence(logits, drawn), wanted)


# -- orders ------------------------------------------------------------------------------------


def test_radical_inverse_mirrors_the_digits():
    assert [radical_inverse(i, 2) for i in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    assert radical_inverse(5, 3) == pytest.approx(2 / 3 + 1 / 9)  # 12 in base 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (16, 1), (4, 4), (5, 3), (14, 14)])
def test_halton_visits_each_cell_once(shape):
    assert sorted(halton_ranks(*shape)) == list(range(shape[0] * shape[1]))


def test_halton_is_spread_out():
    for frames in (8, 16, 32):  # the 2 ** k first frames lie in different parts of 2 ** k
        order = np.array(halton_ranks(frames, 1)).argsort()
        for count in (2, 4, 8):
            assert sorted((order[:count] * count) // frames) == list(range(count))
    # Six points in a row are one in each of 2 x 3 boxes, as bases 2 and 3 have no common factor.
    for size in (6, 12):
        ranks = np.array(halton_ranks(size, size)).reshape(size, size)
        boxes = {(row * 2 // size, column * 3 // size) for row, column in np.argwhere(ranks < 6)}
        assert len(boxes) == 6


@pytest.mark.parametrize("order", ["random", "halton", "raster"])
@pytest.mark.parametrize("modality", [m for m in tiny_modalities() if not m.is_text])
def test_orders_permute_the_slots_that_lack(order, modality):
    lacking = torch.arange(modality.length)[None, 1:].expand(2, -1)
    generators = [*seeded(1), *seeded(2)]
    found = slot_order(order, modality, lacking, generators)
    assert torch.equal(found.sort(1).values, lacking)
    if order == "random" and modality.length > 4:
        assert not torch.equal(found[0], found[1])
    with pytest.raises(ValueError, match="no order|not an order"):
        slot_order("confidence", modality, lacking, generators)


# -- settings ----------------------------------------------------------------------------------


def test_settings_of_one_modality():
    name, other = list(MODALITIES)[:2]
    config = GenerateConfig(steps=5, modalities={name: {"temperature": "1.5", "top-k": 3}})
    assert config.for_modality(other) == Sampling(steps=5)
    assert config.for_modality(name) == Sampling(steps=5, temperature=1.5, top_k=3)
    assert config.modalities == {name: {"temperature": 1.5, "top_k": 3}}
    assert GenerateConfig.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(FARM.model_dump() | {"generate": config}).generate == config


@pytest.mark.parametrize(
    "given, message",
    [
        ({"sond": {"steps": 1}}, "unknown modality 'sond'; did you mean 'sound'"),
        ({"sound": {"stepz": 1}}, "unknown setting 'stepz'; did you mean 'steps'"),
        ({"sound": {"steps": 0}}, "sound: steps 0: must be a whole number from 1"),
        ({"sound": {"order": "halten"}}, "sound: order halten: input should be"),
        ({"sound": {"temperature_schedule": "onx:1:2"}}, "unknown temperature schedule 'onx:1:2'"),
        ({"sound": {"batch_size": 3}}, "unknown setting 'batch_size'"),
        ({"sound": 3}, "should be a valid dictionary"),
    ],
)
def test_wrong_settings_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        GenerateConfig(modalities=given)


def test_words_of_the_command_line():
    assert parse_overrides(["sound.noise=2", "sound.top-k=5", "depth.steps=1"]) == {
        "sound": {"noise": "2", "top_k": "5"},
        "depth": {"steps": "1"},
    }
    for wrong in ("sound.noise", "noise=2", "sound.noise=", "=3"):
        with pytest.raises(ValueError, match="not of the form"):
            parse_overrides([wrong])
    assert onex("onex:0.5:2") == (0.5, 2.0)
    assert onex("onex:0.5:0") is onex("onex") is onex("onex:-1:2") is None
