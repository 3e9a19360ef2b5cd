"""Image files of a user: opened by their content, upright, grey of any depth in 8 bits."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from nano4m.errors import BadMedia
from nano4m.media.gate import opened, printable

HEIF = "HEIF"

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "QOI": (".qoi",),
    HEIF: (".heic", ".heif", ".hif"),
}
"""Formats of Pillow that are read, and their endings. Others are not: EPS runs a program. HEIF is
read where pillow-heif is installed."""

HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
"""Brands of an ISO file that is a HEIC picture, whatever its ending says."""

NEEDS_HEIF = "needs pillow-heif"
"""Kind of fault of a HEIC picture where nothing reads it."""

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_PIXELS = 200_000_000
"""Most pixels of a file, as its header has them: the largest photographs of phones."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation in EXIF -> what makes the picture upright."""

WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes of Pillow that hold grey of more than 8 bits."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners give."""

_LIMIT = threading.Lock()


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file whose pixels are not decoded yet, and gate the block that decodes them.

    Raises:
        BadMedia: Missing, empty, of no format that is read, damaged, or of over MAX_PIXELS.
    """
    with opened(path), _open(path) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise BadMedia(
                f"too large: {printable(path.name)} has {width} x {height} pixels; "
                f"at most {MAX_PIXELS:,} are read (MAX_PIXELS)"
            )
        yield image


def _open(path: Path) -> Image.Image:
    formats = [name for name in FORMATS if name != HEIF]
    if is_heif(path):
        _register_heif(path)
        formats = [HEIF]
    # Pillow has a limit of its own, which hides the size and is lower than some cameras are.
    with _LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_heif(path: Path) -> bool:
    """Whether a file is a HEIC picture by its content; AVIF, which Pillow reads, is none."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] != b"ftyp":
        return False
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    return b"avif" not in brands and not HEIF_BRANDS.isdisjoint(brands)


def _register_heif(path: Path) -> None:
    """Let Pillow read HEIC pictures.

    Raises:
        BadMedia: pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise BadMedia(
            f"{NEEDS_HEIF}: {printable(path.name)} is a HEIC picture; to read such, pip install "
            "pillow-heif"
        ) from None
    register_heif_opener()


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF says; one whose EXIF cannot be read stays as it is."""
    image.load()  # here, since Pillow decodes a PNG to find its EXIF
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def grey_of(values: np.ndarray) -> np.ndarray:
    """Return grey values of any range as uint8, scaled and not clipped.

    Integers from 0 to 65,535: white is the top of the least of 8, 10, 12, 14 or 16 bits that holds
    the largest value, so a camera's 12 bits in a file of 16 are not black. Floats within [0, 1]:
    white is 1; within [0, 255]: 255. All others: black is the least, white the largest finite
    value. NaN is black.
    """
    wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    is_float = np.issubdtype(values.dtype, np.floating)
    tops = (1, 255) if is_float else [2**bits - 1 for bits in DEPTHS]
    if low >= 0 and high <= tops[-1]:
        low, high = 0.0, float(next(top for top in tops if high <= top))
    spread = (high - low) or 1.0
    scaled = (np.clip(wide, low, high) - low) / spread
    return np.round(np.nan_to_num(scaled) * 255).astype(np.uint8)


def in_colour(image: Image.Image) -> Image.Image:
    """Return an image as RGB of 8 bits, on white where it is transparent."""
    if image.mode in WIDE:
        values = np.asarray(image)
        grey = grey_of(values)
        if isinstance(image.info.get("transparency"), int):
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        # Without a background, transparent pixels would show their hidden colour.
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
