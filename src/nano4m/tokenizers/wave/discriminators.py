"""Networks that tell decoded sounds from real ones, and the adversarial losses.

By periods (HiFi-GAN, Kong et al. 2020, arXiv:2010.05646): a sound folded at a prime number of
samples. By spectra (EnCodec, Defossez et al. 2022, arXiv:2210.13438): complex spectrograms. Small,
so that a training on a CPU can bear them.

Each returns its logits and the features of its layers, from which the decoder learns too.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ

PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (1024, 512, 256)
PERIOD_CHANNELS, SPECTRUM_CHANNELS = 16, 8

SLOPE = 0.2
"""Of the leaky units below zero."""


class Verdict(NamedTuple):
    """What one discriminator says of sounds: logits, above zero for real, and features."""

    logits: Tensor
    features: list[Tensor]


class _Convolutions(nn.Module):
    def __init__(self, layers: list[nn.Conv2d]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.utils.parametrizations.weight_norm(c) for c in layers)

    def judge(self, x: Tensor) -> Verdict:
        features = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Verdict(self.layers[-1](x), features)


class PeriodDiscriminator(_Convolutions):
    """Looks at every ``period``-th sample: (B, samples) as a plane (samples / period, period)."""

    def __init__(self, period: int, channels: int = PERIOD_CHANNELS) -> None:
        sizes = [1, channels, 2 * channels, 4 * channels]
        layers = [
            nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        super().__init__([*layers, nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0))])
        self.period = period

    def forward(self, sound_BS: Tensor) -> Verdict:
        """Return the verdict on sounds."""
        padded = F.pad(sound_BS, (0, -sound_BS.shape[1] % self.period))
        return self.judge(padded.unflatten(1, (-1, self.period))[:, None])


class SpectrumDiscriminator(_Convolutions):
    """Looks at real and imaginary parts of a spectrogram, whose bins it strides over."""

    window: Tensor

    def __init__(self, size: int, channels: int = SPECTRUM_CHANNELS) -> None:
        layers = [
            nn.Conv2d(inputs, channels, (3, 5), (1, 2), (dilation, 2), dilation=(dilation, 1))
            for inputs, dilation in ((2, 1), (channels, 1), (channels, 2), (channels, 4))
        ]
        super().__init__([*layers, nn.Conv2d(channels, 1, 3, 1, 1)])
        window = torch.hann_window(size)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)

    def forward(self, sound_BS: Tensor) -> Verdict:
        """Return the verdict on sounds."""
        size = len(self.window)
        padded = F.pad(sound_BS, (size // 2, size // 2))
        spectrum = torch.fft.rfft(padded.unfold(1, size, size // 4) * self.window)
        return self.judge(torch.stack([spectrum.real, spectrum.imag], 1))


class Discriminators(nn.Module):
    """All discriminators of a section."""

    def __init__(self, section: WaveVQ) -> None:
        super().__init__()
        kind = section.discriminators
        bodies: list[nn.Module] = []
        if kind in ("period", "both"):
            bodies += [PeriodDiscriminator(period) for period in PERIODS]
        if kind in ("stft", "both"):
            bodies += [SpectrumDiscriminator(size) for size in WINDOWS]
        self.bodies = nn.ModuleList(bodies)

    def forward(self, sound_BS: Tensor) -> list[Verdict]:
        """Return the verdict of each on sounds."""
        return [body(sound_BS) for body in self.bodies]


def discriminator_loss(real: list[Verdict], made: list[Verdict], kind: str) -> Tensor:
    """Return the loss of the discriminators, the mean over them; ``kind``: adversarial_loss."""
    terms = []
    for r, m in zip(real, made, strict=True):
        if kind == "hinge":
            terms.append((1 - r.logits).relu().mean() + (1 + m.logits).relu().mean())
        else:
            terms.append((1 - r.logits).square().mean() + m.logits.square().mean())
    return torch.stack(terms).mean()


def adversarial_loss(made: list[Verdict], kind: str) -> Tensor:
    """Return what the decoder has to lower so that its sounds are taken for real ones."""
    terms = [
        (1 - m.logits).relu().mean() if kind == "hinge" else (1 - m.logits).square().mean()
        for m in made
    ]
    return torch.stack(terms).mean()


def feature_loss(real: list[Verdict], made: list[Verdict]) -> Tensor:
    """Return the distance of features over their mean size, the mean of all layers."""
    terms = [
        (m - r.detach()).abs().mean() / r.detach().abs().mean().clamp_min(1e-5)
        for a, b in zip(real, made, strict=True)
        for r, m in zip(a.features, b.features, strict=True)
    ]
    return torch.stack(terms).mean()
