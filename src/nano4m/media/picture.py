"""Colour pictures: JPEG in the clips table, PNG in files that are written."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import nano4m.media.planes as planes
from nano4m.media.base import Box, Item, MediaKind
from nano4m.media.image_file import SUFFIXES as SUFFIXES
from nano4m.media.image_file import in_colour, opened_image, upright

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHORT_SIDE = 512
"""Most pixels of a picture's shorter side; larger pictures are reduced."""


def read_picture(path: Path) -> np.ndarray:
    """Return uint8 (H, W, 3), upright, at most MAX_SHORT_SIDE pixels on its short side.

    Grey of more than 8 bits is scaled by its range, see ``image_file.grey_of``; of an animation the
    first picture is read.

    Raises:
        BadMedia: Missing, empty, truncated, unreadable or too large.
    """
    with opened_image(path) as image:
        size = MAX_SHORT_SIDE * max(image.size) // max(min(image.size), 1)
        image.draft("RGB", (size, size))
        picture = in_colour(upright(image))
        if min(picture.size) > MAX_SHORT_SIDE:
            picture.thumbnail((size, size))
        return np.asarray(picture)


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height from the header of a picture.

    Raises:
        BadMedia: It cannot be opened, or is too large.
    """
    with opened_image(path) as image:
        return image.size


def crop_picture(picture: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crop and resize uint8 (H, W, 3) to (size, size, 3), antialiased."""
    return planes.resize(picture, box, size, Image.Resampling.BICUBIC)


def jpeg(picture: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) as a JPEG of quality 95, colour at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _write(value: Any, rate: int) -> bytes:
    return planes.png(np.round(np.clip(planes.plane_of(value), 0, 1) * 255).astype(np.uint8))


# -- fidelity ----------------------------------------------------------------------------------


def psnr(x: "Tensor", y: "Tensor") -> "Tensor":
    """Return the peak signal-to-noise ratio of each picture in dB, (B,), for values in [0, 1]."""
    return -10 * (x - y).square().flatten(1).mean(1).clamp_min(1e-10).log10()


def ssim(x: "Tensor", y: "Tensor") -> "Tensor":
    """Return the structural similarity of each picture, (B,), for values in [0, 1].

    Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861): Gaussian window of 11 pixels and
    deviation 1.5, only where it fits inside, mean over places and channels.

    Raises:
        ValueError: Pictures smaller than the window.
    """
    import torch
    import torch.nn.functional as F

    if min(x.shape[-2:]) < 11:
        raise ValueError(f"ssim needs 11 pixels a side, not {tuple(x.shape[-2:])}")
    ramp = torch.arange(11, device=x.device) - 5.0
    line = torch.exp(-ramp.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def blur(z: "Tensor") -> "Tensor":
        return F.conv2d(z.flatten(0, 1)[:, None], window)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    value = value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.flatten(1).mean(1).view(x.shape[:2]).mean(1)


def _fidelity(x: "Tensor", y: "Tensor", tokenizer: Any) -> dict[str, float]:
    numbers = {"psnr_db": psnr(x, y).mean().item()}
    if min(x.shape[-2:]) >= 11:
        numbers["ssim"] = ssim(x, y).mean().item()
    return numbers


def _pixels(item: Item, top: float) -> np.ndarray:
    return planes.rgb(item.value)


KIND = MediaKind(
    name="picture",
    form="plane",
    column="frames",
    layouts=("grid",),
    channels=3,
    crop=lambda plane, box, clips: crop_picture(plane, box, clips.picture_size),
    encode=jpeg,
    decode=planes.open_rgb,
    claims=lambda path: int(path.suffix.lower() in SUFFIXES),
    suffixes=SUFFIXES,
    read=lambda path, clips: read_picture(path),
    suffix=".png",
    write=_write,
    features=planes.features,
    augment=planes.augment,
    fidelity=_fidelity,
    pixels=_pixels,
)
