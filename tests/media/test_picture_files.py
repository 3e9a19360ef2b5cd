"""Pictures as people have them: upright, every depth of grey, every format, refused by size."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from nano4m.errors import BadMedia
from nano4m.media.image_file import FORMATS, HEIF, MAX_PIXELS, grey_of, opened_image
from nano4m.media.picture import SUFFIXES, picture_size, read_picture

ORIENTATION = 0x0112


def scene(width=48, height=32):
    """Red left, blue right, a white strip on top."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 220
    pixels[: height // 8] = 240
    return Image.fromarray(pixels)


def is_scene(picture, most=24):
    height, width = picture.shape[:2]
    places = [(height // 32, width // 2), (height // 2, width // 5), (height // 2, width * 4 // 5)]
    wanted = [(240, 240, 240), (220, 0, 0), (0, 0, 220)]
    return all(
        np.abs(picture[place].astype(int) - colour).max() <= most
        for place, colour in zip(places, wanted, strict=True)
    )


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".pgm", ".pbm", ".pfm", *FORMATS[HEIF]}))
def test_every_ending_is_read_by_its_content(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    name = next(name for name, suffixes in FORMATS.items() if suffix in suffixes)
    scene().save(tmp_path / f"a{suffix}", format=name)
    (tmp_path / "b.png").write_bytes((tmp_path / f"a{suffix}").read_bytes())
    for path in (tmp_path / f"a{suffix}", tmp_path / "b.png"):
        found = read_picture(path)
        assert found.shape == (32, 48, 3) and found.dtype == np.uint8 and is_scene(found)
        assert picture_size(path) == (48, 32)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_every_kind_of_colour_is_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    (scene().quantize(8) if mode == "P" else scene().convert(mode)).save(path)
    assert is_scene(read_picture(path))


def test_a_transparent_palette_shows_white_and_not_its_hidden_colour(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=1)
    assert read_picture(tmp_path / "a.png").min() == 255


INVERSE = {
    # What a camera did to an upright picture before it wrote the number.
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("number", INVERSE)
def test_pictures_are_upright_for_every_orientation(tmp_path, number):
    turn = INVERSE[number]
    stored = scene() if turn is None else scene().transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = number
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.asarray(scene()))


def _exif(entries):
    """A little-endian EXIF of (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return b"Exif\0\0" + head + body + b"\0\0\0\0"


@pytest.mark.parametrize(
    "other",
    [
        (0x011A, 2, 4, b"72/1"),  # a resolution as text
        (0x011A, 5, 1, b"\xff\xff\xff\x7f"),  # beyond the end
        (0x0128, 4, 1, b"\xff\xff\xff\xff"),  # too large for its type when written again
        (0x8769, 4, 1, b"\x08\0\0\0"),  # a table that contains itself
        (0x9286, 99, 7, b"abcd"),  # no type
    ],
)
def test_an_exif_that_cannot_be_written_again_turns_the_picture_all_the_same(tmp_path, other):
    turn = (ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))
    lying = scene().transpose(INVERSE[6])
    lying.save(tmp_path / "a.jpg", quality=95, exif=_exif([turn, other]))
    found = read_picture(tmp_path / "a.jpg")
    assert found.shape == (32, 48, 3) and is_scene(found)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"no exif", b"M"])
def test_a_damaged_exif_costs_no_picture(tmp_path, exif):
    scene().save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert is_scene(read_picture(tmp_path / "a.jpg"))


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_of_every_depth_is_a_ramp_from_black_to_white(tmp_path, top, suffix):
    ramp = np.linspace(0, top, 64).round().astype(np.uint16)
    Image.fromarray(np.repeat(ramp[None], 16, axis=0)).save(tmp_path / f"a{suffix}")
    found = read_picture(tmp_path / f"a{suffix}")
    assert found.shape == (16, 64, 3) and (np.ptp(found, axis=2) == 0).all()
    assert np.abs(found[0, :, 0].astype(int) - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (-3, 5), (2e4, 3e7), (0, 1e-3)])
def test_float_grey_is_scaled_and_not_clipped(tmp_path, low, high):
    values = np.linspace(low, high, 64, dtype=np.float32)
    Image.fromarray(np.repeat(values[None], 16, axis=0)).save(tmp_path / "a.tif")
    found = read_picture(tmp_path / "a.tif")[0, :, 0].astype(float)
    white = 255 * high if low >= 0 and high <= 1 else 255
    assert np.abs(found - np.linspace(0, white, 64)).max() <= 1
    assert (np.diff(found) >= 0).all()


def test_grey_keeps_the_order_of_values_and_bears_nan_and_infinity():
    rng = np.random.default_rng(0)
    for kind in (np.uint8, np.uint16, np.int32, np.float32):
        for _ in range(20):
            top = float(10 ** rng.uniform(0, 4.8))
            values = (rng.uniform(-top if kind == np.int32 else 0, top, 200)).astype(kind)
            grey = grey_of(values)[np.argsort(values, kind="stable")]
            assert grey.dtype == np.uint8 and (np.diff(grey.astype(int)) >= 0).all()
    odd = grey_of(np.array([np.nan, -np.inf, 0, 500, 1000, np.inf], np.float32))
    assert odd.tolist() == [0, 0, 0, 128, 255, 255]
    assert grey_of(np.full((2, 2), np.nan, np.float32)).tolist() == [[0, 0], [0, 0]]


def _png(width, height):
    """A PNG of this size in its header, with a few bytes of zeros."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(16000, 16000), (2**31 - 1, 2**31 - 1), (2**30, 1)])
def test_a_bomb_is_refused_by_its_size_before_it_is_decoded(tmp_path, monkeypatch, width, height):
    (tmp_path / "bomb.png").write_bytes(_png(width, height))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(BadMedia) as found:
        read_picture(tmp_path / "bomb.png")
    assert f"too large: bomb.png has {width} x {height} pixels" in str(found.value)
    assert "200,000,000 are read (MAX_PIXELS)" in str(found.value)
    with pytest.raises(BadMedia, match="too large"):
        picture_size(tmp_path / "bomb.png")


def test_pictures_of_the_largest_cameras_are_no_bombs_and_the_limit_of_pillow_stays(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "phone.png").write_bytes(_png(16320, 12240))
    assert picture_size(tmp_path / "phone.png") == (16320, 12240)
    assert MAX_PIXELS >= 16320 * 12240 and before == Image.MAX_IMAGE_PIXELS


def test_a_program_named_as_a_picture_is_not_run(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(BadMedia, match="unreadable file: a.jpg"), opened_image(tmp_path / "a.jpg"):
        pass
