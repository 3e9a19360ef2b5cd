"""Silhouettes: which pixels belong to the subject of a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import nano4m.media.planes as planes
from nano4m.errors import BadMedia
from nano4m.media.base import Box, Item, MediaKind
from nano4m.media.gate import printable
from nano4m.media.image_file import opened_image

if TYPE_CHECKING:
    from torch import Tensor


def read_silhouette(path: Path) -> np.ndarray:
    """Return bool (H, W): where a picture of one channel is brighter than half.

    Raises:
        BadMedia: Missing, unreadable, or a picture in colour.
    """
    with opened_image(path) as image:
        if image.mode not in ("1", "L"):
            name = printable(path.name)
            raise BadMedia(f"wrong silhouette: {name} is no picture in black and white")
        return np.asarray(image.convert("L")) > 127


def crop_silhouette(subject: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Crop and resize bool (H, W) to bool (size, size): pixels that are mostly the subject's.

    Raises:
        BadMedia: Not bool.
    """
    if subject.dtype != np.bool_:
        raise BadMedia(f"wrong silhouette: {subject.dtype} values, not bool")
    return planes.resize(subject.astype(np.float32), box, size, Image.Resampling.BOX) > 0.5


def _decode(cells: list[Any], frame: int | None) -> "Tensor":
    import torch

    return torch.from_numpy(planes.open_cells(cells, frame)).float().unsqueeze(-3)


def _fidelity(x: "Tensor", y: "Tensor", tokenizer: Any) -> dict[str, float]:
    real, found = x > 0.5, y > 0.5
    common, either = (real & found).flatten(1).sum(1), (real | found).flatten(1).sum(1)
    return {
        "iou": (common / either.clamp_min(1)).mean().item(),
        "pixel_accuracy": (real == found).float().mean().item(),
    }


def _pixels(item: Item, top: float) -> np.ndarray:
    return planes.rgb(np.repeat(np.asarray(item.value), 3, axis=0))


KIND = MediaKind(
    name="silhouette",
    form="plane",
    column="silhouette",
    layouts=("grid",),
    channels=1,
    crop=lambda plane, box, clips: crop_silhouette(plane, box, clips.picture_size),
    encode=planes.png,
    decode=_decode,
    read=lambda path, clips: read_silhouette(path),
    suffix=".png",
    write=lambda value, rate: planes.png(planes.plane_of(value) > 0.5),
    features=planes.features,
    augment=planes.augment,
    fidelity=_fidelity,
    pixels=_pixels,
)
