"""``wave_vq``: whole tokens, its ends, bad sounds, every quantizer and decoder, and the seam."""

import math

import pytest
import torch
from torch import nn

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import WaveVQ, of_kind
from nano4m.config.tokenizers.mel_vq import MelVQ
from nano4m.tokenizers.decoders import DECODERS, DecoderEntry
from nano4m.tokenizers.wave.crops import random_crops
from nano4m.tokenizers.wave_vq import WaveVQTokenizer

RATE = 16000
SMALL = {
    "strides": (32, 4), "vocab": 16, "width": 16, "code_dim": 8, "layers": 1, "steps": 6,
    "batch_size": 8, "crop_seconds": 0.064,
}  # fmt: skip
CPU = torch.device("cpu")


def tones(count: int, samples: int = 2000, seed: int = 0) -> torch.Tensor:
    """Steady tones of random pitch and level, (count, samples)."""
    g = torch.Generator().manual_seed(seed)
    pitch, level = (torch.rand(count, 1, generator=g) for _ in range(2))
    t = torch.arange(samples)[None] / RATE
    return 0.5 * 10 ** (-level) * torch.sin(2 * math.pi * (200 + 3000 * pitch) * t)


def fit(samples: int = 2000, seed: int = 0, **changes) -> WaveVQTokenizer:
    return WaveVQTokenizer.fit(WaveVQ(**SMALL | changes), tones(64, samples), RATE, seed)


