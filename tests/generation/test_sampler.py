"""Generation: given tokens stay, every slot is filled once, in its codebook, for every setting."""

import math

import pytest
import torch
from spied import (
    BOOK_0,
    BOOK_1,
    CAPTION,
    RGB,
    SOUND,
    TOKENS,
    Spy,
    build_model,
    check,
    log_probs,
    some_given,
)

from nano4m.config.generation import GenerateConfig
from nano4m.generation.decoding_state import DecodingState
from nano4m.generation.sampler import generate
from nano4m.model.fourm import FourM
from nano4m.tokens.patterns import slots_of

SETTINGS = {
    "defaults": {},
    "together": {"codebooks": "together"},
    "interleave": {"codebooks": "interleave"},
    "parallel": {"codebooks": "parallel", "guidance": 2.0},
    "delay": {"codebooks": "delay", "remask_rounds": 1},
    "random": {"order": "random", "schedule": "linear", "steps": 5},
    "halton": {"order": "halton", "schedule": "constant", "temperature_schedule": "onex:0.1:0.5"},
    "raster": {"order": "raster", "steps": 50, "top_k": 3, "temperature_schedule": "linear"},
    "guided": {"guidance": 3.0, "guidance_schedule": "linear", "steps": 3},
    "unconditional": {"guidance": 0.0},
    "remasked": {"remask_rounds": 3, "remask_share": 0.5, "steps": 3},
    "remasked random": {"remask_rounds": 2, "order": "random", "guidance": 1.5},
    "cold": {"temperature": 0.0, "noise": 0.0},
}


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model()


def run_checked(model, settings, targets, partial=True):
    """Generate one row and check every step of it."""
    ids, given = some_given("rgb", rows=1)
    if partial:  # infilling: some slots of the targets are given
        given[:, [SOUND.start, SOUND.start + 3, SOUND.stop - 1, CAPTION.start + 2]] = True
        ids[:, CAPTION.start + 2] = 5
    spy = Spy(model)
    got, filled = generate(spy, TOKENS, ids, given, targets, GenerateConfig(**settings), [3])
    check(spy, ids, given, got, filled)
    return spy, got, filled


# -- what holds for every setting --------------------------------------------------------------


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_given_ids_stay_at_every_step_and_ids_keep_to_their_codebook(model, settings, partial):
    _, got, filled = run_checked(model, settings, ["sound", "depth", "normals", "caption"], partial)
    assert filled[:, : CAPTION.start].all()
    text = got[0, CAPTION][filled[0, CAPTION]].tolist()
    assert text[-1] == 0 and 0 not in text[:-1] and (len(text) > 3 or not partial)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_sample_does_not_depend_on_its_company(model, settings):
    ids, given = some_given("rgb", rows=16)
    given[::3, SOUND.start + 1] = True  # rows may know different parts, and different numbers
    given[1, SOUND.start : SOUND.start + 5] = True
    ids[4, RGB] = ids[0, RGB]
    config = GenerateConfig(batch_size=5, **settings)
    chain = ["sound", "caption", "depth"]
    together, filled = generate(model, TOKENS, ids, given, chain, config, range(10, 26))
    for i in range(16):
        alone, known = generate(
            model, TOKENS, ids[i : i + 1], given[i : i + 1], chain, config, [10 + i]
        )
        assert torch.equal(known[0], filled[i])
        assert torch.equal(alone[0][known[0]], together[i][filled[i]])
    if settings.get("temperature") != 0:
        other, _ = generate(model, TOKENS, ids, given, chain, config, range(16))
        assert not torch.equal(other[:, SOUND], together[:, SOUND])


@pytest.mark.parametrize("fault", ["overwrites", "other codebook"])
def test_a_planted_fault_is_caught(model, monkeypatch, fault):
    write = DecodingState.write

    def faulty(fill, rows, slots, drawn):
        write(fill, rows, slots, drawn)
        if fill.span == SOUND and fault == "overwrites":
            ids = fill.ids_BL[rows, SOUND.start]
            fill.ids_BL[rows, SOUND.start] = (ids + 1) % 8
        elif fill.span == SOUND:
            fill.ids_BL[rows[:, None], slots + SOUND.start] = (drawn + 8) % 16

    monkeypatch.setattr(DecodingState, "write", faulty)
    said = {"overwrites": "given id was changed", "other codebook": "of another codebook"}
    with pytest.raises(AssertionError, match=said[fault]):
        run_checked(model, {}, ["sound"])


@pytest.mark.parametrize("source", [m.name for m in TOKENS.modalities])
def test_every_modality_from_every_other(model, source):
    ids, given = some_given(source)
    targets = [m.name for m in TOKENS.modalities if m.name != source]
    got, filled = generate(model, TOKENS, ids, given, targets, GenerateConfig(steps=3), range(6))
    assert torch.equal(got[given], ids[given])
    for m, span in zip(TOKENS.modalities, TOKENS.slices, strict=True):
        assert m.is_text or filled[:, span].all()


