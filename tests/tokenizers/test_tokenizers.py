"""Contracts that every tokenizer keeps, and what is special to each."""

import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from nano4m.config.tokenizers import Bpe, ImageVQ, MelVQ
from nano4m.config.tokenizers.form import FSQ_LEVELS
from nano4m.errors import UserError
from nano4m.media.picture import psnr
from nano4m.media.sound import rms_db
from nano4m.modalities import MODALITIES, TEXT_END
from nano4m.tokenizers import TOKENIZERS, load_tokenizer
from nano4m.tokenizers.bpe import UNKNOWN, BpeTokenizer
from nano4m.tokenizers.image_vq import ImageVQTokenizer
from nano4m.tokenizers.mel_vq import MelVQTokenizer
from nano4m.tokenizers.quality import code_use

RATE = 8000
CAPTIONS = [
    f"a {size} {colour} {animal}, far away"
    for size in ("small", "large")
    for colour in ("red", "blue", "grey")
    for animal in ("dog", "cow", "Cat")
]
IMAGE = ImageVQ(grid=4, vocab=64, width=32, code_dim=8, steps=80, batch_size=32)
MEL = MelVQ(
    n_fft=256, hop=64, mels=24, downsample=4, vocab=64, width=48, code_dim=8, steps=300,
    batch_size=32, griffin_lim=8,
)  # fmt: skip


def pictures(count: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Discs of random place, size and colours on a ramp, (count, channels, 16, 16) in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, 16)
    x, y = axis[None, :, None], axis[None, None, :]
    place, size, colour, ground = (
        torch.rand(count, n, 1, 1, generator=g) for n in (2, 1, channels, channels)
    )
    where = (x - place[:, 0] * 1.2 + 0.6) ** 2 + (y - place[:, 1] * 1.2 + 0.6) ** 2
    inside = (where < (0.2 + 0.5 * size[:, 0]) ** 2)[:, None]
    return torch.where(inside, colour, ground * (0.75 + 0.25 * x[:, None]))


def sounds(count: int, seed: int = 0) -> torch.Tensor:
    """Gliding tones of random pitch, level and onset, (count, 2000); 32 frames, 8 tokens."""
    g = torch.Generator().manual_seed(seed)
    pitch, glide, level, onset = (torch.rand(count, 1, generator=g) for _ in range(4))
    t = torch.arange(2000)[None] / RATE
    tone = torch.sin(2 * math.pi * (200 + 1500 * pitch + 1000 * glide * t) * t)
    return tone * 10 ** (-level) * 0.5 * (t > onset * 0.1)


