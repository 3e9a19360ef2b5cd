"""Sound to log-mel and back, against an independent computation and against what must survive."""

import math

import numpy as np
import pytest
import torch

from nano4m.errors import UserError
from nano4m.media.mel import FLOOR_DB, MelSpectrogram, mel_filters

RATE = 24000


@pytest.fixture(scope="module")
def mel() -> MelSpectrogram:
    return MelSpectrogram(RATE, 1024, 256, 64)


def sine(hertz: float, amplitude: float = 0.3, samples: int = 12288) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hertz * torch.arange(samples) / RATE)[None]


def naive_logmel(sound: np.ndarray, n_fft: int, hop: int, mels: int) -> np.ndarray:
    """The same in NumPy, one frame and one band at a time."""
    frames = math.ceil(len(sound) / hop)
    side = (n_fft - hop) // 2
    padded = np.zeros(frames * hop + 2 * side)
    padded[side : side + len(sound)] = sound
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / n_fft) for i in range(n_fft)])
    hertz = np.arange(n_fft // 2 + 1) * RATE / n_fft
    to_mel = 2595 * np.log10(1 + np.array([0, RATE / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(*to_mel, mels + 2) / 2595) - 1)
    out = np.zeros((mels, frames))
    for t in range(frames):
        spectrum = np.abs(np.fft.rfft(padded[t * hop : t * hop + n_fft] * window)) ** 2
        for m in range(mels):
            triangle = np.interp(hertz, edges[m : m + 3], [0, 1, 0], left=0, right=0)
            power = (triangle * spectrum).sum() * (2 / window.sum()) ** 2
            out[m, t] = max(10 * math.log10(power + 1e-30), FLOOR_DB)
    return out


def test_matches_an_independent_computation(mel):
    sound = torch.randn(1, 3001, generator=torch.Generator().manual_seed(0)) * 0.1
    expected = naive_logmel(sound[0].double().numpy(), 1024, 256, 64)
    assert mel(sound)[0].numpy() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 20480])
def test_number_of_frames(mel, samples):
    frames = math.ceil(samples / 256)
    assert mel.frames(samples) == frames
    assert mel(torch.zeros(2, samples)).shape == (2, 64, frames)


def test_levels_are_decibels_of_full_scale(mel):
    loud, soft = mel(sine(1000, 1.0)), mel(sine(1000, 0.01))
    assert -1 < float(loud[:, :, 20].max()) < 3
    assert float((loud - soft)[:, :, 20].max()) == pytest.approx(40, abs=0.05)
    assert float(mel(torch.zeros(1, 512)).max()) == FLOOR_DB


@pytest.mark.parametrize("hertz", [220.0, 1000.0, 3000.0])
def test_a_sine_keeps_frequency_and_level(mel, hertz):
    sound = sine(hertz)
    back = mel.to_waveform(mel(sound), 32, sound.shape[1])
    assert back.shape == sound.shape
    spectrum = torch.fft.rfft(back * torch.hann_window(back.shape[1])).abs()[0]
    found = float(spectrum.argmax()) * RATE / back.shape[1]
    # A band is no narrower than this: finer the spectrogram does not say.
    assert found == pytest.approx(hertz, abs=max(25.0, 0.06 * hertz))
    level = 10 * math.log10(float(back.square().mean() / sound.square().mean()))
    assert abs(level) < 1.0


def test_noise_survives_the_round_trip(mel):
    sound = torch.randn(2, 8192, generator=torch.Generator().manual_seed(1)) * 0.1
    before = mel(sound)
    after = mel(mel.to_waveform(before, 32, 8192))
    assert float((after - before).abs().mean()) < 1.0


def test_more_iterations_are_more_consistent(mel):
    sound = torch.randn(1, 8192, generator=torch.Generator().manual_seed(2)) * 0.1
    before = mel(sound)
    one, many = (mel(mel.to_waveform(before, n, 8192)) - before for n in (1, 32))
    assert float(many.abs().mean()) < 0.8 * float(one.abs().mean())


def test_a_sound_does_not_depend_on_its_batch(mel):
    spectrograms = torch.cat([mel(sine(300)), mel(sine(900)), mel(sine(50, 0.0))])
    together = mel.to_waveform(spectrograms, 4)
    alone = mel.to_waveform(spectrograms[1:2], 4)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert float(together[2].abs().max()) < 1e-4  # silence is silent, not a hiss at the floor


def test_refuses_what_does_not_fit(mel):
    with pytest.raises(UserError, match="1000 must be a multiple"):
        MelSpectrogram(RATE, 1000, 256, 64)
    with pytest.raises(UserError, match="of 200 mel bands"):
        mel_filters(RATE, 512, 200)
    with pytest.raises(ValueError, match=r"\(B, samples\), not \(5,\)"):
        mel(torch.zeros(5))
    with pytest.raises(ValueError, match=r"\(B, 64, frames\), not \(1, 32, 4\)"):
        mel.to_waveform(torch.zeros(1, 32, 4))
    with pytest.raises(ValueError, match="2000 samples of 4 frames"):
        mel.to_waveform(torch.zeros(1, 64, 4), 1, 2000)