# -- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["confidence", "random", "halton", "raster"])
def test_one_step_without_temperature_is_the_argmax_of_one_forward(model, order):
    ids, given = some_given("rgb")
    config = GenerateConfig(steps=1, temperature=0, noise=0, order=order)
    got, _ = generate(model, TOKENS, ids, given, ["normals"], config, range(6))
    span = TOKENS.slices[TOKENS.index("normals")]
    asked = torch.arange(span.start, span.stop).expand(6, -1)
    expected = log_probs(model, TOKENS, ids, given, asked).argmax(-1)
    assert torch.equal(got[:, span], expected)


def test_without_temperature_it_is_repeatable(model):
    ids, given = some_given("rgb")
    config = GenerateConfig(steps=4, temperature=0, noise=0)
    first, _ = generate(model, TOKENS, ids, given, ["sound", "caption"], config, range(6))
    second, _ = generate(model, TOKENS, ids, given, ["sound", "caption"], config, range(6, 12))
    assert torch.equal(first, second)


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 50])
def test_cosine_schedule_fills_each_slot_once(model, steps, order):
    ids, given = some_given("rgb", rows=1)
    spy = Spy(model)
    config = GenerateConfig(steps=steps, codebooks="together", order=order)
    generate(spy, TOKENS, ids, given, ["sound"], config, [0])
    count = min(steps, 8)
    expected, left = [8], 8
    for i in range(1, count):
        left = min(left - 1, int(8 * math.cos(math.pi / 2 * i / count)))
        expected.append(left)
    assert [len(asked[0]) for asked in spy.asked] == [n for n in expected if n > 0]


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_surest_tokens_are_kept_first(model, steps):
    """MaskGIT without chance, one slot at a time, against the sampler."""
    ids, given = some_given("rgb", rows=1)
    span = TOKENS.slices[TOKENS.index("normals")]
    config = GenerateConfig(steps=steps, temperature=0, noise=0)
    spy = Spy(model)
    got, _ = generate(spy, TOKENS, ids, given, ["normals"], config, [0])
    ids, given = ids.clone(), given.clone()
    for step in range(1, steps + 1):
        unknown = [s for s in range(span.start, span.stop) if not given[0, s]]
        assert set(spy.asked[step - 1][0]) == set(unknown)
        left = min(int(6 * math.cos(math.pi / 2 * step / steps) + 1e-9), len(unknown) - 1)
        log_p = log_probs(model, TOKENS, ids, given, torch.tensor([unknown]))[0]
        sure = {s: float(row.max()) for s, row in zip(unknown, log_p, strict=True)}
        for slot in sorted(unknown, key=lambda s: -sure[s])[: len(unknown) - left]:
            ids[0, slot] = log_p[unknown.index(slot)].argmax()
            given[0, slot] = True
    assert torch.equal(got[0, span], ids[0, span])


def test_codebooks_are_filled_coarse_to_fine(model):
    spy, _, _ = run_checked(model, {"steps": 5}, ["sound"], partial=False)
    coarse, fine = (set(range(SOUND.stop)[span]) for span in (BOOK_0, BOOK_1))
    known = [set(shown[0]) & (coarse | fine) for shown in spy.shown]
    # Five passes: three for the first codebook, two for the second, which sees all of the first.
    assert len(known) == 5
    assert all(not step & fine for step in known[:4]) and known[3] == coarse
    asked = [set(step[0]) for step in spy.asked]
    assert asked[0] == coarse and asked[3] == fine, "the slots of one level, as in training"
    assert all(step <= coarse for step in asked[:3]) and asked[4] < fine


@pytest.mark.parametrize("name", ["interleave", "parallel", "delay"])
def test_a_sound_is_decoded_in_the_steps_of_a_pattern(model, name):
    for steps in (1, 50):
        settings = {"steps": steps, "codebooks": name}
        spy, _, _ = run_checked(model, settings, ["sound"], partial=False)
        books, shape = 2, (4, 2)
        known = [set(shown[0]) & set(range(SOUND.start, SOUND.stop)) for shown in spy.shown]
        done, wanted = set(), slots_of(name, *shape)
        for step in wanted:
            asked = {SOUND.start + slot for slot in step}
            first = known.index(done)
            assert set(spy.asked[first][0]) == asked, "the slots of one step, and no others"
            done |= asked
        passes = len(wanted) if steps == 1 else shape[0] * books
        assert len(known) == passes, "a pass a step; with more steps, one a token"


