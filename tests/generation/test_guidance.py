"""Guidance and chains: formulas, who is a condition of whom, how often the model is asked."""

import pytest
import torch
from spied import RGB, SOUND, TOKENS, Spy, build_model, log_probs, some_given

from nano4m.config.generation import GenerateConfig
from nano4m.errors import UserError
from nano4m.generation.guidance import ChainStep, Condition, Guide
from nano4m.generation.sampler import generate
from nano4m.model.fourm import FourM


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model()


def logits_given(model, ids, given, names, asked):
    """Return logits with only these modalities shown, by one forward of the plain model."""
    shown = torch.zeros_like(given)
    for name in names:
        span = TOKENS.slices[TOKENS.index(name)]
        shown[:, span] = given[:, span]
    return log_probs(model, TOKENS, ids, shown, asked)


def assert_same_distribution(found, wanted):
    torch.testing.assert_close(found.softmax(-1), wanted.softmax(-1))


def test_guidance_is_its_formula(model):
    ids, given = some_given("rgb")
    given |= some_given("caption")[1] | some_given("depth")[1]
    given[:, SOUND.start] = True
    asked = torch.arange(SOUND.start + 1, SOUND.stop).expand(6, -1)
    own = lambda *names: logits_given(model, ids, given, (*names, "sound"), asked)  # noqa: E731
    nothing, rgb, text = own(), own("rgb"), own("caption")
    both = own("rgb", "caption", "depth")

    def guided(factor=1.0, guidance=1.0, **step):
        guide = Guide(model, TOKENS, ChainStep(target="sound", **step), guidance, 4)
        return guide.logits(ids, given, asked, factor)

    assert_same_distribution(guided(guidance=3.0), nothing + 3 * (both - nothing))
    assert_same_distribution(guided(0.5, guidance=3.0), nothing + 2 * (both - nothing))
    assert_same_distribution(guided(guidance=0.0), nothing)
    two = (
        Condition(sources=("rgb",), weight=2.0),
        Condition(sources=("caption",), weight=-0.5),
    )
    wanted = nothing + 2 * (rgb - nothing) - 0.5 * (text - nothing)
    assert_same_distribution(guided(conditions=two), wanted)
    away = guided(conditions=(Condition(sources=("rgb",), weight=3.0),), negative=("caption",))
    assert_same_distribution(away, text + 3 * (rgb - text))
    away = guided(guidance=2.0, negative=("caption",))
    seen = own("rgb", "depth")
    assert_same_distribution(away, text + 2 * (seen - text))


def test_guidance_one_is_none_and_zero_is_unconditional(model):
    ids, given = some_given("rgb")
    plain, spied = GenerateConfig(steps=3), Spy(model)
    expected, _ = generate(model, TOKENS, ids, given, ["sound"], plain, range(6))
    one = GenerateConfig(steps=3, guidance=1.0, guidance_schedule="linear")
    got, _ = generate(spied, TOKENS, ids, given, ["sound"], one, range(6))
    assert torch.equal(got, expected)
    assert all(len(row) >= 4 for batch in spied.shown for row in batch), "nothing is asked twice"
    zero = GenerateConfig(steps=3, guidance=0.0)
    got, _ = generate(model, TOKENS, ids, given, ["sound"], zero, range(6))
    free, _ = generate(model, TOKENS, ids, torch.zeros_like(given), ["sound"], plain, range(6))
    assert torch.equal(got[:, SOUND], free[:, SOUND])
    assert not torch.equal(got[:, SOUND], expected[:, SOUND])


