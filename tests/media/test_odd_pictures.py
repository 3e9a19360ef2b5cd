"""Pictures of ../shared/data/odd_files: red left, blue right, a white strip on top."""

import numpy as np
import pytest

from nano4m.errors import BadMedia
from nano4m.media.picture import read_picture

UNREADABLE = {
    "bad_crc.png": "unreadable file",
    "cut.jpg": "unreadable file",
    "cut.png": "unreadable file",
    "heic_named.jpg": "needs pillow-heif",
    "html.jpg": "unreadable file",
    "ztxt_big.png": "unreadable file",
    "huge_256MP.png": "too large: huge_256MP.png has 16000 x 16000 pixels",
}
GREY = {"grey8.png", "la.png", "onebit.png", "grey16.png", "greyalpha16.png"}
OTHERS = {"all_transparent.png", "one_pixel.png", "panorama_4000x16.png", "big_100MP.png"}
LYING = {f"exif{number}.jpg" for number in range(2, 9)}
"""The stored scene stands upright, so these are turned away from it."""
NOT_TURNED = {
    *("exif1.jpg", "exif_cut.jpg", "exif_empty.jpg", "exif_short.jpg", "exif_ori_zero.jpg"),
    *("exif_ori_as_ascii.jpg", "exif_ori_as_rational.jpg"),
}


def colours(picture):
    """Mean colours at the top, left, right and bottom of a picture."""
    height, width = picture.shape[:2]
    h, w = height // 16, width // 16
    parts = (
        picture[:h, 4 * w : -4 * w],
        picture[4 * h : -4 * h, :w],
        picture[4 * h : -4 * h, -w:],
        picture[-h:, 4 * w : -4 * w],
    )
    return [part.reshape(-1, 3).mean(0) for part in parts]


def is_red(colour):
    return colour[0] > 150 and colour[1:].max() < 90


def is_blue(colour):
    return colour[2] > 150 and colour[:2].max() < 90


def is_white(colour):
    return colour.min() > 200


@pytest.fixture
def folder(shared_data):
    return shared_data / "odd_files"


def test_pictures_of_any_form_show_the_scene_and_broken_ones_are_named(folder):
    seen = set()
    for path in sorted((folder / "pic").iterdir()):
        if path.name in UNREADABLE:
            with pytest.raises(BadMedia) as found:
                read_picture(path)
            assert str(found.value).startswith(UNREADABLE[path.name]), path.name
            assert path.name in str(found.value)
        elif path.name not in GREY | OTHERS and not path.name.startswith("exif"):
            top, left, right, _ = colours(read_picture(path))
            assert is_white(top) and is_red(left) and is_blue(right), path.name
            seen.add(path.suffix)
    assert {".jpg", ".png", ".webp", ".avif", ".gif", ".tif", ".bmp"} <= seen


def test_a_rotation_in_any_exif_is_applied(folder):
    turned = read_picture(folder / "pic" / "exif6.jpg")
    names = [p for p in sorted((folder / "pic").glob("exif*.jpg")) if p.name not in LYING]
    assert len(names) > 15
    for path in (*names, folder / "fuzz" / "error_1658.jpg"):
        top, left, right, bottom = colours(read_picture(path))
        if path.name in NOT_TURNED:
            assert is_white(top) and is_red(left) and is_blue(right), path.name
        else:
            assert is_red(top) and is_blue(bottom) and is_white(right), path.name
            assert np.abs(read_picture(path).astype(int) - turned).mean() < 3, path.name


def test_grey_of_16_bits_is_a_ramp(folder):
    ramp = read_picture(folder / "pic" / "grey16.png")[80, :, 0].astype(int)
    assert ramp[0] == 0 and ramp[-1] >= 250 and (np.diff(ramp) >= 0).all()
    assert len(set(ramp.tolist())) >= 64 and abs(ramp[80] - 128) <= 2
    ramp = read_picture(folder / "pic" / "greyalpha16.png")[80, :, 0].astype(int)
    assert len(set(ramp.tolist())) >= 64


def test_a_bomb_is_refused_by_name_and_size(folder):
    with pytest.raises(BadMedia, match="too large: DecompressionBombError_3659.jpg has 65440 x 3"):
        read_picture(folder / "fuzz" / "DecompressionBombError_3659.jpg")
    assert read_picture(folder / "pic" / "big_100MP.png").shape == (512, 512, 3)
