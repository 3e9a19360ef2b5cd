"""HEIC pictures: left out by name with what to install, read where pillow-heif can be imported."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile

from media_files import picture, tone
from nano4m.config.datasets import FolderDataset
from nano4m.data.sources import folder
from nano4m.errors import BadMedia
from nano4m.media.image_file import is_heif
from nano4m.media.picture import picture_size, read_picture


def heic(path, brand=b"heic", others=(b"mif1", b"heic")):
    """The beginning of an ISO file; the rest is what the reader of this test makes of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (16 + 4 * len(others)).to_bytes(4, "big")
    path.write_bytes(size + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(64))
    return path


class Reader(ImageFile.ImageFile):
    """A reader in the place of pillow-heif: every picture is 20 x 10 and green."""

    format = "HEIF"

    def _open(self):
        self._mode, self._size = "RGB", (20, 10)

    def load(self):
        self.im = Image.new("RGB", (20, 10), (0, 200, 0)).im
        return Image.Image.load(self)


@pytest.fixture
def without_reader(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


@pytest.fixture
def with_reader(monkeypatch):
    Image.init()

    def register():
        monkeypatch.setitem(Image.OPEN, "HEIF", (Reader, lambda head: head[4:8] == b"ftyp"))

    module = SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "named.jpg"])
def test_a_heic_picture_says_what_to_install(tmp_path, without_reader, name):
    for look in (read_picture, picture_size):
        with pytest.raises(BadMedia, match=f"needs pillow-heif: {name} is .* pip install pillow-h"):
            look(heic(tmp_path / name))


def test_a_heic_picture_is_read_where_a_library_reads_it(tmp_path, with_reader):
    for name in ("a.heic", "named.jpg"):
        path = heic(tmp_path / name)
        assert picture_size(path) == (20, 10)
        assert np.array_equal(np.unique(read_picture(path)[..., 1]), [200])


def test_the_brand_decides_and_avif_and_films_are_not_heic(tmp_path):
    assert is_heif(heic(tmp_path / "a", b"mif1", (b"mif1", b"heic")))
    assert is_heif(heic(tmp_path / "b", b"hevc", ()))
    assert not is_heif(heic(tmp_path / "c", b"avif", (b"avif", b"mif1")))
    assert not is_heif(heic(tmp_path / "d", b"isom", (b"isom", b"mp41")))
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "e.avif")
    assert not is_heif(tmp_path / "e.avif")
    red = read_picture(tmp_path / "e.avif")
    assert red.shape == (20, 30, 3) and np.abs(red.reshape(-1, 3).mean(0) - (200, 0, 0)).max() < 8


def class_with_heic(root):
    for i in range(6):
        tone(root / "cat" / f"{i}.wav", hertz=300 + 20 * i)
        heic(root / "cat" / f"h{i}.heic")
    for i in range(2):
        picture(root / "cat" / f"p{i}.png", (30 * i, 9, 9))
    return root


def test_a_folder_leaves_heic_out_by_name_and_reason(tmp_path, without_reader, capsys):
    plans = folder.plan(FolderDataset(), class_with_heic(tmp_path), 0)
    assert plans.unread == {"a HEIC picture; to read such, pip install pillow-heif": {"cat": 6}}
    for plan in plans:
        names = [*plan.details["pictures"], *plan.details["spare"]]
        assert all(name.endswith(".png") for name in names)
    said = " ".join(capsys.readouterr().err.split())
    assert "picture left out: cat/h0.heic (needs pillow-heif: h0.heic is a HEIC picture" in said


def test_a_folder_draws_heic_pictures_where_they_are_read(tmp_path, with_reader):
    plans = folder.plan(FolderDataset(), class_with_heic(tmp_path), 0)
    assert not plans.unread
    drawn = {name[-5:] for plan in plans for name in plan.details["pictures"]}
    assert ".heic" in drawn
    for plan in plans:
        assert len(folder.load(plan, FolderDataset()).frames) == len(plan.details["pictures"])
