"""Generation: given tokens stay, every slot is filled once, in its codebook, for every setting."""

import math

import numpy as np
import pytest
import torch

from conftest import tiny_modalities, tiny_table
from nano4m.config.run import GenerateConfig, ModelConfig
from nano4m.errors import UserError
from nano4m.generation.decoding_state import DecodingState
from nano4m.generation.guidance import ChainStep, Condition, Guide
from nano4m.generation.likelihoods import log_prob_parts
from nano4m.generation.sampler import generate, num_codebooks
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence

TOKENS = TokenSequence(tiny_modalities())
RGB, SOUND, CAPTION = (TOKENS.slices[TOKENS.index(n)] for n in ("rgb", "sound", "caption"))
BOOK_0, BOOK_1 = slice(SOUND.start, SOUND.stop, 2), slice(SOUND.start + 1, SOUND.stop, 2)

SETTINGS = {
    "defaults": {},
    "all_sources": {"codebooks": "all_sources"},
    "random": {"order": "random", "schedule": "linear", "steps": 5},
    "halton": {"order": "halton", "schedule": "constant", "temperature_schedule": "onex:0.1:0.5"},
    "raster": {"order": "raster", "steps": 50, "top_k": 3, "temperature_schedule": "linear"},
    "guided": {"guidance": 3.0, "guidance_schedule": "linear", "steps": 3},
    "unconditional": {"guidance": 0.0},
    "remasked": {"remask_rounds": 3, "remask_share": 0.5, "steps": 3},
    "remasked random": {"remask_rounds": 2, "order": "random", "guidance": 1.5},
    "cold": {"temperature": 0.0, "noise": 0.0},
}


def build_model() -> FourM:
    built = FourM(
        ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), TOKENS.modalities
    )
    draw = torch.Generator().manual_seed(0)
    built.init_weights(draw)
    for head in built.heads:
        torch.nn.init.normal_(head.weight, 0, 0.5, generator=draw)
    return built.eval()


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model()


def log_probs(model, tokens, ids, given, asked, batch_size=64):
    """Return the whole distributions, (B, T, V)."""
    index = int(tokens.modality_L[asked[0, 0]])
    out = torch.empty(*asked.shape, tokens.modalities[index].vocab_size)
    for rows, first, log_p in log_prob_parts(model, tokens, ids, given, asked, batch_size):
        out[rows, first : first + log_p.shape[1]] = log_p
    return out


class Spy:
    """Hands everything on to the model and keeps what it was shown and asked, as slots."""

    def __init__(self, model: FourM) -> None:
        self.model, self.device = model, model.device
        self.shown: list[list[dict[int, int]]] = []
        self.asked: list[list[list[int]]] = []

    @staticmethod
    def slots(modality: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        starts = torch.tensor([s.start for s in TOKENS.slices])
        columns = torch.tensor([1 if m.is_text else m.shape[1] for m in TOKENS.modalities])
        return starts[modality] + coords[..., 0] * columns[modality] + coords[..., 1]

    def encode(self, ids, modality, coords):
        rows = zip(self.slots(modality, coords).tolist(), ids.tolist(), strict=True)
        self.shown.append([dict(zip(*row, strict=True)) for row in rows])
        return self.model.encode(ids, modality, coords)

    def decode(self, context, modality, coords):
        self.asked.append(self.slots(modality, coords).tolist())
        return self.model.decode(context, modality, coords)

    def logits(self, states, index):
        return self.model.logits(states, index)


def book_ids(book: int) -> range:
    """Ids of a codebook of the sound."""
    return range(8 * book, 8 * book + 8)


def some_given(name="rgb", rows=6):
    ids, valid = (torch.from_numpy(a) for a in tiny_table().gather(np.arange(rows), None))
    ids[:, BOOK_0] %= 8
    ids[:, BOOK_1] = ids[:, BOOK_1] % 8 + 8
    given = torch.zeros_like(valid)
    span = TOKENS.slices[TOKENS.index(name)]
    given[:, span] = valid[:, span]
    return ids, given


def check(spy: Spy, ids, given, got, filled) -> None:
    """Check one row at every step: what was given stays, ids keep to their codebook."""
    kept = {slot: int(ids[0, slot]) for slot in given[0].nonzero()[:, 0].tolist()}
    for shown, asked in zip(spy.shown, spy.asked, strict=True):
        for row, slots in zip(shown, asked, strict=True):
            for slot in row.keys() & kept.keys():
                assert row[slot] == kept[slot], "a given id was changed on the way"
            assert not set(slots) & kept.keys(), "a given slot was asked for"
            assert not set(slots) & row.keys() and len(set(slots)) == len(slots)
    assert torch.equal(got[given], ids[given]) and filled[given].all()
    for book, span in enumerate((BOOK_0, BOOK_1)):
        made = got[:, span][filled[:, span]]
        assert ((made >= 8 * book) & (made < 8 * book + 8)).all(), "an id of another codebook"
    for m, span in zip(TOKENS.modalities, TOKENS.slices, strict=True):
        made = got[:, span][filled[:, span]]
        assert ((made >= 0) & (made < m.vocab_size)).all()


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
    config = GenerateConfig(steps=steps, codebooks="all_sources", order=order)
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
    assert set(spy.asked[0][0]) == coarse | fine, "all that is unknown is asked for, as in training"


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
    assert num_codebooks(sound) == 2
    with pytest.raises(ValueError, match="15 ids are not 2 codebooks"):
        num_codebooks(sound.with_tokens((4, 2), 15))


def test_remasking_draws_the_least_sure_again_and_never_the_given(model):
    ids, given = some_given("rgb", rows=1)
    given[:, SOUND.start + 1] = True
    settings = {"steps": 1, "codebooks": "all_sources", "temperature": 0.0, "noise": 0.0}
    asked = torch.tensor([[s for s in range(SOUND.start, SOUND.stop) if not given[0, s]]])
    plain, _ = generate(model, TOKENS, ids, given, ["sound"], GenerateConfig(**settings), [0])
    spy = Spy(model)
    config = GenerateConfig(**settings, remask_rounds=1, remask_share=0.4)
    got, filled = generate(spy, TOKENS, ids, given, ["sound"], config, [0])
    check(spy, ids, given, got, filled)
    # How sure it was, over the ids of the slot's own codebook.
    log_p = log_probs(model, TOKENS, ids, given, asked)[0]
    book = (asked[0] - SOUND.start) % 2
    own = log_p.unflatten(1, (2, 8))[torch.arange(7), book].log_softmax(-1)
    worst = asked[0][own.max(1).values.argsort()[:3]].sort().values
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


# -- guidance and chains -----------------------------------------------------------------------


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
    config = GenerateConfig(steps=1, codebooks="all_sources", guidance=2.0)
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