KINDS = {
    "plain": {},
    "residual": {"codebooks": 3},
    "fsq": {"quantizer": "fsq"},
    "residual fsq": {"quantizer": "fsq", "codebooks": 2},
    "conv": {"decoder": "conv", "frontend": "conv", "strides": (2, 2, 5, 8)},
    "averaged": {"ema": 0.9, "schedule": "warm_restarts", "clip_norm": None},
    "adversarial": {"discriminators": "both", "adversarial_start": 0.0},
    "wavenet": {"decoder": "wavenet", "decoder_steps": 2, "decoder_layers": 4, "decoder_width": 8},
    "wavernn": {"decoder": "wavernn", "decoder_steps": 2, "decoder_width": 4},
    "least squares": {"discriminators": "stft", "adversarial_loss": "least_squares"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_fitted_saved_and_decodes_what_it_encodes(name, tmp_path):
    tokenizer, sounds = fit(**KINDS[name]), tones(5, seed=3)
    ids = tokenizer.encode(sounds)
    books = tokenizer.section.codebooks
    assert ids.shape == (5, -(-2000 // tokenizer.section.hop), books)
    assert torch.equal(ids // 16, torch.arange(books).expand_as(ids))
    decoded = tokenizer.decode(ids)
    assert decoded.shape == sounds.shape and bool(decoded.isfinite().all())
    # The seam: what the decoder gets is what the codebook says of the ids.
    latents = tokenizer.latents(ids)
    assert latents.shape == (5, tokenizer.codebook().shape[1], ids.shape[1])
    assert torch.allclose(latents.transpose(1, 2), tokenizer.codebook()[ids].sum(2), atol=1e-5)
    with torch.no_grad():
        whole = tokenizer.net.decoder(latents)
    assert whole.shape == (5, ids.shape[1] * tokenizer.hop)
    assert torch.allclose(decoded, whole[:, :2000].clamp(-1, 1), atol=1e-6)
    again = WaveVQTokenizer.from_state(*tokenizer.state())
    assert again.fingerprint == tokenizer.fingerprint and torch.equal(again.encode(sounds), ids)
    assert torch.equal(again.decode(ids), decoded)


@pytest.mark.parametrize("samples", [1, 31, 127, 128, 129, 1999])
def test_a_sound_of_any_length_fills_whole_tokens(samples):
    """Also one that is shorter than a token."""
    tokenizer = fit(samples)
    assert tokenizer.shape == (-(-samples // 128), 1)
    ids = tokenizer.encode(tones(3, samples, seed=1))
    assert tokenizer.decode(ids).shape == (3, samples)
    # Padding is silence: what the ids say of a sound does not depend on how it got there.
    longer = WaveVQTokenizer(tokenizer.shape[0] * 128, RATE, tokenizer.section)
    longer.net = tokenizer.net
    padded = torch.nn.functional.pad(tones(3, samples, seed=1), (0, -samples % 128))
    assert torch.equal(longer.encode(padded), ids)


def test_silence_and_clipped_sounds_give_finite_sounds():
    tokenizer = fit()
    square = tones(2).sign()
    for sounds in (torch.zeros(2, 2000), square, 1000 * square, torch.full((2, 2000), 1e-30)):
        decoded = tokenizer.decode(tokenizer.encode(sounds))
        assert bool(decoded.isfinite().all()) and float(decoded.abs().max()) <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    sounds = tones(3)
    sounds[1, 7] = bad
    with pytest.raises(ValueError, match="not finite"):
        fit().encode(sounds)


def test_ids_of_another_codebook_are_refused_by_name():
    tokenizer = fit(codebooks=2)
    ids = tokenizer.encode(tones(2))
    ids[1, 5, 1] = 3
    with pytest.raises(ValueError, match="id 3 at frame 5 is in the place of codebook 1.*16 to 31"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match="integers"):
        tokenizer.decode(ids.float())


def test_training_on_silence_or_one_short_sound_works():
    for sounds in (torch.zeros(4, 2000), tones(1, 300)):
        tokenizer = WaveVQTokenizer.fit(WaveVQ(**SMALL), sounds, RATE, 0)
        assert bool(tokenizer.decode(tokenizer.encode(sounds)).isfinite().all())
        assert all(bool(w.isfinite().all()) for w in tokenizer.net.parameters())


def test_crops_come_from_everywhere_and_are_parts_of_the_sounds():
    sounds = torch.arange(300.0).view(3, 100)
    g = torch.Generator().manual_seed(0)
    crops = random_crops(sounds, 400, 40, g, CPU)
    assert crops.shape == (400, 40)
    assert torch.equal(crops.diff(dim=1), torch.ones(400, 39)), "a crop is consecutive samples"
    starts = crops[:, 0].long()
    assert set((starts // 100).tolist()) == {0, 1, 2}
    assert int((starts % 100).max()) == 60 and int((starts % 100).min()) == 0
    longer = random_crops(sounds, 5, 130, g, CPU)
    assert bool((longer[:, 100:] == 0).all()) and bool((longer[:, 99] % 100 == 99).all())


def test_memory_of_crops_does_not_grow_with_the_sounds():
    """A step reads what it crops; sounds that are one value each are never expanded."""
    sounds = torch.zeros(1).expand(10**6, 10**6)
    crops = random_crops(sounds, 4, 100, torch.Generator().manual_seed(0), CPU)
    assert crops.shape == (4, 100)


def test_a_decoder_of_its_own_is_trained_on_frozen_latents(monkeypatch):
    """The seam of decoders that are fitted after the encoder."""
    seen = []

    class Repeat(nn.Module):
        def __init__(self, hop: int) -> None:
            super().__init__()
            self.hop, self.gain = hop, nn.Parameter(torch.zeros(()))

        def forward(self, latents):
            return self.gain * latents.mean(1).repeat_interleave(self.hop, 1)

    def train(decoder, pairs, section, sample_rate, seed):
        latents, sounds = pairs(torch.Generator().manual_seed(seed))
        assert not latents.requires_grad
        assert latents.shape[2] * section.hop == sounds.shape[1]
        seen.append((latents, sounds, sample_rate))
        nn.init.constant_(decoder.gain, 0.25)

    entry = DecoderEntry(lambda section, rate: Repeat(section.hop), train)
    monkeypatch.setitem(DECODERS, "repeat", entry)
    section = WaveVQ(**SMALL).model_copy(update={"decoder": "repeat"})
    tokenizer = WaveVQTokenizer.fit(section, tones(64), RATE, 0)
    (latents, sounds, rate), *others = seen
    assert rate == RATE and not others
    ids = tokenizer.encode(tones(5, seed=3))
    expected = (0.25 * tokenizer.latents(ids).mean(1)).repeat_interleave(tokenizer.hop, 1)
    assert torch.allclose(tokenizer.decode(ids), expected[:, :2000].clamp(-1, 1), atol=1e-6)
    # Those latents are of the codebook that is kept.
    book = tokenizer.codebook()
    assert float(torch.cdist(latents.transpose(1, 2).flatten(0, 1), book).amin(1).max()) < 1e-3
    # The encoder is the one that the decoder of the default has trained.
    plain = WaveVQTokenizer.fit(WaveVQ(**SMALL), tones(64), RATE, 0)
    assert torch.equal(plain.encode(tones(5, seed=3)), ids)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"strides": (2, 2)}, "decoder istft"),
        ({"strides": (2, 2), "decoder": "conv"}, "frontend filters"),
        ({"quantizer": "fsq", "vocab": 100}, "FSQ has no levels"),
        ({"strides": ()}, "strides"),
        ({"strides": (0, 4)}, "strides"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        WaveVQ(**changes)


def test_too_many_tokens_are_refused_and_another_kind_keeps_the_common_settings():
    section = WaveVQ(strides=(8,), codebooks=32)
    with pytest.raises(ValueError, match="larger strides"):
        section.check_clips(ClipsConfig())
    other = of_kind("sound", "wave_vq", MelVQ(vocab=256, codebooks=2, augmentations=8))
    assert isinstance(other, WaveVQ)
    assert (other.vocab, other.codebooks, other.augmentations) == (256, 2, 8)
    # The same rate as mel_vq at the defaults of both.
    clips = ClipsConfig()
    assert WaveVQ().token_shape(clips) == MelVQ().token_shape(clips)
