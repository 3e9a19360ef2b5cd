"""The way of a GPU, run on a CPU: nothing is read back, and samples do not depend on the batch.

On the device ``meta`` tensors have no values: whatever reads one fails, so what runs there to its
last step has read none.
"""

import itertools
from types import SimpleNamespace

import pytest
import torch
from test_sampler import CAPTION, SETTINGS, SOUND, TOKENS, Spy, build_model, check, some_given
from torch.utils._python_dispatch import TorchDispatchMode

from nano4m.config.generation import GenerateConfig
from nano4m.evaluate.class_consistency import DECODE_BATCH, DECODE_BATCH_GPU, decode
from nano4m.generation import guidance
from nano4m.generation.guidance import ChainStep, Condition, Guide
from nano4m.generation.sampler import generate
from nano4m.generation.text_decoding import CHECK
from nano4m.model.fourm import FourM

GRIDS = ["sound", "depth", "normals"]
READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "unique", "equal", "item")


@pytest.fixture(scope="module")
def model() -> FourM:
    return build_model()


class Scored(Spy):
    """A spy that keeps how many logits it was asked for."""

    def __init__(self, model):
        super().__init__(model)
        self.shapes = []

    def logits(self, states, index, codebook=0):
        found = super().logits(states, index, codebook)
        self.shapes.append(tuple(found.shape))
        return found


def mixed():
    """Return rows that know different parts of a sound and a text, and different numbers."""
    ids, given = some_given("rgb", rows=12)
    given[::3, SOUND.start + 1] = True
    given[1, SOUND.start : SOUND.start + 5] = True
    ids[4] = ids[0]
    ids[:, CAPTION.start + 2] = 5
    given[::4, CAPTION.start + 2] = True
    return ids, given


# -- nothing is read back ----------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_step_reads_from_the_device(model, settings):
    ids, given = mixed()
    steps = []

    def on_step(name, step, count, ids, given):
        assert ids.is_meta and given.is_meta
        steps.append((name, step, count))

    # All steps run; the copy of what was made fails, as there is nothing to copy.
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        generate(
            build_model().to("meta"), TOKENS, ids, given, GRIDS, GenerateConfig(**settings),
            range(12), on_step,
        )  # fmt: skip
    for name in GRIDS:
        own = [(step, count) for target, step, count in steps if target == name]
        assert own == [(i, len(own)) for i in range(len(own))] and own


def test_a_read_is_noticed(model, monkeypatch):
    ask = Guide.logits_there

    def reading(self, *given):
        logits = ask(self, *given)
        return logits if float(logits.sum()) < 1e9 else logits * 2

    monkeypatch.setattr(Guide, "logits_there", reading)
    with pytest.raises(RuntimeError, match="item"):
        generate(
            build_model().to("meta"), TOKENS, *mixed(), GRIDS, GenerateConfig(steps=1), range(12)
        )