def unit(media: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(media * 2 - 1, dim=1)


MEDIA = {
    "picture": lambda n, seed=0: pictures(n, 3, seed),
    "fsq": lambda n, seed=0: pictures(n, 3, seed),
    "depth": lambda n, seed=0: pictures(n, 1, seed),
    "normals": lambda n, seed=0: unit(pictures(n, 3, seed)),
    "sound": sounds,
    "residual": sounds,
    "caption": lambda n, seed=0: [CAPTIONS[(i + seed) % len(CAPTIONS)] for i in range(n)],
}


def fit(name: str, seed: int = 0, **changes):
    media = MEDIA[name](256)
    if name == "caption":
        return BpeTokenizer.fit(Bpe(vocab=128, max_length=16).model_copy(update=changes), media)
    if name in ("sound", "residual"):
        books = {"codebooks": 2, "vocab": 32} if name == "residual" else {}
        return MelVQTokenizer.fit(MEL.model_copy(update=books | changes), media, RATE, seed)
    fsq = {"quantizer": "fsq"} if name == "fsq" else {}
    kind = "picture" if name == "fsq" else name
    return ImageVQTokenizer.fit(IMAGE.model_copy(update=fsq | changes), kind, media, seed)


@pytest.fixture(scope="module")
def fitted():
    return {name: fit(name) for name in MEDIA}


def error(tokenizer, media, ids=None) -> float:
    """Mean absolute error of a round trip, in the units that the network sees."""
    ids = tokenizer.encode(media) if ids is None else ids
    if isinstance(tokenizer, MelVQTokenizer):
        return float((tokenizer.decode_logmel(ids) - tokenizer.mel(media)).abs().mean())
    return float((tokenizer.decode(ids) - media).abs().mean())


# -- contracts of all --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEDIA)
def test_ids_and_media_have_the_promised_form(fitted, name):
    tokenizer, media = fitted[name], MEDIA[name](5, seed=7)
    ids = tokenizer.encode(media)
    assert ids.dtype == torch.int64 and ids.shape == (5, *tokenizer.shape)
    assert int(ids.min()) >= 0 and int(ids.max()) < tokenizer.vocab_size
    decoded = tokenizer.decode(ids)
    if name == "caption":
        assert decoded == media
        return
    assert decoded.shape == media.shape and decoded.dtype == torch.float32
    assert torch.equal(decoded, tokenizer.decode(ids))
    low = -1 if name in ("normals", "sound", "residual") else 0
    assert float(decoded.min()) >= low - 1e-5 and float(decoded.max()) <= 1 + 1e-5
    if name == "normals":
        assert decoded.norm(dim=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", MEDIA)
def test_save_and_load_keep_ids_and_fingerprint(fitted, name, tmp_path):
    tokenizer, media = fitted[name], MEDIA[name](6, seed=3)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and loaded.shape == tokenizer.shape
    assert loaded.fingerprint == tokenizer.fingerprint
    ids = tokenizer.encode(media)
    assert torch.equal(loaded.encode(media), ids)
    first, second = tokenizer.decode(ids), loaded.decode(ids)
    assert first == second if name == "caption" else torch.equal(first, second)
    assert not list(tmp_path.glob("*.p*kl*")) and tokenizer.key in TOKENIZERS


@pytest.mark.parametrize("name", [n for n in MEDIA if n != "caption"])
def test_one_changed_weight_is_refused(fitted, name, tmp_path):
    fitted[name].save(tmp_path)
    weights = load_file(tmp_path / "tokenizer.safetensors")
    first = next(k for k in sorted(weights) if weights[k].is_floating_point())
    weights[first].view(-1)[0] += 1e-3
    save_file(weights, tmp_path / "tokenizer.safetensors")
    with pytest.raises(UserError, match=fitted[name].fingerprint):
        load_tokenizer(tmp_path)


def test_a_changed_merge_or_a_missing_file_is_refused(fitted, tmp_path):
    with pytest.raises(UserError, match="tokenizer.json is missing"):
        load_tokenizer(tmp_path)
    fitted["caption"].save(tmp_path)
    head = json.loads((tmp_path / "tokenizer.json").read_text())
    head["settings"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(head))
    with pytest.raises(UserError, match="was changed"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(head | {"key": "image_vqq"}))
    with pytest.raises(UserError, match="did you mean 'image_vq'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["picture", "residual", "caption"])
def test_the_seed_decides(name):
    changes = {} if name == "caption" else {"steps": 12}
    first, again = fit(name, **changes), fit(name, **changes)
    assert first.fingerprint == again.fingerprint
    if name != "caption":
        assert fit(name, seed=1, **changes).fingerprint != first.fingerprint


@pytest.mark.parametrize("name", MEDIA)
def test_wrong_ids_are_refused_with_both_values(fitted, name):
    tokenizer = fitted[name]
    ids = tokenizer.encode(MEDIA[name](2))
    with pytest.raises(ValueError, match="ids must be .*not "):
        tokenizer.decode(ids[:, :-1])
    for wrong in (-1, tokenizer.vocab_size):
        bad = ids.clone()
        bad.view(-1)[0] = wrong
        with pytest.raises(ValueError, match=f"{wrong}.*0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode(bad)


@pytest.mark.parametrize("name", MEDIA)
def test_wrong_media_are_refused(fitted, name):
    wrong = "a dog" if name == "caption" else MEDIA[name](2)[..., :-1]
    with pytest.raises(ValueError, match="must be .*not "):
        fitted[name].encode(wrong)


def test_the_registry_names_only_tokenizers_that_exist_and_loads_no_torch():
    assert {m.tokenizer for m in MODALITIES.values()} <= set(TOKENIZERS)
    assert all(entry.load().key == key for key, entry in TOKENIZERS.items())
    code = "import sys, nano4m.tokenizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- learnt ones -------------------------------------------------------------------------------

LEARNT = [n for n in MEDIA if n != "caption"]


@pytest.mark.parametrize("name", LEARNT)
def test_the_ids_carry_the_media(fitted, name):
    """Held-out media come back closer than their mean, and a shifted codebook spoils it."""
    tokenizer, media = fitted[name], MEDIA[name](64, seed=9)
    reference = tokenizer.mel(media) if name in ("sound", "residual") else media
    blind = float((reference - reference.mean(0)).abs().mean())
    good = error(tokenizer, media)
    assert good < 0.75 * blind
    ids = tokenizer.encode(media)
    book = tokenizer.section.vocab
    shifted = ids // book * book + (ids % book + 1) % book
    assert error(tokenizer, media, shifted) > 1.25 * good


@pytest.mark.parametrize("name", LEARNT)
def test_the_codebook_does_not_collapse(fitted, name):
    tokenizer = fitted[name]
    ids = tokenizer.encode(MEDIA[name](256, seed=5))
    book = tokenizer.section.vocab
    for k in range(tokenizer.vocab_size // book):
        own = (ids if name != "residual" else ids[..., k]) - k * book
        assert code_use(own, book)["perplexity"] > 0.2 * book


def test_fsq_uses_its_codes(fitted):
    ids = fitted["fsq"].encode(pictures(2000, 3, seed=4))
    assert code_use(ids, 64)["codes_used_share"] > 0.8


def test_a_few_pictures_are_learnt_by_heart():
    few = pictures(8, 3, seed=2)
    tokenizer = ImageVQTokenizer.fit(IMAGE.model_copy(update={"steps": 200}), "picture", few, 0)
    assert float(psnr(few, tokenizer.decode(tokenizer.encode(few))).mean()) > 22


def test_sizes_that_do_not_go_together():
    with pytest.raises(UserError, match=r"grid 5 .*allowed grids: \[1, 2, 4, 8\]"):
        ImageVQTokenizer("picture", 16, IMAGE.model_copy(update={"grid": 5}))
    with pytest.raises(UserError, match="vocab 100; allowed: .*240"):
        ImageVQTokenizer("picture", 16, IMAGE.model_copy(update={"quantizer": "fsq", "vocab": 100}))
    assert all(math.prod(levels) == vocab for vocab, levels in FSQ_LEVELS.items())


# -- sound -------------------------------------------------------------------------------------


def test_the_level_survives(fitted):
    media = sounds(32, seed=8)
    tokenizer = fitted["sound"]
    level = rms_db(tokenizer.decode(tokenizer.encode(media))) - rms_db(media)
    assert float(level.abs().mean()) < 4


def test_an_id_in_the_other_codebook_s_place_is_refused(fitted):
    tokenizer = fitted["residual"]
    ids = tokenizer.encode(sounds(2))
    assert tokenizer.shape == (8, 2) and tokenizer.vocab_size == 64
    assert int(ids[..., 0].max()) < 32 <= int(ids[..., 1].min())
    with pytest.raises(ValueError, match="place of codebook 0, whose ids are 0 to 31"):
        tokenizer.decode(ids.flip(-1))


def test_a_last_token_may_reach_behind_the_sound():
    tokenizer = MelVQTokenizer(64 * 9 + 1, RATE, MEL)
    assert (tokenizer.frames, tokenizer.shape) == (10, (3, 1))
    assert tokenizer.decode(torch.zeros(1, 3, 1, dtype=torch.int64)).shape == (1, 577)


# -- captions ----------------------------------------------------------------------------------


def test_captions_end_once_and_are_padded_with_their_end(fitted):
    tokenizer = fitted["caption"]
    ids = tokenizer.encode(["a small red dog, far away", "a dog"])
    lengths = tokenizer.lengths(ids)
    for row, n in zip(ids, lengths, strict=True):
        assert bool((row[n - 1 :] == TEXT_END).all()) and bool((row[: n - 1] != TEXT_END).all())
    assert int(lengths[1]) == 3  # one token a word, and the end
    assert tokenizer.max_length == int(tokenizer.lengths(tokenizer.encode(CAPTIONS)).max())


def test_spaces_and_case_survive(fitted):
    texts = ["a  dog", " a dog ", "Cat, a", ""]
    assert fitted["caption"].decode(fitted["caption"].encode(texts)) == texts


def test_unseen_characters_become_unknown_and_are_counted(fitted):
    tokenizer = fitted["caption"]
    ids = tokenizer.encode(["a dog", "a dog!!"])
    assert tokenizer.unknown(ids).tolist() == [0, 2]
    assert tokenizer.decode(ids)[1] == "a dog\ufffd\ufffd"
    assert int((ids == UNKNOWN).sum()) == 2


def test_the_names_of_special_tokens_are_plain_text():
    text = "end of text not seen"
    tokenizer = BpeTokenizer.fit(Bpe(vocab=64, max_length=16), [text])
    ids = tokenizer.encode([text])
    assert int(tokenizer.lengths(ids)) == 6 and tokenizer.decode(ids) == [text]


def test_captions_that_do_not_fit(fitted):
    with pytest.raises(UserError, match="'dog dog .* has 41 tokens .*longest allowed has 8"):
        fitted["caption"].encode([" ".join(["dog"] * 20) + " dog" * 19])
    with pytest.raises(UserError, match="vocab 10 is smaller"):
        BpeTokenizer.fit(Bpe(vocab=10), CAPTIONS)
    with pytest.raises(UserError, match="no caption"):
        BpeTokenizer.fit(Bpe(), ["", ""])
