"""The vocoder of ``mel_vq``: aligned with its frames, better than noise, the same every time."""

import math

import pytest
import torch

from nano4m.config.tokenizers import MelVQ
from nano4m.media.mel import MelSpectrogram
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.mel_vq import MelVQTokenizer
from nano4m.tokenizers.quality import measure

RATE = 8000
SMALL = {
    "n_fft": 256, "hop": 64, "mels": 16, "downsample": 4, "vocab": 16, "width": 16, "code_dim": 8,
    "steps": 30, "batch_size": 16, "vocoder": "gan", "vocoder_steps": 60, "vocoder_width": 24,
}  # fmt: skip


def tones(count, samples=4001, seed=0):
    """Tones that begin in the middle, of random pitch and level, (count, samples)."""
    g = torch.Generator().manual_seed(seed)
    pitch, level = (torch.rand(count, 1, generator=g) for _ in range(2))
    t = torch.arange(samples)[None] / RATE
    tone = 0.5 * 10 ** (-0.5 * level) * torch.sin(2 * math.pi * (300 + 2000 * pitch) * t)
    return tone * (t > 0.25)


@pytest.fixture(scope="module")
def fitted():
    return MelVQTokenizer.fit(MelVQ(**SMALL), tones(64), RATE, seed=0)


def test_it_is_nearer_than_an_unfitted_one_and_keeps_times(fitted):
    sounds = tones(8, seed=3)
    mel = MelSpectrogram(RATE, 256, 64, 16)
    made = fitted.decode(fitted.encode(sounds))
    assert made.shape == sounds.shape and made.abs().max() <= 1
    raw = MelVQTokenizer(sounds.shape[1], RATE, MelVQ(**SMALL))
    raw.net, raw.mean, raw.std = fitted.net, fitted.mean, fitted.std
    unfitted = raw.decode(fitted.encode(sounds))
    near, far = ((mel(y) - mel(sounds)).abs().mean() for y in (made, unfitted))
    assert near < 0.8 * far
    # The tone begins where it did: silence before, sound after.
    before, after = (part.square().mean(1).sqrt() for part in (made[:, :1800], made[:, 2200:]))
    assert (after > 3 * before).all()


def test_batched_equals_single_and_a_saved_one_says_the_same(fitted, tmp_path):
    ids = fitted.encode(tones(5, seed=4))
    together = fitted.decode(ids)
    for row in range(5):
        torch.testing.assert_close(fitted.decode(ids[row : row + 1])[0], together[row])
    fitted.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == fitted.fingerprint
    assert torch.equal(again.decode(ids), together)


def test_the_ids_are_those_without_a_vocoder():
    settings = SMALL | {"vocoder_steps": 2}
    with_it = MelVQTokenizer.fit(MelVQ(**settings), tones(64), RATE, seed=0)
    without = MelVQTokenizer.fit(
        MelVQ(**settings | {"vocoder": "griffin_lim"}), tones(64), RATE, seed=0
    )
    sounds = tones(8, seed=5)
    assert torch.equal(with_it.encode(sounds), without.encode(sounds))
    assert with_it.fingerprint != without.fingerprint


def test_sounds_shorter_than_a_crop_and_silence():
    short = MelVQTokenizer.fit(MelVQ(**SMALL | {"vocoder_steps": 2}), tones(40, 300), RATE, seed=0)
    made = short.decode(short.encode(torch.zeros(2, 300)))
    assert made.shape == (2, 300) and bool(made.isfinite().all())


def test_its_figures_are_not_told_as_those_of_griffin_lim(fitted):
    found = measure(fitted, "sound", tones(8, seed=6))
    assert "vocoder_logmel_error_db" in found and "griffin_lim_logmel_error_db" not in found