@pytest.mark.parametrize("order, wanted", [("raster", [0, 1, 2, 3]), ("halton", [0, 2, 1, 3])])
def test_orders_fill_in_order(model, order, wanted):
    spy, got, _ = run_checked(model, {"steps": 8, "order": order}, ["sound"], partial=False)
    sound = set(range(SOUND.start, SOUND.stop))
    known = [set(shown[0]) & sound for shown in spy.shown] + [sound]
    filled = [(known[i + 1] - known[i]).pop() - SOUND.start for i in range(8)]
    # Every frame of the first codebook, then of the second one.
    assert filled == [2 * frame for frame in wanted] + [2 * frame + 1 for frame in wanted]


def test_codebooks_of_unequal_sizes_are_refused():
    sound = TOKENS.modalities[TOKENS.index("sound")]
    assert (sound.num_codebooks, sound.codebook_size) == (2, 8)
    with pytest.raises(ValueError, match="15 ids are not 2 codebooks"):
        _ = sound.with_tokens((4, 2), 15).codebook_size


def test_remasking_draws_the_least_sure_again_and_never_the_given(model):
    ids, given = some_given("rgb", rows=1)
    given[:, SOUND.start + 1] = True
    settings = {"steps": 1, "codebooks": "together", "temperature": 0.0, "noise": 0.0}
    asked = torch.tensor([[s for s in range(SOUND.start, SOUND.stop) if not given[0, s]]])
    plain, _ = generate(model, TOKENS, ids, given, ["sound"], GenerateConfig(**settings), [0])
    spy = Spy(model)
    config = GenerateConfig(**settings, remask_rounds=1, remask_share=0.4)
    got, filled = generate(spy, TOKENS, ids, given, ["sound"], config, [0])
    check(spy, ids, given, got, filled)
    # How sure it was, over the ids of the slot's own codebook.
    log_p = log_probs(model, TOKENS, ids, given, asked)[0]
    worst = asked[0][log_p.max(1).values.argsort()[:3]].sort().values
    assert spy.asked[1][0] == worst.tolist()  # 0.4 of 7
    stay = torch.ones(TOKENS.length, dtype=torch.bool)
    stay[worst] = False
    assert torch.equal(got[0, stay], plain[0, stay])


def test_remasking_leaves_the_given_alone_where_every_token_is_certain():
    certain = build_model()
    with torch.no_grad():
        certain.heads[TOKENS.index("normals")].weight.mul_(1e4)
    ids, given = some_given("rgb", rows=1)
    span = TOKENS.slices[TOKENS.index("normals")]
    given[:, span.start : span.start + 3] = True
    spy = Spy(certain)
    config = GenerateConfig(steps=1, remask_rounds=2, remask_share=0.5)
    got, filled = generate(spy, TOKENS, ids, given, ["normals"], config, [0])
    check(spy, ids, given, got, filled)


# -- texts -------------------------------------------------------------------------------------


def test_texts_end_with_their_end_token(model):
    ids, given = some_given("rgb")
    got, filled = generate(model, TOKENS, ids, given, ["caption"], GenerateConfig(), range(6))
    for row in range(6):
        length = int(filled[row, CAPTION].sum())
        text = got[row, CAPTION][:length].tolist()
        assert filled[row, CAPTION][:length].all()
        assert text[-1] == 0 and 0 not in text[:-1]


def test_a_kept_prefix_of_a_text_is_continued(model):
    ids, given = some_given("rgb", rows=3)
    ids[:, CAPTION.start : CAPTION.start + 2] = torch.tensor([5, 6])
    given[:, CAPTION.start : CAPTION.start + 2] = True
    got, filled = generate(model, TOKENS, ids, given, ["caption"], GenerateConfig(), range(3))
    assert (got[:, CAPTION.start : CAPTION.start + 2] == torch.tensor([5, 6])).all()
    assert (filled[:, CAPTION].sum(1) > 2).all()


def test_a_text_does_not_end_before_words_that_are_given(model):
    ids, given = some_given("rgb", rows=6)
    ids[:, CAPTION.start + 4] = 7
    given[:, CAPTION.start + 4] = True
    config = GenerateConfig(temperature=5.0, top_p=1.0)
    got, filled = generate(model, TOKENS, ids, given, ["caption"], config, range(6))
    assert (got[:, CAPTION][:, :4] > 0).all() and filled[:, CAPTION][:, :5].all()
    assert (got[:, CAPTION][:, 4] == 7).all()


# -- forward passes ----------------------------------------------------------------------------


def test_log_probs_do_not_depend_on_batching_or_on_hidden_ids(model):
    ids, given = some_given("rgb")
    given[1, SOUND.start] = True
    asked = torch.arange(CAPTION.start, CAPTION.start + 2).expand(6, -1)
    whole = log_probs(model, TOKENS, ids, given, asked)
    torch.testing.assert_close(log_probs(model, TOKENS, ids, given, asked, batch_size=2), whole)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(6, 2))
    hidden = torch.where(given, ids, 0)
    assert torch.equal(log_probs(model, TOKENS, hidden, given, asked), whole)
