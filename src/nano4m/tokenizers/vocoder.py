"""A vocoder: log-mel spectrogram to waveform by a network, in the place of Griffin-Lim.

As Vocos (Siuzdak 2023, arXiv:2306.00814): a network at the rate of frames gives levels and phases
of a spectrum, whose inverse STFT is the sound; it is trained against discriminators, with the
losses of ``wave_vq`` (HiFi-GAN, arXiv:2010.05646; EnCodec, arXiv:2210.13438). It is fitted on the
spectrograms that the tokenizer decodes, so it also learns to undo their blur.

Legend: B batch, M mel bands, F frames, S = F * hop samples.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.compute.on_device import fused, repeatable
from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.progress import bar
from nano4m.tokenizers.decoders.istft import SpectrumHead
from nano4m.tokenizers.wave.fit import Adversary, learning_rate, take_step
from nano4m.tokenizers.wave.layers import stack
from nano4m.tokenizers.wave.losses import WaveLoss

LAYERS = 4
"""Residual blocks."""

LOSSES: dict[str, Any] = {"l1_weight": 0.0, "adversarial_start": 0.6, "lr": 2e-3}
"""Settings of ``wave_vq`` that train a vocoder. Without the waveform's own distance: the phase of a
spectrogram is free."""

Spectrograms = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Returns a step's normalised log-mels (B, M, F) and their sounds (B, S), from a CPU generator."""


class Vocoder(nn.Module):
    """Normalised log-mels (B, M, F) to sounds (B, F * hop).

    Args:
        mels: Bands M.
        hop: Samples of a frame.
        width: Channels.
    """

    def __init__(self, mels: int, hop: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(mels, width, 7, padding=3), *stack(width, LAYERS), nn.SiLU()
        )
        self.head = SpectrumHead(width, hop)

    def forward(self, logmel_BMF: Tensor) -> Tensor:
        """Return sounds, not clamped."""
        return self.head(self.body(logmel_BMF))


def fit_vocoder(
    net: Vocoder,
    draw: Spectrograms,
    *,
    steps: int,
    discriminators: str,
    sample_rate: int,
    seed: int,
) -> list[float]:
    """Train a vocoder in place, where it is, and return the distance of every 20th step.

    Discriminators draw their weights from the global random streams: call this inside ``seeded``.

    Args:
        net: On the device where it is trained.
        draw: Returns spectrograms and sounds on that device.
        steps: Number of steps.
        discriminators: As in the section of ``wave_vq``.
        sample_rate: In Hz.
        seed: Of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = list(net.parameters())
    device = weights[0].device
    section = WaveVQ(**LOSSES | {"steps": steps, "discriminators": discriminators})
    distance_of, adversary = WaveLoss(section, sample_rate).to(device), Adversary(section, device)
    optimizer = torch.optim.AdamW(
        weights, section.lr, betas=(0.8, 0.99), weight_decay=1e-4, fused=fused(device)
    )
    begin, told = int(steps * section.adversarial_start), []
    net.train()
    with repeatable(device), bar("fit the vocoder of sound", steps, "step") as progress:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = section.lr * learning_rate(section, step)
            logmel, real = draw(generator)
            level, phase = net.head.spectrum(net.body(logmel))
            made = net.head.sound(level, phase)
            distance = distance_of(made, real)
            loss = distance + section.level_weight * net.head.level_distance(level, real)
            if step >= begin:
                adversary.step(made, real)
                loss = loss + adversary.loss(made, real)
            optimizer.zero_grad()
            loss.backward()
            take_step(optimizer, weights, section.clip_norm)
            if step % 20 == 0:
                told.append(distance.item())
            progress.advance(note=f"distance {told[-1]:.3f}" if step % 20 == 0 else None)
    net.eval()
    return told
