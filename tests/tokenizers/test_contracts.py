"""What every kind of tokenizer promises for every kind of media, by the registries."""

import math

import pytest
import torch
from small_codecs import SIZES, WRITERS, save_codec

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import SECTIONS
from nano4m.errors import UserError
from nano4m.media import MEDIA
from nano4m.modalities import TEXT_END
from nano4m.tokenizers import TOKENIZERS, load_tokenizer
from nano4m.tokenizers.base import Material
from nano4m.tokenizers.quality import measure

CLIPS = ClipsConfig(window_seconds=0.256, sample_rate=16000, picture_size=16)
RATE = CLIPS.sample_rate
CPU = torch.device("cpu")
SMALL = {
    "steps": 2, "batch_size": 8, "width": 8, "code_dim": 4, "vocab": 32, "grid": 4, "n_fft": 256,
    "hop": 64, "mels": 24, "codebooks": 2, "griffin_lim": 2, "max_length": 12,
}  # fmt: skip
"""Settings by the names that kinds share; one that a kind lacks is left out."""
WEIGHTS: dict[str, str] = {}
"""Kind that is pretrained -> folder of small random weights."""
CASES = [
    (kind, media)
    for kind, section in SECTIONS.items()
    for media, known in MEDIA.items()
    if section.layout in known.layouts
]


def media_of(name: str, count: int, seed: int = 0):
    """Return made-up media of a kind in the form that tokenizers take."""
    kind, g = MEDIA[name], torch.Generator().manual_seed(seed)
    if kind.form == "text":
        return [f"a {('red', 'blue')[i % 2]} {('dog', 'cow', 'hen')[i % 3]}" for i in range(count)]
    if kind.form == "sound":
        samples = round(CLIPS.window_seconds * RATE)
        pitch = 200 + 800 * torch.rand(count, 1, generator=g)
        return 0.4 * torch.sin(2 * math.pi * pitch * torch.arange(samples)[None] / RATE)
    size = CLIPS.picture_size
    coarse = torch.rand(count, kind.channels, 4, 4, generator=g)
    planes = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return torch.nn.functional.normalize(planes * 2 - 1, dim=1) if kind.is_direction else planes


def section_of(kind: str):
    fields, given = SECTIONS[kind].model_fields, SMALL | SIZES | {"weights": WEIGHTS.get(kind)}
    return SECTIONS[kind](**{name: value for name, value in given.items() if name in fields})


def prepare(kind: str, media: str, seed: int = 0):
    train = media_of(media, 32)
    texts = train if isinstance(train, list) else []
    material = Material(media, train, media_of(media, 8, seed=1), 8, RATE, texts)
    return TOKENIZERS[kind].load().prepare(section_of(kind), material, seed, CPU)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    for kind in WRITERS:
        WEIGHTS[kind] = str(save_codec(kind, tmp_path_factory.mktemp(kind)))
    return {case: prepare(*case) for case in CASES}


def same(one, other) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_registries_know_the_same_kinds():
    assert TOKENIZERS.keys() == SECTIONS.keys()
    assert {media for _, media in CASES} == set(MEDIA), "a kind of media that nothing tokenises"
    for kind, entry in TOKENIZERS.items():
        assert entry.load().key == kind and entry.description and entry.licence
        assert entry.load().licence == entry.licence


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_tokens_have_the_form_that_the_section_promises(prepared, case):
    tokenizer, media = prepared[case], media_of(case[1], 5, seed=7)
    promised = section_of(case[0]).token_shape(CLIPS)
    ids = tokenizer.encode(media)
    assert ids.dtype == torch.int64 and tuple(ids.shape) == (5, *tokenizer.shape)
    assert int(ids.min()) >= 0 and int(ids.max()) < tokenizer.vocab_size
    if promised.layout == "text":
        # Learnt from the texts: the section says the most.
        assert tokenizer.vocab_size <= sum(promised.vocab_sizes)
        assert tokenizer.shape[0] <= promised.shape[0]
        assert bool((ids == TEXT_END).any(1).all())
    else:
        assert tokenizer.shape == promised.shape
        assert tokenizer.vocab_size == sum(promised.vocab_sizes)
        books = len(promised.vocab_sizes)
        size, own = tokenizer.vocab_size // books, ids.flatten(1)
        slots = torch.arange(own.shape[1]) % books
        assert torch.equal(own // size, slots.expand(5, -1)), "ids of another codebook"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_media_come_back_in_the_form_they_went_in(prepared, case):
    tokenizer, media = prepared[case], media_of(case[1], 5, seed=7)
    back = tokenizer.decode(tokenizer.encode(media))
    kind = MEDIA[case[1]]
    if kind.form == "text":
        assert back == media
        return
    assert back.shape == media.shape and back.dtype == torch.float32
    low = -1.0 if kind.form == "sound" or kind.is_direction else 0.0
    assert low - 1e-6 <= float(back.min()) and float(back.max()) <= 1 + 1e-6
    if kind.is_direction:
        assert torch.allclose(back.norm(dim=1), torch.ones(()), atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_one_at_a_time_is_as_all_at_once(prepared, case):
    tokenizer, media = prepared[case], media_of(case[1], 4, seed=3)
    ids = tokenizer.encode(media)
    alone = torch.cat([tokenizer.encode(media[i : i + 1]) for i in range(4)])
    assert torch.equal(ids, alone)
    assert same(tokenizer.decode(ids[1:2])[0], tokenizer.decode(ids[1:2])[0])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_saved_and_loaded_it_is_the_same(prepared, case, tmp_path):
    tokenizer, media = prepared[case], media_of(case[1], 4, seed=3)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert torch.equal(loaded.encode(media), tokenizer.encode(media))
    vectors = tokenizer.codebook()
    assert vectors is None or len(vectors) == tokenizer.vocab_size
    (tmp_path / "tokenizer.json").write_text(
        (tmp_path / "tokenizer.json").read_text().replace(tokenizer.fingerprint, "0" * 12)
    )
    with pytest.raises(UserError, match="was changed"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_same_seed_prepares_the_same(prepared, case):
    assert prepare(*case).fingerprint == prepared[case].fingerprint


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_ids_outside_the_vocabulary_and_media_of_another_form_are_refused(prepared, case):
    tokenizer = prepared[case]
    ids = tokenizer.encode(media_of(case[1], 2))
    for wrong in (ids + tokenizer.vocab_size, ids - tokenizer.vocab_size, ids[..., :-1]):
        with pytest.raises(ValueError):
            tokenizer.decode(wrong)
    if MEDIA[case[1]].form != "text":
        with pytest.raises(ValueError):
            tokenizer.encode(media_of(case[1], 2)[..., :-1])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_its_quality_is_measured(prepared, case):
    found = measure(prepared[case], case[1], media_of(case[1], 8, seed=1))
    assert {"codes_used_share", "perplexity", "bits_a_clip"} < found.keys()
    assert all(math.isfinite(value) for value in found.values()), found
