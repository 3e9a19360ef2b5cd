"""Sampling computes finite numbers at the ends of every range that the configuration allows."""

import itertools
import math

import pytest
import torch
from spied import TOKENS, build_model, some_given

from nano4m.config.generation import LEAST_TEMPERATURE, LOWEST, POWER, GenerateConfig, Sampling
from nano4m.config.numbers import ranges
from nano4m.generation.draw import draw, draw_there
from nano4m.generation.sampler import generate
from nano4m.generation.token_schedules import temperatures

FINITE_GUIDED = 2001 * 1e4
"""Guided logits of logits up to 1e4, at the largest guidance: |s| + |1 - s| times as large."""


def ends(name: str) -> list[float]:
    field = Sampling.model_fields[name]
    ((kind, span),) = ranges(field.annotation, field.metadata)
    least = 1e-30 if span.above else span.low
    return [kind(value) for value in (least, span.high)]


EXTREMES = [(name, value) for name in ("temperature", "noise", "top_p", "guidance", "remask_share")
            for value in ends(name)]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build_model()


@pytest.mark.parametrize("name, value", EXTREMES)
def test_generation_at_the_ends_of_a_range_is_finite(model, name, value):
    ids, given = some_given("rgb", rows=2)
    settings = GenerateConfig(**{"steps": 3, "remask_rounds": 1, name: value})
    got, filled = generate(model, TOKENS, ids, given, ["sound", "caption"], settings, [3, 4])
    assert bool(filled.any()) and int(got.min()) >= 0
    scores = torch.randn(2, 5, 7) * FINITE_GUIDED
    first = torch.rand(2, 5).clamp_min(1e-20)
    for temperature, top_p in itertools.product(ends("temperature"), ends("top_p")):
        shares = (scores / temperature).softmax(-1)
        assert bool(shares.isfinite().all())
        seeds = [torch.Generator().manual_seed(i) for i in range(2)]
        for drawn in (draw(scores, temperature, 0, top_p, seeds),
                      draw_there(scores, temperature, 0, top_p, first, first)):  # fmt: skip
            assert int(drawn.min()) >= 0 and int(drawn.max()) < 7


def test_a_temperature_below_the_least_breaks_down():
    """What the range and the floor of the schedules protect from."""
    assert not bool((torch.tensor([FINITE_GUIDED, 1.0]) / 1e-35).softmax(-1).isfinite().all())


@pytest.mark.parametrize("low", [LOWEST.low, 1e-30, LOWEST.high])
@pytest.mark.parametrize("power", [POWER.low, 1, POWER.high])
@pytest.mark.parametrize("temperature", [LEAST_TEMPERATURE, 1.0, 1e6])
def test_schedules_are_zero_or_not_too_small(low, power, temperature):
    for schedule in (f"onex:{low:.40f}:{power}", "linear"):
        settings = Sampling(temperature=temperature, temperature_schedule=schedule)
        for found in temperatures(settings, [1] * 3000):
            assert math.isfinite(found) and (found == 0 or found >= LEAST_TEMPERATURE)
