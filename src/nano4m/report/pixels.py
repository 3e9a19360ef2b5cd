"""Media to pixels: uint8 RGB arrays of pictures, depth, normals and sounds, on shared scales.

A ``ColorScale`` holds the scales that all pictures share, so that two spectrograms, or two depth maps,
can be compared by eye.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nano4m.modalities import Media
from nano4m.tokenizers.mel import FLOOR_DB, MelSpectrogram

LEVELS_DB = 60.0
"""Range of a spectrogram's colours, down from the loudest."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """The media of one clip: a tensor of one item, as tokenizers give it, or a caption."""

    media: Media
    value: Any
    sample_rate: int = 0


@dataclass(frozen=True, kw_only=True)
class ColorScale:
    """Scales that the pictures of a page share."""

    nearest: float = 1.0
    """Inverse depth with the brightest colour."""
    loudest_db: float = 0.0
    """Level with the brightest colour."""


def log_mel(item: Item) -> np.ndarray:
    """Return the log-mel spectrogram of a sound in dB, (64 bands, frames), low bands first."""
    # A window of some 45 ms: as long as 64 bands need to hold a bin of the spectrum each.
    n_fft = 1024 if item.sample_rate <= 24000 else 2048
    sound = torch.as_tensor(item.value).float().reshape(1, -1)
    return MelSpectrogram(item.sample_rate, n_fft, n_fft // 4, 64)(sound)[0].numpy()


SCALE_LIMITS: dict[Media, tuple[str, Callable[[Item], float]]] = {
    "depth": (
        "nearest",
        lambda item: float(torch.as_tensor(item.value).float().quantile(0.995)),
    ),
    "sound": ("loudest_db", lambda item: float(np.quantile(log_mel(item), 0.999))),
}
"""Kind -> the shared scale that it is drawn with, and the top of it that an item needs."""


def shared_color_scale(items: Iterable[Item]) -> ColorScale:
    """Return the scales for a page whose real media are ``items``."""
    limits: dict[str, float] = {}
    for item in items:
        if item.media in SCALE_LIMITS:
            scale, top_of = SCALE_LIMITS[item.media]
            top = top_of(item)
            limits[scale] = max(top, limits.get(scale, top))
    return ColorScale(
        nearest=max(1e-3, limits.get("nearest", 1.0)),
        loudest_db=max(FLOOR_DB + LEVELS_DB, limits.get("loudest_db", 0.0)),
    )


def _coloured(values: np.ndarray, name: str) -> np.ndarray:
    from matplotlib import colormaps

    return (colormaps[name](np.clip(values, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def _hwc(values: Any) -> np.ndarray:
    array = torch.as_tensor(values).float().clamp(0, 1).movedim(0, -1).numpy()
    return (array * 255).round().astype(np.uint8)


def _spectrogram(item: Item, scale: ColorScale) -> np.ndarray:
    low = scale.loudest_db - LEVELS_DB
    return _coloured((log_mel(item)[::-1] - low) / LEVELS_DB, "magma")


PIXELS: dict[Media, Callable[[Item, ColorScale], np.ndarray]] = {
    "picture": lambda item, scale: _hwc(item.value),
    "depth": lambda item, scale: _coloured(
        torch.as_tensor(item.value).float()[0].numpy() / scale.nearest, "viridis"
    ),
    "normals": lambda item, scale: _hwc(torch.as_tensor(item.value) * 0.5 + 0.5),
    "sound": _spectrogram,
}
"""Kind -> uint8 (H, W, 3). A caption has no pixels."""
