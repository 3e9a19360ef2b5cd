"""Variations of log-mel spectrograms that an encoder is to ignore.

A voice of another size moves and stretches along the bands (vocal tract length perturbation, Jaitly
and Hinton 2013); a microphone changes level and tilt; a second clip is mixed in more quietly
(utterance mixing of WavLM, arXiv:2110.13900).

Legend: B batch, M mel bands, F frames.
"""

import math

import torch
from torch import Tensor

from nano4m.media.mel import FLOOR_DB

SHIFT_BANDS = 3.0
"""Most bands that a spectrogram is moved by, of 64."""
STRETCH = 0.09
"""Most that its bands are stretched or compressed by."""
GAIN_DB, TILT_DB = 6.0, 5.0
MIXED_SHARE = 0.3
"""Share of the clips that another one is mixed into ..."""
QUIETER_DB = (6.0, 26.0)
"""... by so much below."""


def vary_logmel(logmel_BMF: Tensor, generator: torch.Generator) -> Tensor:
    """Return varied log-mels (B, M, F) in dB; drawn with a CPU generator."""
    batch, bands, _ = logmel_BMF.shape
    device = logmel_BMF.device
    numbers = (torch.rand(batch, 6, generator=generator) * 2 - 1).to(device)
    others = torch.randperm(batch, generator=generator).to(device)
    x = _move_bands(
        logmel_BMF, numbers[:, 0] * SHIFT_BANDS * bands / 64, 1 + numbers[:, 1] * STRETCH
    )
    tilt = torch.linspace(-1, 1, bands, device=device)[:, None] * TILT_DB
    x = x + numbers[:, 2, None, None] * GAIN_DB + numbers[:, 3, None, None] * tilt
    low, high = QUIETER_DB
    quieter = low + (high - low) * (numbers[:, 5] + 1) / 2
    scale = math.log(10) / 10
    mixed = torch.logaddexp(x * scale, (x[others] - quieter[:, None, None]) * scale) / scale
    is_mixed = numbers[:, 4] < 2 * MIXED_SHARE - 1
    return torch.where(is_mixed[:, None, None], mixed, x).clamp_min(FLOOR_DB)


def _move_bands(x_BMF: Tensor, shift_B: Tensor, stretch_B: Tensor) -> Tensor:
    # Band m of the result is band stretch * m + shift of x, between two bands by their mean.
    bands = x_BMF.shape[1]
    place = torch.arange(bands, device=x_BMF.device) * stretch_B[:, None] + shift_B[:, None]
    place = place.clamp(0, bands - 1)
    below = place.floor().long().clamp_max(max(bands - 2, 0))
    part = (place - below)[:, :, None]
    index = below[:, :, None].expand_as(x_BMF)
    above = (index + 1).clamp_max(bands - 1)
    return x_BMF.gather(1, index) * (1 - part) + x_BMF.gather(1, above) * part


def span_mask(
    batch: int, length: int, share: float, span: int, generator: torch.Generator
) -> Tensor:
    """Return bool (batch, length): spans of ``span`` positions, some ``share`` of all, True.

    Spans overlap and may stick out at either end; at least one position of each row is True.
    """
    count = max(1, round(share * length / span))
    starts = torch.randint(1 - span, length, (batch, count), generator=generator)
    index = (starts[:, :, None] + torch.arange(span)).clamp(0, length - 1).flatten(1)
    return torch.zeros(batch, length, dtype=torch.bool).scatter_(1, index, True)
