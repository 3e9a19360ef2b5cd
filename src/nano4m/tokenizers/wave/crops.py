"""Random crops of sounds: what a step needs, whatever the length and number of the sounds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.compute.on_device import send


def random_crops(
    sounds: Tensor, count: int, length: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Return crops, float32 (count, length), of sounds (n, samples) drawn with replacement.

    Each begins at any sample, also so that it ends with the silence after a sound that is shorter
    than a crop. Drawn on the CPU; only the crops are copied.
    """
    rows = torch.randint(len(sounds), (count,), generator=generator).tolist()
    most = max(sounds.shape[1] - length, 0)
    starts = torch.randint(most + 1, (count,), generator=generator).tolist()
    crops = torch.stack(
        [sounds[row, start : start + length] for row, start in zip(rows, starts, strict=True)]
    )
    return send(F.pad(crops, (0, length - crops.shape[1])).float(), device)
