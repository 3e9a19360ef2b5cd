"""Distances between sounds: against independent formulas, and what must hold for any sound."""

import numpy as np
import pytest
import scipy.signal
import torch

from nano4m.media.mel import FLOOR_DB
from nano4m.media.sound_distances import (
    MOST_SDR_DB,
    RESOLUTIONS,
    clicks_a_second,
    log_spectral_distance,
    mel_distance,
    multi_resolution_stft,
    si_sdr,
)

RATE = 24000
SEEDS = range(4)
DISTANCES = {
    "log-spectral": log_spectral_distance,
    "multi-resolution": multi_resolution_stft,
    "mel": lambda x, y: mel_distance(x, y, RATE),
}


def sounds(seed: int, count: int = 2, samples: int = 6000) -> torch.Tensor:
    """Chords of random pitch in a little noise."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(samples)[None, None] / RATE
    pitch = 100 + 3000 * torch.rand(count, 4, 1, generator=g)
    chord = torch.sin(2 * torch.pi * pitch * t).mean(1)
    return 0.3 * chord + 0.02 * torch.randn(count, samples, generator=g)


def spectrum(sound: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes (bins, frames) by scipy, 1 for a sine of full scale."""
    padded = np.pad(sound.astype(np.float64), window // 2)
    _, _, found = scipy.signal.stft(
        padded, window="hann", nperseg=window, noverlap=window - window // 4, boundary=None,
        padded=False,
    )  # fmt: skip
    return np.abs(found) * 2


def in_db(magnitude: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.maximum(magnitude, 10 ** (FLOOR_DB / 20)))


# -- against independent formulas --------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_si_sdr_is_the_projection_s(seed):
    """Least squares finds the factor; what it cannot explain is the distortion."""
    x, y = sounds(seed), sounds(seed) + 0.1 * sounds(seed + 50)
    for own, other, found in zip(x, y, si_sdr(x, y), strict=True):
        a, b = (v.double().numpy() - v.double().numpy().mean() for v in (own, other))
        factor = np.linalg.lstsq(a[:, None], b, rcond=None)[0][0]
        expected = 10 * np.log10(np.sum((factor * a) ** 2) / np.sum((b - factor * a) ** 2))
        assert float(found) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_spectral_distances_are_those_of_scipy_s_spectra(seed):
    x, y = sounds(seed), sounds(seed + 10)
    lsd, stft = log_spectral_distance(x, y), multi_resolution_stft(x, y)
    for i in range(len(x)):
        a, b = (spectrum(s[i].numpy(), 1024) for s in (x, y))
        expected = np.sqrt(((in_db(a) - in_db(b)) ** 2).mean(0)).mean()
        assert float(lsd[i]) == pytest.approx(expected, rel=1e-3)
        parts = []
        for window in RESOLUTIONS:
            a, b = (spectrum(s[i].numpy(), window) for s in (x, y))
            logs = np.abs(in_db(a) - in_db(b)).mean() * np.log(10) / 20
            parts.append(np.linalg.norm(a - b) / np.linalg.norm(a) + logs)
        assert float(stft[i]) == pytest.approx(np.mean(parts), rel=1e-3)


# -- what must hold for any sound --------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sound_is_at_no_distance_from_itself(seed):
    x = sounds(seed)
    for name, distance in DISTANCES.items():
        assert float(distance(x, x).max()) < 1e-5, name
    assert si_sdr(x, x).tolist() == pytest.approx([MOST_SDR_DB] * 2, abs=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_are_symmetric_where_they_are_said_to_be_and_grow_with_noise(seed):
    x, noise = sounds(seed), torch.randn(2, 6000, generator=torch.Generator().manual_seed(seed))
    steps = [x + level * noise for level in (0.003, 0.03, 0.3)]
    for name, distance in DISTANCES.items():
        found = [float(distance(x, y).mean()) for y in steps]
        assert 0 < found[0] < found[1] < found[2], (name, found)
    ratios = [float(si_sdr(x, y).mean()) for y in steps]
    assert ratios[0] > ratios[1] > ratios[2]
    for name in ("log-spectral", "mel"):
        there, back = DISTANCES[name](x, steps[1]), DISTANCES[name](steps[1], x)
        assert torch.allclose(there, back, atol=1e-4)


@pytest.mark.parametrize("factor", [0.01, 0.5, -3.0, 100.0])
def test_si_sdr_does_not_see_the_level_and_spectra_do(factor):
    x = sounds(0)
    y = x + 0.1 * sounds(1)
    assert si_sdr(x, factor * y).tolist() == pytest.approx(si_sdr(x, y).tolist(), abs=1e-3)
    assert si_sdr(factor * x, y).tolist() == pytest.approx(si_sdr(x, y).tolist(), abs=1e-3)
    assert float(log_spectral_distance(x, factor * x).min()) > 3
    db = abs(20 * np.log10(abs(factor)))
    assert float(mel_distance(x, factor * x, RATE).max()) <= db + 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_batched_is_single(seed):
    x, y = sounds(seed, 3), sounds(seed + 20, 3)
    for distance in (si_sdr, *DISTANCES.values()):
        alone = torch.cat([distance(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        assert torch.allclose(distance(x, y), alone, atol=1e-4)


def test_silence_and_short_sounds_have_a_distance():
    x, silence = sounds(0), torch.zeros(2, 6000)
    for name, distance in DISTANCES.items():
        assert float(distance(silence, silence).max()) < 1e-5, name
        for pair in ((x, silence), (silence, x)):
            found = distance(*pair)
            assert bool(torch.isfinite(found).all()) and float(found.min()) > 1, name
        short = distance(x[:, :7], x[:, 3:10])
        assert bool(torch.isfinite(short).all()), name
    assert si_sdr(silence, silence).tolist() == [MOST_SDR_DB] * 2
    assert si_sdr(silence, x).tolist() == [-MOST_SDR_DB] * 2
    assert si_sdr(x, silence).tolist() == [-MOST_SDR_DB] * 2
    for distance in (si_sdr, *DISTANCES.values()):
        for wrong in (x[:, :-1], x[0], torch.zeros(2, 0)):
            with pytest.raises(ValueError, match="equal shape"):
                distance(x if wrong.ndim < 2 or wrong.shape[1] else wrong, wrong)


def test_they_can_be_minimised():
    y = sounds(1).requires_grad_()
    x = sounds(0)
    x[0] = 0
    for name, distance in DISTANCES.items():
        (gradient,) = torch.autograd.grad(distance(x, y).sum(), y)
        assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0, name
    for name, distance in DISTANCES.items():
        same = sounds(0).requires_grad_()
        (gradient,) = torch.autograd.grad(distance(same.detach(), same).sum(), same)
        assert bool(torch.isfinite(gradient).all()), name


# -- clicks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_clicks_are_counted_and_music_has_none(seed):
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(RATE)[None] / RATE
    tone = 0.2 * torch.sin(2 * torch.pi * (200 + 800 * torch.rand(1, 1, generator=g)) * t)
    noise = 0.05 * torch.randn(1, RATE, generator=g)
    assert float(clicks_a_second(tone, RATE)) == 0
    assert float(clicks_a_second(tone + noise, RATE)) == 0
    assert float(clicks_a_second(torch.zeros(1, RATE), RATE)) == 0
    planted = (tone + 0.001 * noise).clone()
    at = 2000 + 3000 * torch.arange(5)
    planted[0, at] += 0.5
    assert float(clicks_a_second(planted, RATE)) == pytest.approx(5)
    jump = tone.clone()
    jump[:, 9000:] = tone[:, 9000:] + 0.2
    assert float(clicks_a_second(jump, RATE)) == pytest.approx(1)
