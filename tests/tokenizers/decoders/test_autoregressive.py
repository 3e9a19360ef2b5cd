"""WaveNet and WaveRNN: what a sample depends on, cached generation, and the mixture."""

import numpy as np
import pytest
import torch
from scipy.stats import logistic

from nano4m.tokenizers.decoders.autoregressive import ROWS, Conditioning
from nano4m.tokenizers.decoders.logistics import draw, log_probability
from nano4m.tokenizers.decoders.wavenet import WaveNet
from nano4m.tokenizers.decoders.wavernn import WaveRNN

HOP = 48
DECODERS = {
    "wavenet": lambda: WaveNet(4, HOP, layers=6, stacks=2, width=8, kernel=3),
    "wavenet of two taps": lambda: WaveNet(4, HOP, layers=4, stacks=1, width=8),
    "wavernn": lambda: WaveRNN(4, HOP, width=16, condition_width=8),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DECODERS[request.param]().eval()
        # A last layer that tells its inputs apart.
        torch.nn.init.normal_(net.last.weight, std=0.5)
    return net


def _given(batch=3, tokens=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 4, tokens, generator=g), torch.rand(
        batch, tokens * HOP, generator=g
    ) * 2 - 1


@pytest.mark.parametrize("t", [0, 1, 17, 2 * HOP - 1])
def test_output_t_does_not_see_sample_t(decoder, t):
    latents, wave = _given()
    other = wave.clone()
    other[:, t:] = -other[:, t:]
    before, after = decoder(latents, wave), decoder(latents, other)
    assert torch.equal(before[:, :, : t + 1], after[:, :, : t + 1])
    if t + 1 < wave.shape[1]:
        assert not torch.equal(before[:, :, t + 1], after[:, :, t + 1])


def test_a_net_without_the_shift_is_caught(decoder, monkeypatch):
    module = type(decoder).__module__
    monkeypatch.setattr(f"{module}.shifted", lambda wave: wave)
    with pytest.raises(AssertionError):
        test_output_t_does_not_see_sample_t(decoder, 17)


def test_every_latent_is_heard(decoder):
    latents, wave = _given(tokens=3)
    before = decoder(latents, wave)
    for token in range(3):
        other = latents.clone()
        other[:, :, token] += 1
        changed = (decoder(other, wave) - before).abs().amax((0, 1))
        assert changed[token * HOP : (token + 1) * HOP].min() > 0


def test_cached_generation_is_that_without_a_cache(decoder):
    latents, _ = _given(batch=2)
    cached = decoder.generate(latents, seed=3)
    samples = cached.shape[1]
    uniforms = torch.rand(2, 1, samples, generator=torch.Generator().manual_seed(3))
    uniforms = uniforms.clamp(1e-5, 1 - 1e-5)
    wave = torch.zeros(2, samples)
    with torch.no_grad():
        for t in range(samples):
            numbers = decoder(latents, wave)[:, :, t : t + 1]
            wave[:, t] = draw(numbers, uniforms[:, :, t : t + 1])[:, 0]
    assert cached.std() > 0.01
    torch.testing.assert_close(cached, wave, atol=2e-4, rtol=0)


def test_a_sound_does_not_depend_on_its_batch(decoder):
    latents, _ = _given(batch=ROWS + 3)
    together = decoder.generate(latents)
    for row in (0, 7, ROWS, ROWS + 2):
        assert torch.equal(decoder.generate(latents[row : row + 1])[0], together[row])


def test_other_seeds_give_other_sounds_and_no_temperature_less_noise(decoder):
    latents, _ = _given(batch=1)
    assert not torch.equal(decoder.generate(latents, seed=0), decoder.generate(latents, seed=1))
    assert decoder.generate(latents, temperature=0.0).abs().max() <= 1


def test_the_mixture_is_scipys_and_sums_to_one():
    g = torch.Generator().manual_seed(0)
    numbers = torch.randn(1, 9, 1, generator=g, dtype=torch.float64)
    numbers[:, 6:] -= 2
    levels = torch.linspace(-1, 1, 65536, dtype=torch.float64)[None]
    found = log_probability(numbers.expand(-1, -1, 65536), levels)[0].exp()
    logits, means, scales = (v[0, :, 0].numpy() for v in numbers.chunk(3, 1))
    weights = np.exp(logits) / np.exp(logits).sum()
    edges = np.concatenate([[-np.inf], (levels[0, 1:] + levels[0, :-1]).numpy() / 2, [np.inf]])
    each = np.diff(logistic.cdf(edges[None], means[:, None], np.exp(scales)[:, None]))
    torch.testing.assert_close(found, torch.from_numpy(weights @ each), rtol=1e-6, atol=1e-12)
    assert found.sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [-10.0, -4.0, 5.0])
@pytest.mark.parametrize("x", [-1.0, -0.3, 0.0, 1.0])
def test_gradients_are_finite_at_the_ends_and_for_spikes(scale, x):
    numbers = torch.tensor([0.1, 0.2, -0.5, 0.9, scale, -1.0])[None, :, None].requires_grad_()
    value = log_probability(numbers, torch.tensor([[x]]))
    value.backward()
    assert torch.isfinite(value).all() and torch.isfinite(numbers.grad).all()


def test_what_is_drawn_has_the_distribution_that_is_scored():
    g = torch.Generator().manual_seed(0)
    numbers = torch.tensor([0.5, 0.0, -0.4, 0.3, -3.0, -4.0])[None, :, None].expand(1, 6, 20_000)
    drawn = draw(numbers, torch.rand(2, 1, 20_000, generator=g).clamp(1e-6, 1 - 1e-6))
    weights = torch.softmax(torch.tensor([0.5, 0.0]), 0).numpy()

    def cdf(x):
        means, scales = np.array([-0.4, 0.3]), np.exp([-3.0, -4.0])
        return (weights[:, None] * logistic.cdf(x[None], means[:, None], scales[:, None])).sum(0)

    x = np.sort(drawn[0].numpy())
    assert np.abs(cdf(x) - (np.arange(len(x)) + 0.5) / len(x)).max() < 0.015


@pytest.mark.parametrize("hop", [1, 7, 48, 256, 320, 1024])
def test_conditioning_covers_every_hop(hop):
    net = Conditioning(3, hop, 8)
    features = net(torch.zeros(2, 3, 5))
    assert net.to_samples(features).shape == (2, 8, 5 * hop)
    assert hop % net.repeated == 0 and net.repeated <= 64
