"""``semantic`` with the frames of a pretrained encoder: small random networks of each family."""

import math
import shutil

import pytest
import torch
from small_audio_encoders import MAKERS, RATE, save_encoder

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import Semantic
from nano4m.errors import UserError
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.frames.pretrained import PretrainedFrames, find_encoder
from nano4m.tokenizers.semantic import SemanticTokenizer

SMALL = {
    "n_fft": 512, "hop": 128, "mels": 24, "downsample": 4, "vocab": 8, "width": 8, "code_dim": 4,
    "steps": 2, "batch_size": 8, "griffin_lim": 2,
}  # fmt: skip
SAMPLES = 8192
KINDS = list(MAKERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_encoder(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def sounds(count: int, samples: int = SAMPLES) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    pitch = 200 + 2000 * torch.rand(count, 1, generator=g)
    return 0.3 * torch.sin(2 * math.pi * pitch * torch.arange(samples)[None] / RATE)


def frames_of(folder, tokens: int, rate: int = RATE, layer: int = -1) -> PretrainedFrames:
    section = Semantic(encoder=str(folder), layer=layer)
    return PretrainedFrames(section, find_encoder(section), rate, tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_late_changes_late_frames_most(folders, kind):
    frames, sound = frames_of(folders[kind], 12), sounds(1)
    changed = sound.clone()
    changed[:, -SAMPLES // 4 :] = 0.3 * torch.randn(1, SAMPLES // 4)
    one, other = frames.vectors(sound, sound), frames.vectors(changed, sound)
    moved = (one - other).norm(dim=2)[0]
    assert one.shape[:2] == (1, 12)
    assert float(moved[-2:].mean()) > 1.5 * float(moved[:4].mean()), moved


@pytest.mark.parametrize("kind", KINDS)
def test_longer_than_the_encoder_hears_and_shorter_than_a_frame(folders, kind):
    frames = frames_of(folders[kind], 20)
    for samples in (3 * RATE, 50):
        found = frames.vectors(sounds(1, samples), torch.zeros(1))
        assert found.shape[:2] == (1, 20) and bool(torch.isfinite(found).all())


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_saved_and_loaded_it_is_the_same(folders, kind, tmp_path):
    section = Semantic(**SMALL, encoder=str(folders[kind]), codebooks=2)
    media = sounds(12)
    own = SemanticTokenizer.fit(section, media, RATE, 0)
    ids = own.encode(media)
    assert torch.equal(ids[3:4], own.encode(media[3:4]))
    assert own.decode(ids).shape == media.shape
    own.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == own.fingerprint and torch.equal(loaded.encode(media), ids)
    assert len(ids[:, :, 0].unique()) > 1


def test_the_same_weights_elsewhere_have_the_same_fingerprint(folders, tmp_path):
    elsewhere = shutil.copytree(folders["hubert"], tmp_path / "copy")
    prints = {
        SemanticTokenizer.fit(Semantic(**SMALL, encoder=str(f)), sounds(12), RATE, 0).fingerprint
        for f in (folders["hubert"], elsewhere)
    }
    assert len(prints) == 1


def test_other_weights_or_none_are_refused_when_it_is_loaded(folders, tmp_path):
    encoder = shutil.copytree(folders["hubert"], tmp_path / "encoder")
    own = SemanticTokenizer.fit(Semantic(**SMALL, encoder=str(encoder)), sounds(12), RATE, 0)
    own.save(tmp_path / "fitted")
    shutil.copy(folders["wavlm"] / "model.safetensors", encoder / "model.safetensors")
    with pytest.raises(UserError, match="not what made the tokens"):
        load_tokenizer(tmp_path / "fitted")
    shutil.rmtree(encoder)
    with pytest.raises(UserError, match="not on this machine"):
        load_tokenizer(tmp_path / "fitted")


def test_the_layer_that_is_asked_for_is_used_or_refused(folders):
    media = sounds(1)
    one, other = (frames_of(folders["hubert"], 8, layer=n).vectors(media, media) for n in (1, 2))
    assert not torch.allclose(one, other)
    with pytest.raises(UserError, match="no layer 7; give --tokenizers.NAME.layer from -3 to 2"):
        frames_of(folders["hubert"], 8, layer=7).vectors(media, media)


def test_clips_of_another_rate_are_resampled(folders):
    slow = frames_of(folders["hubert"], 10).vectors(sounds(1), torch.zeros(1))
    import soxr

    fast = torch.from_numpy(soxr.resample(sounds(1)[0].numpy(), RATE, 24000, quality="HQ"))[None]
    other = frames_of(folders["hubert"], 10, rate=24000).vectors(fast, torch.zeros(1))
    assert float((slow - other).norm() / slow.norm()) < 0.05


@pytest.mark.parametrize("given", ["nobody/hubert-of-nobody", "a_folder_that_is_not_there"])
def test_weights_that_are_not_here_are_a_sentence_before_any_work(given, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="leave the option out"):
        SemanticTokenizer.check(Semantic(encoder=given), "sound", ClipsConfig())


def test_without_the_package_the_extra_is_named(folders, monkeypatch):
    from nano4m.tokenizers import pretrained_weights

    monkeypatch.setattr(pretrained_weights, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"nano4m-audio\[pretrained\]"):
        SemanticTokenizer.check(Semantic(encoder=str(folders["hubert"])), "sound", ClipsConfig())


def test_a_folder_that_is_no_encoder_is_refused(folders, tmp_path):
    wrong = shutil.copytree(folders["hubert"], tmp_path / "wrong")
    (wrong / "config.json").write_text('{"model_type": "no_such_network"}')
    with pytest.raises(UserError, match="no weights of AutoModel"):
        frames_of(wrong, 8)
