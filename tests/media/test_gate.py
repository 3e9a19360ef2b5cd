"""Whatever is wrong with a file of a user is BadMedia with a name that can be printed."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from nano4m.errors import BadMedia, UserError
from nano4m.media.gate import gated, opened, printable, reason

NAMES = [
    (b"dog.wav", "dog.wav"),
    ("\u5bb6\u732b \u3000.wav".encode(), "\u5bb6\u732b \u3000.wav"),
    ("\u0915\u094d\u200d\u0937.wav".encode(), "\u0915\u094d\u200d\u0937.wav"),
    (b"b\xe4r.flac", "b\\xe4r.flac"),
    (b"a\nb\x1b[31m.wav", "a\\nb\\x1b[31m.wav"),
    ("a\u202egpj.wav".encode(), "a\\u202egpj.wav"),
]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_a_name_of_any_bytes_is_shown_in_letters_that_can_be_encoded(tmp_path, name, shown):
    assert printable(name) == printable(os.fsdecode(name)) == shown
    shown.encode("utf-8")
    assert "\n" not in shown and "\x1b" not in shown
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"1")
    with pytest.raises(BadMedia) as found, opened(path):
        raise ValueError("nothing")
    assert str(found.value) == f"unreadable file: {shown} (ValueError: nothing)"


def test_names_of_random_bytes_and_letters_are_shown_on_one_line():
    rng = np.random.default_rng(0)
    for _ in range(300):
        raw = bytes(rng.integers(1, 256, 40, np.uint8))
        wide = "".join(map(chr, rng.integers(1, 0x110000, 10)))  # lone surrogates among them
        for shown in (printable(raw), reason(ValueError(wide))):
            shown.encode("utf-8")
            assert len(shown.splitlines()) <= 1 and ";" not in reason(ValueError(wide))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a; b\nc"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        Image.DecompressionBombError("too many pixels"),
        OSError(errno.EACCES, "Permission denied"),
        TypeError(),
        ZeroDivisionError("division by zero"),
        KeyError(274),
        np.exceptions.AxisError(3, 2),
    ],
)
def test_any_error_of_a_decoder_is_one_short_reason(tmp_path, error):
    path = tmp_path / "a.wav"
    path.write_bytes(b"1")
    with pytest.raises(BadMedia, match=r"^unreadable file: a\.wav \(.+\)$") as found, opened(path):
        raise error
    assert ";" not in str(found.value) and len(str(found.value)) < 250
    assert found.value.__cause__ is error
    with pytest.raises(BadMedia, match=r"^unreadable file: a\.wav"), gated(path):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), UserError("a"), BadMedia()])
def test_what_says_nothing_about_the_file_goes_through(tmp_path, error):
    with pytest.raises(type(error)) as found, gated(tmp_path / "a.wav"):
        raise error
    assert found.value is error


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOTCONN, errno.ESTALE])
def test_a_lost_disk_does_not_leave_out_every_file(tmp_path, number):
    with pytest.raises(OSError), gated(tmp_path / "a.wav"):
        raise OSError(number, os.strerror(number))


def test_a_path_that_is_no_file_is_named_by_what_it_is(tmp_path):
    def said(path):
        with pytest.raises(BadMedia) as found, opened(path):
            raise AssertionError("was opened")
        return str(found.value)

    assert said(tmp_path / "gone.wav") == "missing file: gone.wav"
    (tmp_path / "annex.wav").symlink_to("../.git/annex/x.wav")
    assert said(tmp_path / "annex.wav") == (
        "missing file: annex.wav (a link to ../.git/annex/x.wav, which is not there)"
    )
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert said(tmp_path / "loop.wav") == ("unreadable file: loop.wav (its links lead in a circle)")
    (tmp_path / "folder.wav").mkdir()
    assert said(tmp_path / "folder.wav") == "no file: folder.wav (a folder)"
    os.mkfifo(tmp_path / "pipe.wav")
    assert said(tmp_path / "pipe.wav").startswith("no file: pipe.wav (a pipe")
    (tmp_path / "empty.wav").touch()
    assert said(tmp_path / "empty.wav") == "empty file: empty.wav has 0 bytes"
    assert "its name is too long" in said(tmp_path / ("a" * 300))
    assert "null" in said(tmp_path / "a\0b.wav")
    assert said(tmp_path / "empty.wav" / "below.wav") == "missing file: below.wav"


def test_a_file_is_read_inside_and_its_size_is_given(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    with opened(path) as size:
        assert size == 5 and path.read_bytes() == b"12345"
