"""Media of one clip to bytes and back: FLAC, JPEG and PNG, as the clips table stores them."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from nano4m.modalities import Media

if TYPE_CHECKING:  # a worker that cuts clips needs no torch, which takes seconds to import
    from torch import Tensor

# -- to bytes ----------------------------------------------------------------------------------


def sound_bytes(sound: np.ndarray, sample_rate: int) -> bytes:
    """Return float (samples,) in [-1, 1] as mono PCM16 FLAC."""
    import soundfile

    pcm = np.clip(np.round(np.asarray(sound, np.float64) * 32768), -32767, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def picture_bytes(picture: np.ndarray) -> bytes:
    """Return uint8 (H, W, 3) as a JPEG of quality 95, colour at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def depth_bytes(depth: np.ndarray) -> bytes:
    """Return inverse depth, float (H, W) in [0, 1], as a 16-bit greyscale PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(depth * 65535).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def normals_bytes(normals: np.ndarray) -> bytes:
    """Return unit vectors, float (H, W, 3), as an 8-bit RGB PNG of n * 0.5 + 0.5."""
    buffer = io.BytesIO()
    coded = np.round((np.asarray(normals) * 0.5 + 0.5) * 255).astype(np.uint8)
    Image.fromarray(coded).save(buffer, "PNG")
    return buffer.getvalue()


# -- to arrays: one cell a clip, in the forms of ``nano4m.tokenizers.base.Tokenizer`` ---------


def _open_pictures(cells: list[list[bytes]], frame: int | None) -> np.ndarray:
    """Decode (n, K, H, W) or (n, K, H, W, 3); without K where ``frame`` is given."""
    if frame is not None:
        return np.stack([np.asarray(Image.open(io.BytesIO(cell[frame]))) for cell in cells])
    return np.stack(
        [np.stack([np.asarray(Image.open(io.BytesIO(b))) for b in cell]) for cell in cells]
    )


def _picture(cells: list[Any], frame: int | None) -> "Tensor":
    import torch

    coded = torch.from_numpy(_open_pictures(cells, frame)).movedim(-1, -3)
    return coded.contiguous().float().div_(255)


def _depth(cells: list[Any], frame: int | None) -> "Tensor":
    import torch

    coded = _open_pictures(cells, frame).astype(np.float32)
    return torch.from_numpy(coded).div_(65535).unsqueeze(-3)


def _normals(cells: list[Any], frame: int | None) -> "Tensor":
    vectors = _picture(cells, frame).mul_(2).sub_(1)
    return vectors.div_(vectors.norm(dim=-3, keepdim=True).clamp_min_(1e-6))


def _sound(cells: list[Any], frame: int | None) -> "Tensor":
    import soundfile
    import torch

    return torch.from_numpy(
        np.stack([soundfile.read(io.BytesIO(cell), dtype="float32")[0] for cell in cells])
    )


def _caption(cells: list[Any], frame: int | None) -> list[str]:
    return list(cells)


READERS: dict[Media, tuple[str, Callable[[list[Any], int | None], Any]]] = {
    "picture": ("frames", _picture),
    "depth": ("depth", _depth),
    "normals": ("normals", _normals),
    "sound": ("audio", _sound),
    "caption": ("caption", _caption),
}
"""Column and decoder of each kind of media."""
