"""``semantic``: clusters, masked prediction, levels, and what goes wrong."""

import math

import pytest
import torch
from sklearn.metrics import pairwise_distances_argmin

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import MelVQ, Semantic, of_kind
from nano4m.errors import UserError
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.frames.augment import span_mask, vary_logmel
from nano4m.tokenizers.frames.clusters import Clusters, principal_axes
from nano4m.tokenizers.frames.masked_encoder import MaskedEncoder, TrainedFrames, cepstra
from nano4m.tokenizers.semantic import SemanticTokenizer

RATE, SAMPLES = 16000, 4096
SMALL = {
    "n_fft": 512, "hop": 64, "mels": 24, "downsample": 4, "vocab": 16, "width": 16, "code_dim": 8,
    "steps": 300, "batch_size": 16, "encoder_width": 16, "encoder_layers": 2, "encoder_steps": 8,
    "rounds": 1, "griffin_lim": 4,
}  # fmt: skip


def tones(count: int, seed: int = 0) -> torch.Tensor:
    """Return sounds of two tones each, the second half higher or lower than the first."""
    g = torch.Generator().manual_seed(seed)
    time = torch.arange(SAMPLES)[None] / RATE
    pitch = 300 * 2 ** torch.randint(0, 4, (count, 2), generator=g)
    half = (torch.arange(SAMPLES) >= SAMPLES // 2).long()
    level = 0.1 + 0.4 * torch.rand(count, 1, generator=g)
    return level * torch.sin(2 * math.pi * pitch[:, half] * time)


@pytest.fixture(scope="module", params=[1, 3])
def fitted(request) -> SemanticTokenizer:
    return SemanticTokenizer.fit(Semantic(**SMALL, codebooks=request.param), tones(48), RATE, 0)


# -- clusters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_an_id_is_that_of_the_nearest_centroid(seed):
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(seed)) * 7 + 3
    clusters = Clusters.fit(x, 12, seed)
    nearest = pairwise_distances_argmin(x.numpy(), clusters.centroids.numpy())
    assert clusters.ids(x.view(30, 10, 5)).flatten().tolist() == nearest.tolist()


