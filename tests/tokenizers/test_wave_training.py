"""The losses, discriminators and options of the training of ``wave_vq``."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from test_wave_vq import RATE, SMALL, tones
from torch import nn

from nano4m.config.tokenizers import WaveVQ
from nano4m.tokenizers.decoders.istft import SpectrumHead, overlap_add
from nano4m.tokenizers.wave import fit as training
from nano4m.tokenizers.wave.discriminators import (
    Discriminators,
    Verdict,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from nano4m.tokenizers.wave.fit import Average, learning_rate, take_step
from nano4m.tokenizers.wave.layers import Down, Up, stack
from nano4m.tokenizers.wave.losses import (
    Magnitude,
    WaveLoss,
    l1_distance,
    magnitudes,
    mel_distance,
    spectral_distance,
)
from nano4m.tokenizers.wave_vq import WaveVQTokenizer

# -- losses ------------------------------------------------------------------------------------


def test_magnitudes_are_those_of_scipy():
    sound = torch.randn(2, 1000)
    window = torch.hann_window(128)
    ours = magnitudes(sound, window)
    transform = scipy.signal.ShortTimeFFT(window.double().numpy(), hop=32, fs=1, scale_to=None)
    padded = np.pad(sound.double().numpy(), ((0, 0), (64, 64 + -1000 % 32)))
    theirs = np.abs(transform.stft(padded, p0=2, p1=2 + ours.shape[1])) * 2 / float(window.sum())
    assert np.allclose(ours.transpose(1, 2), theirs, atol=1e-5)


@pytest.mark.parametrize("size", [8, 64])
def test_the_gradient_of_magnitudes_is_that_of_pytorch(size):
    frames = torch.randn(3, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Magnitude.apply, (frames,))
    weights = torch.randn(3, size // 2 + 1, dtype=torch.float64)
    (ours,) = torch.autograd.grad((Magnitude.apply(frames) * weights).sum(), frames)
    (theirs,) = torch.autograd.grad((torch.fft.rfft(frames).abs() * weights).sum(), frames)
    assert torch.allclose(ours, theirs)
    silent = torch.zeros(1, size, requires_grad=True)
    Magnitude.apply(silent).sum().backward()
    assert bool((silent.grad == 0).all())


def test_distances_are_zero_for_the_same_sound_and_grow_with_noise():
    real = tones(4)
    loss = WaveLoss(WaveVQ(), RATE)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    found = [float(loss(real + size * noise, real)) for size in (0, 1e-3, 1e-2, 1e-1, 1)]
    assert found[0] < 1e-5 and found == sorted(found)


def test_each_weight_counts_for_its_own_distance():
    real, made = tones(4), tones(4, seed=1)

    def only(**weights) -> float:
        zero = {"l1_weight": 0, "stft_weight": 0, "mel_weight": 0}
        return float(WaveLoss(WaveVQ(**zero | weights), RATE)(made, real))

    parts = [only(**{name: 2}) for name in ("l1_weight", "stft_weight", "mel_weight")]
    assert only() == 0 and min(parts) > 0
    assert only(l1_weight=2, stft_weight=2, mel_weight=2) == pytest.approx(sum(parts), rel=1e-4)
    assert parts[0] == pytest.approx(2 * float(l1_distance(made, real)))


def test_spectral_distances_do_not_see_the_phase_and_l1_does():
    real = tones(4, 4096)
    turned = -real
    window = torch.hann_window(512)
    x, y = magnitudes(real, window), magnitudes(turned, window)
    assert float(spectral_distance(y, x)) < 1e-4
    assert float(mel_distance(y, x, torch.rand(257, 8))) < 1e-6
    assert float(l1_distance(turned, real)) > 1


def test_a_level_of_half_is_as_many_nepers():
    x = magnitudes(tones(4), torch.hann_window(512)) + 1.0
    y = 0.5 * x
    assert float(mel_distance(y, x, torch.rand(257, 8))) == pytest.approx(math.log(2), rel=1e-4)
    assert float(spectral_distance(y, x)) == pytest.approx(0.5 + math.log(2), rel=1e-3)


@pytest.mark.parametrize("rate", [16000, 22050, 24000, 44100, 48000])
def test_losses_suit_every_rate(rate):
    real = torch.randn(2, 3000)
    assert math.isfinite(float(WaveLoss(WaveVQ(), rate)(0.5 * real, real)))


# -- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 256])
def test_strides_go_down_and_up_with_the_ends_aligned(stride):
    x = torch.randn(2, 3, 4 * stride)
    assert Down(3, 5, stride)(x).shape == (2, 5, 4)
    up = Up(3, 5, stride)
    assert up(torch.randn(2, 3, 4)).shape == (2, 5, 4 * stride)
    # A position stands for its own stride: an impulse comes out around its middle.
    nn.init.ones_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    impulse = torch.zeros(1, 3, 9)
    impulse[0, :, 4] = 1
    where = up(impulse)[0, 0].nonzero().double().mean()
    assert float(where) == pytest.approx(4 * stride + (stride - 1) / 2, abs=0.51)


def test_each_residual_block_has_weights_of_its_own():
    """The first study's stack was one block many times."""
    net = nn.Sequential(*stack(8, 4))
    assert len({id(w) for w in net.parameters()}) == 4 * 4
    assert len({w.data_ptr() for w in net.parameters()}) == 4 * 4
    assert [block.wide.dilation for block in net] == [(1,), (3,), (9,), (1,)]


