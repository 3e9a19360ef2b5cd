"""Planted faults of tokenizers are caught, weak ones pass, and empty media accuse none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_contracts import RATE, media_of
from test_fit import Clips, config

from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import fit as fitting
from nano4m.tokenizers.fit import fit_tokenizers
from nano4m.tokenizers.quality import Examined, examine
from nano4m.tokenizers.verdict import (
    CAUSES,
    check_ids_fit,
    judge,
    least_share,
    own_nearer_share,
    refuse_broken,
    verdict_figures,
)

KINDS = ["sound", "picture", "depth", "normals"]
COUNT = 32


class Lookup:
    """A tokenizer whose codes are whole media: item i has the id i, in each of two codebooks."""

    def __init__(self, media: torch.Tensor, noise: float = 0.0, gain: float = 1.0) -> None:
        self.media, self.sample_rate, self.device = media, RATE, torch.device("cpu")
        self.num_codebooks, self.shape, self.vocab_size = 2, (1, 2), 2 * len(media)
        g = torch.Generator().manual_seed(1)
        mean = media.mean(0)
        rough = noise * torch.randn(media.shape, generator=g)
        self.decoded = mean + gain * (media - mean) + rough

    def encode(self, media: torch.Tensor) -> torch.Tensor:
        distance = torch.cdist(media.flatten(1), self.media.flatten(1))
        own = distance.argmin(1)
        return torch.stack([own, own + len(self.media)], 1)[:, None]

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoded[ids[:, 0, 0] % len(self.media)]


def verdict_of(tokenizer, kind: str, media: torch.Tensor):
    ids = tokenizer.encode(media)
    return check_ids_fit(tokenizer, ids) or judge(
        tokenizer, kind, media, ids, tokenizer.decode(ids)
    )


# -- planted faults ----------------------------------------------------------------------------

FAULTS = {
    "nothing": lambda t: setattr(t, "decode", lambda ids: 0 * t.decoded[ids[:, 0, 0]]),
    "the mean of all": lambda t: setattr(
        t, "decode", lambda ids: t.decoded.mean(0).expand(len(ids), *t.decoded.shape[1:])
    ),
    "shifted ids": lambda t: setattr(t, "decoded", t.decoded.roll(1, 0)),
    "shuffled ids": lambda t: setattr(
        t, "decoded", t.decoded[torch.randperm(len(t.decoded), generator=torch.manual_seed(3))]
    ),
    "no numbers": lambda t: setattr(t, "decoded", t.decoded * float("nan")),
    "one sound of many has none": lambda t: t.decoded[3].fill_(float("inf")),
    "ids above the vocabulary": lambda t: setattr(t, "vocab_size", len(t.media)),
    "ids of another codebook": lambda t: setattr(
        t, "encode", lambda media, whole=t.encode: whole(media).flip(-1)
    ),
    "ids below zero": lambda t: setattr(t, "encode", lambda media, e=t.encode: e(media) - 1),
    "ids of another shape": lambda t: setattr(t, "shape", (2, 1)),
    "one id everywhere": lambda t: setattr(
        t, "encode", lambda media: torch.tensor([[[0, COUNT]]]).expand(len(media), -1, -1)
    ),
}
EXPECTED = {
    "nothing": {"silence", "one colour"},
    "the mean of all": {"another's", "one colour", "silence"},
    "shifted ids": {"another's"},
    "shuffled ids": {"another's"},
    "no numbers": {"not finite"},
    "one sound of many has none": {"not finite"},
    "one id everywhere": {"constant ids"},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_caught(kind, fault, seed):
    media = media_of(kind, COUNT, seed)
    tokenizer = Lookup(media)
    assert verdict_of(tokenizer, kind, media).fault is None
    FAULTS[fault](tokenizer)
    found = verdict_of(tokenizer, kind, media)
    assert found.fault in EXPECTED.get(fault, {"ids"}), found
    assert any(c.isdigit() for c in found.reason) and found.advice("sound")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_weak_tokenizer_is_not_broken(kind, seed):
    """A tenth of the contrast, and noise as strong as what is left of it."""
    media = media_of(kind, COUNT, seed)
    left = 0.1 * float((media - media.mean(0)).std())
    found = verdict_of(Lookup(media, noise=left, gain=0.1), kind, media)
    assert found.fault is None and 0.5 < found.own_nearer_share <= 1, found


# -- media that say nothing --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["silent", "alike", "two of them", "one", "few"])
def test_media_that_say_nothing_accuse_no_tokenizer(kind, what):
    media = media_of(kind, COUNT)
    if what == "silent":
        media = torch.zeros_like(media) if kind == "sound" else torch.full_like(media, 0.5)
    elif what == "alike":
        media = media[:1].repeat(COUNT, *[1] * (media.ndim - 1))
    elif what == "two of them":
        media = media[:2].repeat_interleave(COUNT // 2, 0)
    else:
        media = media[: 1 if what == "one" else 5]
    found = verdict_of(Lookup(media), kind, media)
    assert found.fault is None and found.own_nearer_share is None, found


def test_silent_and_audible_sounds_together_are_judged_by_the_audible():
    media = media_of("sound", COUNT)
    media[: COUNT - 6] = 0
    tokenizer = Lookup(media)
    assert verdict_of(tokenizer, "sound", media).fault is None
    tokenizer.decoded = 0 * media
    found = verdict_of(tokenizer, "sound", media)
    assert found.fault == "silence" and found.reason.startswith("6 of 6 audible")


# -- the share of pairs ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_share_of_pairs_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 9, 40))
    y += 0.3 * x
    a, b = x - x.mean(0), y - y.mean(0)

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    hits = [cosine(b[i], a[i]) > cosine(b[i], a[j]) for i in range(9) for j in range(9) if i != j]
    assert own_nearer_share(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(
        np.mean(hits)
    )


def test_unrelated_round_trips_stay_below_the_least_share():
    """The null model: of 400 draws without any relation, hardly one is taken for a relation."""
    g = torch.Generator().manual_seed(0)
    for count in (8, 32):
        found = [
            own_nearer_share(*torch.randn(2, count, 60, generator=g)) for _ in range(400)
        ]  # fmt: skip
        assert np.mean(found) == pytest.approx(0.5, abs=0.02)
        assert np.mean([share >= least_share(count) for share in found]) < 0.01


# -- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts, decoded, is_broken",
    [
        (["a dog", "a cow"], ["", ""], True),
        (["a dog", "a cow"], ["a dog", "a c?"], False),
        (["", ""], ["", ""], False),
        (["a dog", "a dog"], ["a d", "a d"], False),
    ],
)
def test_texts(texts, decoded, is_broken):
    tokenizer = SimpleNamespace(shape=(1,), vocab_size=9, num_codebooks=1)
    found = judge(tokenizer, "caption", texts, torch.zeros(2, 1, dtype=torch.int64), decoded)
    assert (found.fault == "texts") == is_broken


# -- the stage ---------------------------------------------------------------------------------


def test_the_stage_refuses_keeps_what_it_found_and_goes_on_if_told_to(tmp_path, monkeypatch):
    def broken_sound(tokenizer, kind, media):
        if kind == "sound":
            tokenizer.decode = lambda ids: torch.zeros(len(ids), media.shape[1])
        return examine(tokenizer, kind, media)

    monkeypatch.setattr(fitting, "examine", broken_sound)
    settings = config(caption=Bpe()).model_copy(update={"broken_tokenizers": "refuse"})
    for _ in range(2):  # the second time from what stands in the folder
        clips = Clips()
        with pytest.raises(UserError) as refused:
            fit_tokenizers(settings, clips, tmp_path)
        said = str(refused.value)
        assert "tokenizer of sound is broken" in said and "come back as silence" in said
        assert "--tokenizers.sound.steps" in said and "--broken-tokenizers accept" in said
    assert not clips.asked, "fitted again"
    found = read_json(tmp_path / "quality.json")
    assert found["sound"]["verdict"] == "broken" and "dB" in found["sound"]["verdict_reason"]
    assert found["caption"]["verdict"] == "fine"
    accepted = settings.model_copy(update={"broken_tokenizers": "accept"})
    assert fit_tokenizers(accepted, clips, tmp_path) == found and not clips.asked
    with pytest.raises(UserError, match="tokenizer of sound is broken"):
        refuse_broken(found, accepts=False)  # what table and train do
    refuse_broken(found, accepts=True)


def test_figures_of_before_have_no_verdict_and_pass():
    refuse_broken({"sound": {"rms_error_db": 3.0}, "caption": {}}, accepts=False)


@pytest.mark.parametrize("fault", CAUSES)
def test_every_cause_says_what_to_do(fault):
    examined = Examined({}, SimpleNamespace(fault=fault, reason="3 of 4"))
    with pytest.raises(UserError, match="3 of 4.*Likely cause: .*fit"):
        refuse_broken({"rgb": verdict_figures(examined.verdict)}, accepts=False)
