"""A fitted decoder follows its latents when it runs freely, and a fit repeats itself."""

import math

import pytest
import torch

from nano4m.compute.on_device import seeded
from nano4m.tokenizers.decoders.fit import fit_autoregressive
from nano4m.tokenizers.decoders.wavenet import WaveNet
from nano4m.tokenizers.decoders.wavernn import WaveRNN

HOP, TOKENS = 32, 3
DECODERS = {
    "wavenet": (lambda: WaveNet(1, HOP, layers=6, stacks=1, width=16, components=3), 8e-3, 200),
    "wavernn": (lambda: WaveRNN(1, HOP, width=24, condition_width=8, components=3), 1e-2, 120),
}


def tones(latents, length, generator):
    """Return tones (B, length) of 1/8 or 1/3 cycles a sample by the sign of the latent."""
    cycles = torch.where(latents[:, 0, :1] > 0, 1 / 3, 1 / 8)
    phase = torch.rand(len(latents), 1, generator=generator)
    wave = 0.5 * torch.sin(2 * math.pi * (cycles * torch.arange(length) + phase))
    return wave + 0.05 * torch.randn(len(latents), length, generator=generator)


def pairs(generator):
    latents = (
        torch.randint(2, (8, 1, 1), generator=generator).float().expand(-1, -1, TOKENS) * 2 - 1
    )
    return latents, tones(latents, TOKENS * HOP, generator)


def fitted(name, steps):
    build, lr, _ = DECODERS[name]
    with seeded(0):
        net = build()
        losses = fit_autoregressive(net, pairs, steps=steps, lr=lr, seed=0)
    return net, losses


@pytest.mark.parametrize("name", DECODERS)
def test_a_fitted_decoder_runs_freely_as_its_latents_say(name):
    net, losses = fitted(name, DECODERS[name][2])
    assert not net.training and losses[-1] < losses[0] - 2
    latents = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 1, 8)
    spectrum = torch.fft.rfft(net.generate(latents)[:, HOP:]).abs()
    cycles = (spectrum[:, 1:].argmax(1) + 1) / (7 * HOP)
    assert cycles[0] == pytest.approx(1 / 8, abs=0.02)
    assert cycles[1] == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("name", DECODERS)
def test_the_same_seed_gives_the_same_decoder(name):
    (one, first), (two, second) = fitted(name, 3), fitted(name, 3)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_gradient_is_clipped_before_the_step():
    # The norm must act on the step that follows, not on gradients that were used already.
    moved = {}
    for norm in (None, 1e-12):
        with seeded(0):
            net = DECODERS["wavenet"][0]()
            before = net.middle.weight.detach().clone()
            fit_autoregressive(net, pairs, steps=2, lr=1e-3, seed=0, clip_norm=norm)
        moved[norm] = (net.middle.weight - before).abs().max().item()
    assert moved[1e-12] < 0.1 * moved[None]