@pytest.mark.parametrize("hop", [8, 64])
def test_the_head_makes_the_spectrum_that_it_is_given(hop):
    """A constant output is a steady sine of the frequency of its bin; one bin alone, without the
    window's side lobes, gives two thirds of a full sine."""
    head = SpectrumHead(4, hop)
    wanted, amplitude = 3, 0.5
    for weight in head.parameters():
        nn.init.zeros_(weight)
    with torch.no_grad():
        head.log_amplitude.bias.fill_(-30.0)
        head.log_amplitude.bias[wanted] = math.log(amplitude) + 7
        sound = head(torch.zeros(1, 4, 20))[0]
    assert sound.shape == (20 * hop,)
    t = torch.arange(len(sound), dtype=torch.float64)
    middle = slice(4 * hop, -4 * hop)
    basis = torch.exp(2j * math.pi * wanted / head.size * t)[middle]
    found = 2 * (sound.double()[middle] * basis.conj()).mean()
    assert abs(found) == pytest.approx(2 / 3 * amplitude, rel=0.02)
    rest = sound[middle] - (found * basis).real
    assert float(rest.abs().max()) < 0.02 * amplitude


def test_overlap_add_is_the_transpose_of_frames():
    frames, sound = torch.randn(2, 5, 16), torch.randn(2, 32)
    together = (overlap_add(frames, 4) * sound).sum()
    assert torch.allclose(together, (frames * sound.unfold(1, 16, 4)).sum(), atol=1e-4)


# -- adversaries -------------------------------------------------------------------------------


def verdicts(value: float) -> list[Verdict]:
    return [Verdict(torch.full((2, 3), value), [torch.full((2, 4), value + 1)])] * 2


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_adversarial_losses_pull_apart_and_together(kind):
    right = discriminator_loss(verdicts(1.0), verdicts(-1.0 if kind == "hinge" else 0.0), kind)
    wrong = discriminator_loss(verdicts(-1.0), verdicts(1.0), kind)
    assert float(right) == 0 and float(wrong) > 1
    assert float(adversarial_loss(verdicts(1.0), kind)) == 0
    assert float(adversarial_loss(verdicts(-1.0), kind)) > 1
    assert float(feature_loss(verdicts(1.0), verdicts(1.0))) == 0
    assert float(feature_loss(verdicts(1.0), verdicts(2.0))) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["period", "stft"])
def test_discriminators_learn_to_tell_noise_from_tones(kind):
    torch.manual_seed(0)
    nets = Discriminators(WaveVQ(discriminators=kind))
    optimizer = torch.optim.AdamW(nets.parameters(), 2e-3)
    for step in range(60):
        loss = discriminator_loss(nets(tones(8, 1024, step)), nets(noise(8)), "hinge")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, made = nets(tones(8, 1024, 99)), nets(noise(8))
    assert float(discriminator_loss(real, made, "hinge")) < 1.0, "chance is 2"


def noise(count: int) -> torch.Tensor:
    return 0.3 * torch.randn(count, 1024)


def test_the_decoders_step_leaves_discriminators_alone_and_learns_from_them():
    section = WaveVQ(discriminators="both")
    adversary = training.Adversary(section, torch.device("cpu"))
    before = [w.detach().clone() for w in adversary.nets.parameters()]
    made = noise(2).requires_grad_()
    adversary.loss(made, tones(2, 1024)).backward()
    assert float(made.grad.abs().sum()) > 0
    assert all(w.grad is None for w in adversary.nets.parameters())
    adversary.step(made, tones(2, 1024))
    after = adversary.nets.parameters()
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) > len(changed) / 2


