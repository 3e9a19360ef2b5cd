"""Depth: distances in metres as recorded, inverse depth in [0, 1] as stored and generated."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import nano4m.media.planes as planes
from nano4m.errors import BadMedia
from nano4m.media.base import Box, Item, MediaKind
from nano4m.media.gate import opened, printable
from nano4m.media.image_file import opened_image

if TYPE_CHECKING:
    from torch import Tensor


def is_depth_png(path: Path) -> bool:
    """Whether a file opens as a picture of one channel of 16 bits, as depth is stored."""
    try:
        with opened_image(path) as image:
            return image.mode in ("I;16", "I;16B", "I")
    except BadMedia:
        return False


def _claims(path: Path) -> int:
    if path.suffix.lower() == ".npy":
        return 1
    return 2 * int(path.suffix.lower() == ".png" and is_depth_png(path))


def read_depth(path: Path, near: float) -> np.ndarray:
    """Return distances in metres, float32 (H, W), infinity included.

    Args:
        path: ``.npy`` of distances in metres, or a 16-bit PNG of inverse depth as the clips table
            stores it: 65535 at ``near`` metres or less, 0 at infinity.
        near: Distance of the largest value of such a PNG, in metres.

    Raises:
        BadMedia: Missing, unreadable, of another shape or type, or an invalid distance.
    """
    name = printable(path.name)
    with opened(path):
        if path.suffix.lower() == ".npy":
            distance = np.load(path, allow_pickle=False)
            if distance.ndim != 2 or not np.issubdtype(distance.dtype, np.floating):
                raise BadMedia(
                    f"wrong depth: {name} holds {distance.dtype} {distance.shape}, not floats "
                    "(H, W) in metres"
                )
            return distance.astype(np.float32)
        if not is_depth_png(path):
            raise BadMedia(f"wrong depth: {name} is no PNG of one channel of 16 bits")
        with opened_image(path) as image:
            inverse = np.asarray(image, np.float32) / 65535
    with np.errstate(divide="ignore"):
        return np.float32(near) / inverse


def crop_depth(distance: np.ndarray, box: Box, size: int, near: float) -> np.ndarray:
    """Crop and resize a distance (H, W) in metres to inverse depth in [0, 1], float32 (size, size).

    The inverse is taken first, so that a mean with infinity (the sky) is well defined.

    Raises:
        BadMedia: A distance is NaN or not positive.
    """
    if not (distance > 0).all():
        raise BadMedia("wrong depth: a distance is NaN or not positive")
    inverse = np.clip(near / distance, 0, 1).astype(np.float32)
    return np.clip(planes.resize(inverse, box, size, Image.Resampling.BOX), 0, 1)


def depth_png(depth: np.ndarray) -> bytes:
    """Return inverse depth, float (H, W) in [0, 1], as a 16-bit greyscale PNG."""
    return planes.png(np.round(depth * 65535).astype(np.uint16))


def _decode(cells: list[Any], frame: int | None) -> "Tensor":
    import torch

    coded = planes.open_cells(cells, frame).astype(np.float32)
    return torch.from_numpy(coded).div_(65535).unsqueeze(-3)


def _fidelity(x: "Tensor", y: "Tensor", tokenizer: Any) -> dict[str, float]:
    import torch

    # The ratio of distances is the inverse ratio of inverse depths; the sky is left out.
    near = x > 1e-3
    ratio = torch.maximum(x[near] / y[near].clamp_min(1e-6), y[near] / x[near])
    return {
        "inverse_depth_error": (x - y).abs().mean().item(),
        "within_1.25_share": (ratio < 1.25).float().mean().item() if ratio.numel() else 0.0,
    }


def _limit(item: Item) -> float:
    import torch

    return max(1e-3, float(torch.as_tensor(item.value).float().quantile(0.995)))


KIND = MediaKind(
    name="depth",
    form="plane",
    column="depth",
    layouts=("grid",),
    channels=1,
    crop=lambda plane, box, clips: crop_depth(plane, box, clips.picture_size, clips.depth_near),
    encode=depth_png,
    decode=_decode,
    claims=_claims,
    suffixes=frozenset({".npy"}),
    read=lambda path, clips: read_depth(path, clips.depth_near),
    suffix=".png",
    write=lambda value, rate: depth_png(np.clip(planes.plane_of(value), 0, 1)),
    features=planes.features,
    augment=planes.augment,
    fidelity=_fidelity,
    limit=_limit,
    pixels=lambda item, top: planes.colored(planes.plane_of(item.value) / top, "viridis"),
)
