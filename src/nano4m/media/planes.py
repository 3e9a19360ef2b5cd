"""Functions shared by the kinds of planes: cropping, PNG coding, and rendering.

Shapes: n clips, K frames, B batch, C channels, H height, W width.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nano4m.media.base import Box

if TYPE_CHECKING:  # a worker that cuts clips needs no torch, which takes seconds to import
    from torch import Generator, Tensor

MOST_PIXELS = 64
"""Larger planes are averaged down to this many pixels a side: classifiers look at shapes."""


def resize(plane: np.ndarray, box: Box, size: int, filter_: Image.Resampling) -> np.ndarray:
    """Crop a plane (H, W) or (H, W, 3) and resize it to ``size`` pixels a side."""
    left, top, side = box
    cropped = np.ascontiguousarray(plane[top : top + side, left : left + side])
    return np.asarray(Image.fromarray(cropped).resize((size, size), filter_))


def png(pixels: np.ndarray) -> bytes:
    """Return uint8 or uint16 (H, W), bool (H, W) or uint8 (H, W, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def open_cells(cells: list[list[bytes]], frame: int | None) -> np.ndarray:
    """Return decoded (n, K, H, W) or (n, K, H, W, 3); without K if ``frame`` is given."""
    if frame is not None:
        return np.stack([np.asarray(Image.open(io.BytesIO(cell[frame]))) for cell in cells])
    return np.stack(
        [np.stack([np.asarray(Image.open(io.BytesIO(b))) for b in cell]) for cell in cells]
    )


def open_rgb(cells: list[list[bytes]], frame: int | None) -> "Tensor":
    """Return decoded float32 (n, K, 3, H, W) in [0, 1]; without K if ``frame`` is given."""
    import torch

    coded = torch.from_numpy(open_cells(cells, frame)).movedim(-1, -3)
    return coded.contiguous().float().div_(255)


def plane_of(value: Any) -> np.ndarray:
    """Return (H, W) of (1, H, W), or (H, W, 3) of (3, H, W), as float32."""
    import torch

    array = torch.as_tensor(value).float().numpy()
    return array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)


# -- the classifier of an evaluation ------------------------------------------------------------


def features(rate: int, device: Any) -> Any:
    """Return a function that averages planes (B, C, H, W) down to MOST_PIXELS a side."""
    import torch.nn.functional as F

    def prepare(media: "Tensor") -> "Tensor":
        size = min(MOST_PIXELS, media.shape[-1])
        media = media.float()
        return media if media.shape[-1] == size else F.adaptive_avg_pool2d(media, size)

    return prepare


def shift(x: "Tensor", most: Any, generator: "Generator", fill: "Tensor") -> "Tensor":
    """Return a batch (B, C, H, W) shifted by up to ``most`` pixels and padded with ``fill``."""
    import torch

    height, width = x.shape[2:]
    # Not F.pad: its fill is a Python number, so the host would wait for the device.
    padded = fill.expand(*x.shape[:2], height + 2 * most[0], width + 2 * most[1]).clone()
    padded[:, :, most[0] : most[0] + height, most[1] : most[1] + width] = x
    top, left = (int(torch.randint(2 * n + 1, (), generator=generator)) for n in most)
    return padded[:, :, top : top + height, left : left + width]


def uniform(x: "Tensor", size: float, generator: "Generator", send: Any) -> "Tensor":
    """Return uniform numbers in [-size, size], (B, 1, 1, 1), on the device of ``x``."""
    import torch

    numbers = (torch.rand(len(x), 1, 1, 1, generator=generator) * 2 - 1) * size
    return send(numbers, x.device)


def augment(x: "Tensor", generator: "Generator", send: Any) -> "Tensor":
    """Return a batch of planes, randomly shifted, blurred, scaled and offset."""
    import torch
    import torch.nn.functional as F

    side = min(x.shape[2:])
    x = shift(x, (side // 12, side // 12), generator, x[:, :, 0].mean())
    # Most are blurred, so that a classifier does not rely on detail that a tokenizer loses.
    blur = 1 + int(torch.randint(min(3, side // 8), (), generator=generator))
    if blur > 1:
        x = F.interpolate(F.avg_pool2d(x, blur, ceil_mode=True), size=x.shape[2:], mode="bilinear")
    return x * (1 + uniform(x, 0.2, generator, send)) + uniform(x, 0.1, generator, send)


# -- on a page ---------------------------------------------------------------------------------


def colored(values: np.ndarray, name: str) -> np.ndarray:
    """Return numbers (H, W) in [0, 1] in a colour map of matplotlib, uint8 (H, W, 3)."""
    from matplotlib import colormaps

    return (colormaps[name](np.clip(values, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def rgb(values: Any) -> np.ndarray:
    """Return (3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    import torch

    array = torch.as_tensor(values).float().clamp(0, 1).movedim(0, -1).numpy()
    return (array * 255).round().astype(np.uint8)