def test_clusters_find_what_is_apart():
    g = torch.Generator().manual_seed(0)
    truth = torch.arange(400) % 4
    x = torch.stack([truth % 2 * 9.0, truth // 2 * 9.0], 1) + torch.randn(400, 2, generator=g)
    ids = Clusters.fit(x, 4, 0).ids(x)
    assert len({(int(a), int(b)) for a, b in zip(ids, truth, strict=True)}) == 4


def test_fewer_frames_than_clusters_are_refused():
    with pytest.raises(UserError, match="smaller vocab"):
        Clusters.fit(torch.randn(7, 3), 8, 0)


def test_principal_axes_keep_distances_that_fit_and_pad_the_rest():
    x = torch.randn(20, 4) @ torch.randn(4, 9)
    kept = principal_axes(x, 6)
    assert torch.allclose(torch.cdist(x, x), torch.cdist(kept, kept), atol=1e-3)
    assert not kept[:, 4:].abs().max() > 1e-3
    assert principal_axes(x, 12).shape == (20, 12)


# -- the encoder -------------------------------------------------------------------------------


def test_masked_tokens_reach_the_encoder_only_through_their_neighbours():
    net = MaskedEncoder(mels=6, downsample=2, width=16, layers=2, targets=5).eval()
    x, mask = torch.randn(2, 6, 40), torch.zeros(2, 20, dtype=torch.bool)
    mask[:, 8:13] = True
    other = x.clone()
    other[:, :, 20:22] = 9.0  # token 10, whose neighbours within the convolution are masked too
    assert torch.equal(net(x, mask), net(other, mask))
    assert not torch.equal(net(x, ~mask & False), net(other, ~mask & False))


@pytest.mark.parametrize("seed", range(5))
def test_spans_mask_about_their_share_and_never_nothing(seed):
    g = torch.Generator().manual_seed(seed)
    mask = span_mask(200, 40, 0.5, 5, g)
    assert bool(mask.any(1).all()) and 0.3 < float(mask.float().mean()) < 0.5
    assert bool(span_mask(50, 1, 0.5, 4, g).all())


def test_varied_spectrograms_stay_finite_and_change():
    x = torch.rand(8, 24, 16) * 60 - 70
    varied = vary_logmel(x, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(varied).all()) and not torch.equal(varied, x)
    assert torch.equal(varied, vary_logmel(x, torch.Generator().manual_seed(0)))


def test_cepstra_are_those_of_scipy():
    from scipy.fft import dct

    x = torch.randn(3, 24, 8)
    expected = torch.from_numpy(dct(x.double().numpy(), axis=1, norm="ortho")[:, :20]).float()
    assert torch.allclose(cepstra(x, 4), expected.unflatten(2, (-1, 4)).mean(3), atol=1e-4)


# -- the whole ---------------------------------------------------------------------------------


def test_semantic_ids_tell_tones_apart_at_any_level(fitted):
    time = torch.arange(SAMPLES)[None] / RATE
    tone = [0.3 * torch.sin(2 * math.pi * 300 * 2**k * time) for k in range(4)]
    ids = [fitted.encode(t)[0, 4:-4, 0] for t in tone]
    assert len({int(i.mode().values) for i in ids}) == 4
    quiet = fitted.encode(tone[1] / 2)[0, 4:-4, 0]
    assert float((quiet == ids[1]).float().mean()) > 0.7


def test_sound_comes_back_better_with_more_levels():
    sounds, errors = tones(16, seed=5), []
    for levels in (1, 3):
        own = SemanticTokenizer.fit(Semantic(**SMALL, codebooks=levels), tones(48), RATE, 0)
        real = own.mel(sounds)
        errors.append(float((own.decode_logmel(own.encode(sounds)) - real).abs().mean()))
        other = float((real.roll(1, 0) - real).abs().mean())
        assert errors[-1] < other, "no better than another clip"
    assert errors[1] < errors[0]


def test_the_decoder_hears_every_level(fitted):
    ids = fitted.encode(tones(4, seed=5))
    before = fitted.decode_logmel(ids)
    for level in range(fitted.num_codebooks):
        low = level * fitted.section.vocab
        changed = ids.clone()
        changed[:, :, level] = low + (ids[:, :, level] - low + 1) % fitted.section.vocab
        assert float((fitted.decode_logmel(changed) - before).abs().mean()) > 1e-3, level


def test_ids_of_another_level_are_refused_by_name(fitted):
    ids = fitted.encode(tones(2, seed=5))
    wrong = ids.flip(2) if fitted.num_codebooks > 1 else ids + fitted.section.vocab
    with pytest.raises(ValueError, match="codebook|allowed"):
        fitted.decode(wrong)


def test_silence_and_clipping_have_tokens_and_what_is_not_finite_is_refused(fitted):
    loud = (tones(2) * 100).clamp(-1, 1)
    for sound in (torch.zeros(2, SAMPLES), loud):
        back = fitted.decode(fitted.encode(sound))
        assert bool(torch.isfinite(back).all())
    for bad in (math.nan, math.inf):
        sound = tones(2)
        sound[1, 7] = bad
        with pytest.raises(ValueError, match="not finite"):
            fitted.encode(sound)


def test_clips_that_are_all_silent_can_be_fitted():
    section = Semantic(**SMALL | {"vocab": 4, "steps": 2, "encoder_steps": 1}, codebooks=2)
    own = SemanticTokenizer.fit(section, torch.zeros(8, SAMPLES), RATE, 0)
    back = own.decode(own.encode(torch.zeros(2, SAMPLES)))
    assert bool(torch.isfinite(back).all()) and float(back.abs().max()) < 0.01


def test_a_window_of_no_whole_number_of_tokens_and_shorter_than_a_token():
    for samples in (4000, 100):
        sounds = tones(40)[:, :samples]
        section = Semantic(**SMALL | {"vocab": 8, "steps": 2, "encoder_steps": 1}, codebooks=2)
        own = SemanticTokenizer.fit(section, sounds, RATE, 0)
        assert own.decode(own.encode(sounds[:2])).shape == (2, samples)


def test_without_rounds_the_cepstra_are_clustered():
    own = SemanticTokenizer.fit(Semantic(**SMALL | {"rounds": 0}, codebooks=1), tones(48), RATE, 0)
    sounds = tones(4, seed=9)
    x = own.encoder.normal(own.mel(sounds))
    assert torch.equal(own.encode(sounds)[:, :, 0], own.clusters.ids(own.encoder.cepstra(x)))


def test_the_layer_that_is_clustered_is_the_one_that_is_asked_for():
    section = Semantic(**SMALL | {"layer": 1})
    frames = TrainedFrames(section, torch.zeros(24, 1), torch.ones(1, 1))
    logmel = torch.rand(2, 24, 16) * 60 - 70
    layers = frames.net.layers(frames.normal(logmel))
    assert torch.equal(frames.of_logmel(logmel), layers[1]) and not torch.equal(
        layers[1], layers[2]
    )


# -- settings ----------------------------------------------------------------------------------


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="layer 4 is not one of"):
        Semantic(encoder_layers=3, layer=4)


def test_settings_of_mel_vq_are_taken_over():
    section = of_kind("sound", "semantic", MelVQ(vocab=64, downsample=8, augmentations=3))
    assert isinstance(section, Semantic)
    assert (section.vocab, section.downsample, section.augmentations) == (64, 8, 3)
    levels = MelVQ(vocab=64, downsample=8, codebooks=2)
    assert section.token_shape(ClipsConfig()) == levels.token_shape(ClipsConfig())


def test_a_trained_encoder_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path)
    sounds = tones(4, seed=9)
    assert torch.equal(load_tokenizer(tmp_path).encode(sounds), fitted.encode(sounds))


def test_a_folder_of_another_version_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    head = tmp_path / "tokenizer.json"
    head.write_text(head.read_text().replace('"downsample": 4', '"downsample": 8'))
    with pytest.raises(UserError, match="changed"):
        load_tokenizer(tmp_path)