class Reads(TorchDispatchMode):
    """Counts what would make a host wait for its device."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0].rstrip("2")
        if name.startswith(READS):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_a_text_asks_once_in_eight_slots_whether_all_have_ended(model):
    ids, given = some_given("rgb")
    reads = Reads()
    counts = []
    with reads:
        generate(
            model, TOKENS, ids, given, ["caption"], GenerateConfig(), range(6),
            lambda *_: counts.append(len(reads.seen)), on_device=True,
        )  # fmt: skip
    assert counts[-1] - counts[0] <= len(counts) // CHECK


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
def test_the_steps_of_a_codebook_do_without_reads(model, order):
    ids, given = some_given("rgb")
    reads, counts = Reads(), {}
    config = GenerateConfig(steps=8, guidance=2.0, order=order, top_k=5)

    def on_step(name, step, count, ids, given):
        counts[step] = len(reads.seen)

    with reads:
        generate(model, TOKENS, ids, given, ["sound"], config, range(6), on_step, on_device=True)
    assert counts[0] == counts[3] and counts[4] == counts[7]
    with reads:
        generate(model, TOKENS, ids, given, ["sound"], config, range(6), on_step, on_device=False)
    assert counts[3] > counts[0], "the way of a CPU reads"


# -- what comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_sample_does_not_depend_on_its_company(model, settings):
    ids, given = (t.repeat(6, 1)[:64] for t in mixed())
    config = GenerateConfig(batch_size=64, **settings)
    chain = ["sound", "caption", "depth"]
    seeds = list(range(10, 74))
    together, filled = generate(model, TOKENS, ids, given, chain, config, seeds, on_device=True)
    assert torch.equal(together[given], ids[given])
    for i in range(64):
        one = slice(i, i + 1)
        alone, known = generate(
            model, TOKENS, ids[one], given[one], chain, config, seeds[one], on_device=True
        )
        assert torch.equal(known[0], filled[i]) and torch.equal(alone[0], together[i])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("top_k", [0, 3])
def test_without_a_nucleus_it_is_what_a_cpu_makes(model, settings, top_k):
    ids, given = mixed()
    config = GenerateConfig(**(settings | {"top_p": 1.0, "top_k": top_k}))
    chain = ["sound", "caption", "depth", "normals"]
    found = [
        generate(model, TOKENS, ids, given, chain, config, range(12), on_device=there)
        for there in (True, False)
    ]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_given_ids_stay_at_every_step(model, settings):
    ids, given = some_given("rgb", rows=1)
    given[:, [SOUND.start, SOUND.start + 3, SOUND.stop - 1, CAPTION.start + 2]] = True
    ids[:, CAPTION.start + 2] = 5
    spy = Spy(model)
    config, chain = GenerateConfig(**settings), ["sound", "depth", "caption"]
    got, filled = generate(spy, TOKENS, ids, given, chain, config, [3], on_device=True)
    text = got[0, CAPTION][filled[0, CAPTION]].tolist()
    assert text[-1] == 0 and 0 not in text[:-1] and len(text) > 3
    spy.shown = [[{s: i for s, i in row.items() if s < CAPTION.start}] for [row] in spy.shown]
    spy.asked = [[[s for s in row if s < CAPTION.start]] for [row] in spy.asked]
    check(spy, ids, given, got, filled)


# -- how much is computed ----------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_the_head_runs_for_the_ids_of_one_codebook(model, there):
    ids, given = some_given("rgb")
    config = GenerateConfig(steps=4, order="raster", schedule="constant", codebooks="levels")
    spy = Scored(model)
    generate(spy, TOKENS, ids, given, ["sound"], config, range(6), on_device=there)
    # Of sixteen ids eight; on the device only the slots that this step fills.
    wanted = [2, 2, 2, 2] if there else [4, 2, 4, 2]
    assert [(t, w) for _, t, w in spy.shapes] == [(t, 8) for t in wanted]
    spy = Scored(model)
    guided = ChainStep(target="sound", conditions=(Condition(sources=("rgb",), weight=2.0),),
                       negative=("depth",))  # fmt: skip
    both = given | some_given("depth")[1]
    generate(spy, TOKENS, ids, both, [guided], config, range(6), on_device=there)
    assert len(spy.shapes) == 4 and {w for _, _, w in spy.shapes} == {8}
    rows = {n for n, _, _ in spy.shapes}
    # Four tokens each: one pass; a CPU leaves out equal rows.
    assert rows == {12} if there else max(rows) == 12


def test_as_many_rows_as_the_memory_of_a_gpu_takes(model, monkeypatch):
    assert guidance.rows_that_fit(model, TOKENS, 8, 16, 2, 7) == 7, "what is set, on a CPU"
    card = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    there = SimpleNamespace(device=torch.device("cuda"), config=SimpleNamespace(dim=512))
    tokens = SimpleNamespace(length=1164)
    sounds = guidance.rows_that_fit(there, tokens, 256, 1024, 2, 7)
    pictures = guidance.rows_that_fit(there, tokens, 196, 16384, 2, 7)
    assert 128 <= sounds <= 512 and 32 <= pictures < sounds
    assert guidance.rows_that_fit(there, tokens, 10**6, 10**6, 2, 7) == 1


class Located:
    """A tokenizer on a device; what it decodes is how many sequences it was handed."""

    def __init__(self, device):
        self.device = torch.device(device)

    def decode(self, ids):
        assert ids.device == self.device
        return len(ids)


def test_media_are_decoded_in_large_parts_on_a_gpu():
    ids = torch.zeros(600, SOUND.stop - SOUND.start, dtype=torch.int64)
    sound = TOKENS.modalities[TOKENS.index("sound")]
    assert decode(Located("cpu"), sound, ids) == [DECODE_BATCH] * 37 + [8]
    assert decode(Located("meta"), sound, ids) == [DECODE_BATCH_GPU] * 2 + [88]


# -- told of every step ------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"remask_rounds": 2}, {"order": "random", "codebooks": "together"}]
)
def test_every_step_is_told(model, there, settings):
    ids, given = mixed()
    told = []

    def on_step(name, step, count, ids, given):
        told.append((name, step, count, ids.clone(), given.clone()))

    config = GenerateConfig(steps=3, **settings)
    chain = ["sound", "caption"]
    got, filled = generate(
        model, TOKENS, ids, given, chain, config, range(12), on_step, on_device=there
    )
    silent, _ = generate(model, TOKENS, ids, given, chain, config, range(12), on_device=there)
    assert torch.equal(got, silent)
    sound = [entry for entry in told if entry[0] == "sound"]
    assert [(s, n) for _, s, n, _, _ in sound] == [(i, len(sound)) for i in range(len(sound))]
    text = [entry for entry in told if entry[0] == "caption"]
    assert [entry[0] for entry in told] == ["sound"] * len(sound) + ["caption"] * len(text)
    steps = [s for _, s, _, _, _ in text]
    assert steps == sorted(set(steps)) and steps[-1] < text[0][2]
    for _, _, _, now, known in told:
        assert torch.equal(now[given], ids[given]) and known[given].all()
    if not settings.get("remask_rounds"):
        assert all(not (a[4] & ~b[4]).any() for a, b in itertools.pairwise(told))
    assert torch.equal(told[-1][4], filled)
    assert torch.equal(told[-1][3][filled], got[filled])
    assert sound[-1][4][:, SOUND].all()