def test_equal_questions_are_asked_once_and_equal_lengths_share_a_batch(model):
    ids, given = some_given("rgb", rows=1)
    ids, given = ids.expand(8, -1), given.expand(8, -1)
    spy = Spy(model)
    config = GenerateConfig(steps=1, codebooks="together", guidance=2.0)
    got, _ = generate(spy, TOKENS, ids, given, ["sound"], config, range(8))
    assert sorted(len(row) for batch in spy.shown for row in batch) == [0, 4]
    assert len({tuple(row) for row in got[:, SOUND].tolist()}) > 1
    spy = Spy(model)
    given = given | some_given("depth", rows=8)[1]
    step = ChainStep(target="sound", conditions=(Condition(sources=("rgb",), weight=2.0),),
                     negative=("depth",))  # fmt: skip
    generate(spy, TOKENS, ids, given, [step], config, range(8))
    assert [len(batch) for batch in spy.shown] == [2], "four tokens each: one batch"


def test_a_chain_gives_each_finished_modality_to_the_next(model):
    ids, given = some_given("caption")
    config = GenerateConfig(steps=2, temperature=0, noise=0)
    chain, filled = generate(model, TOKENS, ids, given, ["rgb", "depth"], config, range(6))
    first, known = generate(model, TOKENS, ids, given, ["rgb"], config, range(6))
    second, _ = generate(model, TOKENS, first, known, ["depth"], config, range(6))
    assert torch.equal(chain[filled], second[filled])
    own = ChainStep(
        target="depth",
        conditions=(Condition(sources=("rgb",)),),
        settings=config.for_modality("depth").model_copy(update={"steps": 1}),
    )
    spy = Spy(model)
    generate(spy, TOKENS, ids, given, ["rgb", own], config, range(6))
    assert [set(row) for row in spy.shown[-1]] == [set(range(4))] * len(spy.shown[-1])
    assert {len(slots) for slots in spy.asked[-1]} == {4}, "its own settings: one step"


@pytest.mark.parametrize("there", [False, True])
def test_a_text_of_the_chain_is_a_condition_of_what_follows(model, there):
    ids, given = some_given("rgb")
    step = ChainStep(target="depth", conditions=(Condition(sources=("caption",)),))
    config = GenerateConfig(steps=2)
    chain = ["caption", step]
    got, known = generate(model, TOKENS, ids, given, chain, config, range(6), on_device=there)
    shown = known.clone()
    shown[:, RGB] = shown[:, TOKENS.slices[TOKENS.index("depth")]] = False
    cold = GenerateConfig(steps=1, temperature=0)
    asked, first, second = ["depth"], (got, shown), (ids, given)
    found = [
        generate(model, TOKENS, *one, asked, cold, range(6), on_device=there)[0]
        for one in (first, second)
    ]
    assert known.sum() > given.sum() and not torch.equal(*found)


def test_settings_by_modality_reach_the_sampler(model):
    ids, given = some_given("rgb", rows=1)
    spy = Spy(model)
    config = GenerateConfig(steps=1, modalities={"normals": {"steps": 3}})
    generate(spy, TOKENS, ids, given, ["depth", "normals"], config, [0])
    assert [len(asked[0]) for asked in spy.asked] == [4, 6, 5, 3]


# -- mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_refused(model):
    ids, given = some_given("rgb")

    def attempt(*targets, seeds=range(6)):
        generate(model, TOKENS, ids, given, targets, GenerateConfig(), seeds)

    with pytest.raises(UserError, match="no modality 'sond'; did you mean 'sound'"):
        attempt("sond")
    with pytest.raises(ValueError, match="5 seeds for 6 rows"):
        attempt("sound", seeds=range(5))
    with pytest.raises(UserError, match="no modality 'rgbb'; did you mean 'rgb'"):
        attempt("depth", ChainStep(target="sound", negative=("rgbb",)))
    with pytest.raises(UserError, match="cannot be a condition of itself"):
        attempt(ChainStep(target="sound", conditions=(Condition(sources=("sound",)),)))
    with pytest.raises(UserError, match="'depth' is a condition of 'sound', but nothing is given"):
        attempt(ChainStep(target="sound", conditions=(Condition(sources=("depth",)),)))
    attempt("depth", ChainStep(target="sound", conditions=(Condition(sources=("depth",)),)))
