"""Pretrained codecs against the networks that they call, and what all of them refuse."""

import math

import numpy as np
import pytest
import torch
from small_codecs import HOP, KINDS, SIZES, SPEECH, VOCAB, as_published, encodec, save_codec

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import SECTIONS, Encodec24, Encodec48, Mimi
from nano4m.errors import UserError
from nano4m.tokenizers import TOKENIZERS
from nano4m.tokenizers.base import Material
from nano4m.tokenizers.resampling import resampled
from nano4m.tokenizers.seanet import SpeechTokenizerNet, published_names

CPU = torch.device("cpu")


def sounds(count: int, samples: int, rate: int, seed: int = 0) -> torch.Tensor:
    """Return tones with noise."""
    g = torch.Generator().manual_seed(seed)
    pitch = 200 + 1500 * torch.rand(count, 1, generator=g)
    tone = 0.3 * torch.sin(2 * math.pi * pitch * torch.arange(samples)[None] / rate)
    return tone + 0.05 * torch.randn(count, samples, generator=g)


def make(kind: str, folder, samples: int, rate: int, **changes):
    """Return a codec with the weights of a folder for sounds of so many samples."""
    section = SECTIONS[kind](weights=str(folder), **SIZES | changes)
    train = sounds(4, samples, rate)
    material = Material("sound", train, train, 4, rate, [])
    return TOKENIZERS[kind].load().prepare(section, material, 0, CPU)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of small random weights of each kind."""
    return {kind: save_codec(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def direct(kind: str, folder, sound_BL: torch.Tensor, level: torch.Tensor | None):
    """Return codes (B, Q, T) and sounds (B, L') of a network without our code around it."""
    import transformers

    x = sound_BL[:, None]
    with torch.no_grad():
        if kind == "speechtokenizer":
            net = SpeechTokenizerNet(SPEECH)
            file = folder / "SpeechTokenizer.pt"
            net.load_state_dict(published_names(torch.load(file, weights_only=True)))
            codes = net.eval().encode(x, 2)
            return codes, net.decode(codes)[:, 0]
        name = {"dac": "DacModel", "mimi": "MimiModel", "xcodec": "XcodecModel"}
        net = getattr(transformers, name.get(kind, "EncodecModel")).from_pretrained(folder).eval()
        if kind == "dac":
            codes = net.encode(x, n_quantizers=2).audio_codes
            return codes, net.decode(audio_codes=codes).audio_values
        if kind == "mimi":
            codes = net.encode(x, num_quantizers=2).audio_codes
            return codes, net.decode(codes).audio_values[:, 0]
        bandwidths = net.config.target_bandwidths
        if kind == "xcodec":
            codes = net.encode(x, bandwidth=bandwidths[1]).audio_codes
            return codes, net.decode(codes).audio_values[:, 0]
        found = net.encode(x.expand(-1, net.config.audio_channels, -1), bandwidth=bandwidths[0])
        scales = [None] if level is None else [level.expand(len(x), 1)] * len(found.audio_codes)
        missing = found.last_frame_pad_length
        wave = net.decode(found.audio_codes, scales, last_frame_pad_length=missing).audio_values
        chunks = list(found.audio_codes)
        chunks[-1] = chunks[-1][:, :, : chunks[-1].shape[2] - missing]
        return torch.cat(chunks, 2), wave.mean(1)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_sounds_are_those_of_the_network_itself(weights, kind):
    rate = SECTIONS[kind].model_fields["codec_rate"].default
    samples = 60 * HOP
    tokenizer = make(kind, weights[kind], samples, rate)
    sound = sounds(3, samples, rate, seed=5)
    codes_BQT, wave = direct(kind, weights[kind], sound, getattr(tokenizer, "level", None))
    ids = tokenizer.encode(sound)
    assert torch.equal(ids, codes_BQT.transpose(1, 2) + torch.tensor([0, VOCAB]))
    assert len(ids.unique()) > 10, "random codebooks that nothing falls into test nothing"
    found = tokenizer.decode(ids)
    same = min(samples, wave.shape[1])
    torch.testing.assert_close(found[:, :same], wave[:, :same].clamp(-1, 1), atol=1e-4, rtol=1e-4)
    assert not bool(found[:, same:].any()) and samples - same < 2 * HOP


@pytest.mark.parametrize("samples", [5000, 47_520, 47_600, 47_999, 48_000, 48_500, 95_100, 120_000])
def test_chunks_of_any_length_are_those_of_the_network(weights, samples):
    """The library stacks chunks, and fails where the last but one is not whole."""
    tokenizer = make("encodec_48khz", weights["encodec_48khz"], samples, 48_000)
    sound = sounds(1, samples, 48_000, seed=2)
    ids = tokenizer.encode(sound)
    assert (
        ids.shape[1:]
        == tokenizer.shape
        == SECTIONS["encodec_48khz"](weights="x", **SIZES)
        .token_shape(ClipsConfig(window_seconds=samples / 48_000, sample_rate=48_000))
        .shape
    )
    assert tokenizer.decode(ids).shape == sound.shape
    whole = tokenizer.section.padded(samples)
    codes_BQT, wave = direct(
        "encodec_48khz", weights["encodec_48khz"],
        torch.nn.functional.pad(sound, (0, whole - samples)), tokenizer.level,
    )  # fmt: skip
    assert torch.equal(ids[0].T % VOCAB, codes_BQT[0])
    torch.testing.assert_close(
        tokenizer.decode(ids)[0], wave[0, :samples].clamp(-1, 1), atol=1e-5, rtol=1e-4
    )


def test_decoded_chunks_have_the_level_of_the_train_clips(weights):
    quiet = make("encodec_48khz", weights["encodec_48khz"], 6400, 48_000)
    train = sounds(4, 6400, 48_000)
    assert float(quiet.level) == pytest.approx(float(train.square().mean().sqrt()), rel=1e-3)
    assert quiet.fingerprint != TOKENIZERS["encodec_48khz"].load().prepare(
        quiet.section, Material("sound", train / 2, train, 4, 48_000, []), 0, CPU
    ).fingerprint  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_codebook_more_keeps_those_before(weights, kind):
    """They are residual (Mimi's first two are not, but each is the same with or without more)."""
    one, two = (make(kind, weights[kind], 3000, 16_000, codebooks=n) for n in (1, 2))
    sound = sounds(2, 3000, 16_000, seed=1)
    assert torch.equal(one.encode(sound)[..., 0], two.encode(sound)[..., 0])
    assert one.fingerprint != two.fingerprint
    assert not torch.equal(one.decode(one.encode(sound)), two.decode(two.encode(sound)))


@pytest.mark.parametrize("kind", KINDS)
def test_bad_sounds_and_bad_ids(weights, kind):
    rate, samples = 16_000, 1000
    tokenizer = make(kind, weights[kind], samples, rate)
    for sound in (torch.zeros(1, samples), torch.ones(1, samples), torch.full((1, samples), -1.0)):
        ids = tokenizer.encode(sound)
        made = tokenizer.decode(ids)
        assert bool(torch.isfinite(made).all()) and float(made.abs().max()) <= 1
    for bad in (math.nan, math.inf):
        sound = torch.zeros(2, samples)
        sound[1, 5] = bad
        with pytest.raises(ValueError, match="not finite"):
            tokenizer.encode(sound)
    ids = tokenizer.encode(torch.zeros(1, samples))
    swapped = ids.clone()
    swapped[0, 3] = ids[0, 3].flip(0)
    with pytest.raises(
        ValueError, match=f"frame 3 is in the place of codebook 0.* 0 to {VOCAB - 1}"
    ):
        tokenizer.decode(swapped)
    assert tokenizer.encode(torch.zeros(0, samples)).shape == (0, *tokenizer.shape)
    short = make(kind, weights[kind], 20, rate)
    assert short.decode(short.encode(sounds(2, 20, rate))).shape == (2, 20)


def test_resampling_there_and_back():
    rate = 22_050
    low = torch.sin(2 * math.pi * 440 * torch.arange(rate)[None] / rate)
    there = resampled(low, rate, 24_000, 24_000)
    wanted = torch.sin(2 * math.pi * 440 * torch.arange(24_000)[None] / 24_000)
    assert float((there - wanted)[:, 200:-200].abs().max()) < 1e-3
    back = resampled(there, 24_000, rate, rate)
    assert float((back - low)[:, 400:-400].abs().max()) < 2e-3
    assert resampled(low, rate, rate, rate) is low or torch.equal(
        resampled(low, rate, rate, rate), low
    )
    several = sounds(3, 5000, rate)
    alone = torch.cat([resampled(s[None], rate, 24_000, 5443) for s in several])
    assert torch.equal(resampled(several, rate, 24_000, 5443), alone)


@pytest.mark.parametrize("samples", [1, 9, 37, 640, 1000])
def test_speechtokenizer_is_seanet_as_encodec_has_it(tmp_path, samples):
    """Without its second reading, it is EnCodec that is not causal: another's code for it."""
    from transformers import EncodecModel

    encodec(tmp_path, use_causal_conv=False, target_bandwidths=[3.75], num_residual_layers=2)
    theirs = EncodecModel.from_pretrained(tmp_path).eval()
    config = SPEECH | {"bidirectional": False, "n_q": 2, "n_residual_layers": 2}
    ours = SpeechTokenizerNet(config).eval()
    ours.load_state_dict(published_names(as_published(tmp_path)))
    sound = sounds(2, samples, 16_000)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(ours.encoder(sound), theirs.encoder(sound))
        codes = theirs.encode(sound).audio_codes
        assert torch.equal(ours.encode(sound, 2), codes[0])
        wave = theirs.decode(codes, [None]).audio_values
        torch.testing.assert_close(ours.decode(codes[0]), wave)


def test_speechtokenizers_encoder_reads_both_ways(weights):
    net = SpeechTokenizerNet(SPEECH).eval()
    file = weights["speechtokenizer"] / "SpeechTokenizer.pt"
    net.load_state_dict(published_names(torch.load(file, weights_only=True)))
    both = next(m for m in net.encoder if hasattr(m, "lstm"))
    x = torch.randn(1, both.lstm.input_size, 7)
    with torch.no_grad():
        steps = x[0].T.unbind(0)
        outputs = []
        for ending, order in (("", range(7)), ("_reverse", reversed(range(7)))):
            w = {n: getattr(both.lstm, f"{n}_l0{ending}") for n in
                 ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
            h = c = torch.zeros(both.lstm.hidden_size)
            found = {}
            for t in order:
                gates = w["weight_ih"] @ steps[t] + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]
                i, f, g, o = gates.chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                found[t] = h
            outputs.append(torch.stack([found[t] for t in range(7)]) + x[0].T)
        wanted = torch.cat(outputs, 1).T
    torch.testing.assert_close(both(x)[0], wanted, atol=1e-5, rtol=1e-5)


def test_the_published_sizes():
    clips = ClipsConfig(window_seconds=81_920 / 24_000, sample_rate=24_000)
    shape = Encodec24().token_shape(clips)
    assert shape.shape == (256, 2) and shape.vocab_sizes == (1024, 1024)
    second = ClipsConfig(window_seconds=1.0, sample_rate=48_000)
    assert Encodec48().token_shape(second).shape == (150 + 2, 4)
    assert Mimi().token_shape(ClipsConfig(window_seconds=4.0)).shape == (50, 8)
    books = np.array([1, 2, 4, 8])
    for kind in KINDS:
        rates = SECTIONS[kind]().codec_rate / SECTIONS[kind]().codec_hop
        assert (rates * books * math.log2(SECTIONS[kind]().codec_vocab)).max() < 14_000


def test_untrained_weights_are_refused(tmp_path):
    from transformers import EncodecConfig, EncodecModel

    config = EncodecConfig(
        num_filters=2, hidden_size=4, upsampling_ratios=[4, 4, 2, 2], codebook_size=VOCAB,
        target_bandwidths=[3.75],
    )  # fmt: skip
    EncodecModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nothing but zeros"):
        make("encodec_24khz", tmp_path, 1000, 24_000)
