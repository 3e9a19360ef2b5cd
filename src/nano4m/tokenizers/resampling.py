"""Sounds at another sample rate, and of another length."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def resampled(sound_BS: Tensor, rate: int, wanted: int, samples: int) -> Tensor:
    """Return sounds of another rate with so many samples; the same tensor if the rates are equal.

    By soxr at high quality, on the CPU, each sound by itself.
    """
    if rate == wanted:
        return fitted(sound_BS, samples)
    import soxr

    rows = [soxr.resample(row, rate, wanted, quality="HQ") for row in sound_BS.cpu().numpy()]
    found = np.stack(rows) if rows else np.zeros((0, samples), np.float32)
    return fitted(torch.from_numpy(found.astype(np.float32, copy=False)), samples)


def fitted(sound_BS: Tensor, samples: int) -> Tensor:
    """Return sounds with so many samples: cut at the end, or with zeros there."""
    return F.pad(sound_BS, (0, samples - sound_BS.shape[1]))