def test_discriminators_take_part_from_their_share_of_the_steps_on(monkeypatch):
    calls = []
    own = training.Adversary.step
    monkeypatch.setattr(
        training.Adversary, "step", lambda *a: (calls.append(len(losses)), own(*a))[1]
    )
    losses: list[float] = []
    section = WaveVQ(**SMALL | {"steps": 10, "discriminators": "stft", "adversarial_start": 0.6})
    WaveVQTokenizer.fit(
        section, tones(16), RATE, 0, on_step=lambda _, loss, net: losses.append(loss)
    )
    assert len(losses) == 10 and calls == [6, 7, 8, 9]


# -- options of the loop -----------------------------------------------------------------------


def test_clipping_acts_on_the_step():
    """The first study clipped after the step, which changes nothing: a planted copy of it fails."""

    def step(order: str) -> float:
        weight = nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([weight], 1.0)
        (weight * torch.tensor([300.0, 400.0, 0.0])).sum().backward()
        if order == "ours":
            take_step(optimizer, [weight], 1.0)
        else:
            take_step(optimizer, [weight], None)
            nn.utils.clip_grad_norm_([weight], 1.0)
        return float(weight.detach().norm())

    assert step("ours") == pytest.approx(1, rel=1e-4)
    assert step("the study's") == pytest.approx(500)


def test_a_training_clips_every_step_that_needs_it(monkeypatch):
    norms = []
    own = torch.optim.AdamW.step

    def watched(self, *a, **kw):
        weights = [w for group in self.param_groups for w in group["params"]]
        norms.append(float(torch.stack([w.grad.norm() for w in weights]).norm()))
        return own(self, *a, **kw)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    for most in (0.05, None):
        WaveVQTokenizer.fit(WaveVQ(**SMALL | {"clip_norm": most}), tones(16), RATE, 0)
    clipped, free = norms[:6], norms[6:]
    assert max(clipped) <= 0.05 * 1.001 and min(free) > 0.05


def test_the_rate_warms_up_falls_and_restarts():
    plain = WaveVQ(steps=400)
    rates = [learning_rate(plain, step) for step in range(400)]
    assert max(rates) == pytest.approx(1, abs=0.01) and min(rates) > 0 and rates[-1] < 0.02
    assert rates[:20] == sorted(rates[:20]) and rates[21:] == sorted(rates[21:], reverse=True)
    again = WaveVQ(steps=400, schedule="warm_restarts", restart_share=0.25)
    rates = [learning_rate(again, step) for step in range(400)]
    jumps = [i for i in range(20, 399) if rates[i + 1] > rates[i] + 0.5]
    assert len(jumps) == 3 and np.ptp(np.diff(jumps)) <= 1, "four periods of equal length"
    assert all(rates[i + 1] > 0.99 for i in jumps)


def test_an_average_is_that_of_the_weights():
    weight = nn.Parameter(torch.zeros(()))
    average = Average([weight], 0.5)
    expected = None
    for step, value in enumerate((1.0, 3.0, 5.0, 7.0), 1):
        weight.data.fill_(value)
        average.update()
        decay = min(0.5, 1 - 1 / step)
        expected = value if expected is None else decay * expected + (1 - decay) * value
    average.keep()
    assert float(weight.detach()) == pytest.approx(expected)


def test_averaged_weights_are_kept_and_change_the_tokenizer():
    plain = WaveVQTokenizer.fit(WaveVQ(**SMALL), tones(32), RATE, 0)
    averaged = WaveVQTokenizer.fit(WaveVQ(**SMALL | {"ema": 0.9}), tones(32), RATE, 0)
    one, other = plain.net.decoder.body[0].weight, averaged.net.decoder.body[0].weight
    assert not torch.equal(one, other) and float((one - other).abs().max()) < 0.1


def test_training_lowers_the_loss():
    section = WaveVQ(**SMALL | {"steps": 120, "vocab": 64, "l1_weight": 0, "lr": 5e-3})
    losses: list[float] = []
    WaveVQTokenizer.fit(
        section, tones(64), RATE, 0, on_step=lambda _, loss, net: losses.append(loss)
    )
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
