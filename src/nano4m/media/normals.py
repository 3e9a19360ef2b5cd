"""Surface normals: unit vectors in camera axes (x right, y up, z to the viewer)."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import nano4m.media.planes as planes
from nano4m.errors import BadMedia
from nano4m.media.base import Box, Item, MediaKind
from nano4m.media.picture import read_picture

if TYPE_CHECKING:
    from torch import Tensor


def read_normals(path: Path) -> np.ndarray:
    """Return unit vectors, float32 (H, W, 3), of a PNG of n * 0.5 + 0.5.

    Raises:
        BadMedia: Missing, unreadable, or a picture of something else.
    """
    vectors = read_picture(path).astype(np.float32) / 255 * 2 - 1
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    # A step of 8 bits moves a length by a hundredth; resized edges are a little shorter.
    if float(np.median(np.abs(length - 1))) > 0.05:
        raise BadMedia(f"wrong normals: {path.name} does not hold unit vectors as n * 0.5 + 0.5")
    return vectors / np.maximum(length, 1e-6)


def crop_normals(normals: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crop and resize unit vectors (H, W, 3) to unit vectors, float32 (size, size, 3).

    Raises:
        BadMedia: A vector is not of unit length.
    """
    length = np.linalg.norm(normals, axis=2)
    if not (np.abs(length - 1) < 1e-2).all():
        raise BadMedia("wrong normals: a vector is not of unit length")
    parts = [
        planes.resize(normals[..., i].astype(np.float32), box, size, Image.Resampling.BOX)
        for i in range(3)
    ]
    mean = np.stack(parts, axis=2)
    length = np.linalg.norm(mean, axis=2, keepdims=True)
    # Opposite normals may cancel out in the mean; such a pixel faces the viewer.
    return np.where(length > 1e-3, mean / np.maximum(length, 1e-3), np.array([0, 0, 1], np.float32))


def normals_png(normals: np.ndarray) -> bytes:
    """Return unit vectors, float (H, W, 3), as an 8-bit RGB PNG of n * 0.5 + 0.5."""
    return planes.png(np.round((np.asarray(normals) * 0.5 + 0.5) * 255).astype(np.uint8))


def _decode(cells: list[Any], frame: int | None) -> "Tensor":
    vectors = planes.open_rgb(cells, frame).mul_(2).sub_(1)
    return vectors.div_(vectors.norm(dim=-3, keepdim=True).clamp_min_(1e-6))


def _fidelity(x: "Tensor", y: "Tensor", tokenizer: Any) -> dict[str, float]:
    import torch.nn.functional as F

    cosine = (F.normalize(x, dim=1) * F.normalize(y, dim=1)).sum(1).clamp(-1, 1)
    return {"angle_error_degrees": math.degrees(cosine.acos().mean().item())}


def _pixels(item: Item, top: float) -> np.ndarray:
    import torch

    return planes.rgb(torch.as_tensor(item.value) * 0.5 + 0.5)


KIND = MediaKind(
    name="normals",
    form="plane",
    column="normals",
    layouts=("grid",),
    channels=3,
    is_direction=True,
    crop=lambda plane, box, clips: crop_normals(plane, box, clips.picture_size),
    encode=normals_png,
    decode=_decode,
    read=lambda path, clips: read_normals(path),
    suffix=".png",
    write=lambda value, rate: normals_png(planes.plane_of(value)),
    features=planes.features,
    augment=planes.augment,
    fidelity=_fidelity,
    pixels=_pixels,
)
