"""Sounds, pictures and films as files: every rate and form is read, a broken one is named."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from media_files import read_window, tone, video
from nano4m.errors import BadMedia
from nano4m.media.picture import read_picture
from nano4m.media.sound import read_sound


def read_film(path):
    return read_window(path)


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"),
    [(8000, 1, "wav"), (44100, 2, "wav"), (96000, 1, "flac"), (48000, 2, "ogg"), (44100, 1, "mp3")],
)
def test_sounds_of_any_rate_are_read_at_their_own(tmp_path, rate, channels, suffix):
    sound, found = read_sound(tone(tmp_path / f"a.{suffix}", 0.5, rate, channels=channels))
    assert found == rate and sound.shape[1] == channels and sound.dtype == np.float32
    assert abs(len(sound) / rate - 0.5) < 0.06 and 0.4 < np.abs(sound).max() < 0.6


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.jpg", "a.png", "a.mp4", "a.mkv"])
def test_a_file_that_is_missing_empty_cut_off_or_nonsense_is_named(tmp_path, name):
    path, suffix = tmp_path / name, name[2:]
    reader = {"wav": read_sound, "flac": read_sound}.get(suffix, read_picture)
    reader = read_film if suffix in ("mp4", "mkv") else reader
    with pytest.raises(BadMedia, match=f"missing file: {name}"):
        reader(path)
    path.touch()
    with pytest.raises(BadMedia, match=f"empty file: {name}"):
        reader(path)
    path.write_bytes(b"not what the name says " * 50)
    with pytest.raises(BadMedia, match=f"unreadable file: {name}"):
        reader(path)
    if suffix in ("wav", "flac"):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000)
        soundfile.write(path, noise, 16000)
    elif suffix in ("jpg", "png"):
        noisy = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
        Image.fromarray(noisy).save(path)
    else:
        video(path)
    reader(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadMedia, match=rf"(truncated|unreadable) file: {name}"):
        reader(path)


def test_a_video_without_sound_or_pictures_is_named(tmp_path):
    with pytest.raises(BadMedia, match="no sound: mute.mp4"):
        read_film(video(tmp_path / "mute.mp4", has_sound=False))
    tone(tmp_path / "a.wav", rate=44100).rename(tmp_path / "blind.avi")
    with pytest.raises(BadMedia, match="no pictures: blind.avi"):
        read_film(tmp_path / "blind.avi")


def test_pictures_are_upright_rgb_and_without_holes(tmp_path):
    lying = Image.new("RGB", (40, 20), "black")
    lying.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    lying.save(tmp_path / "lying.png", exif=exif)
    upright = read_picture(tmp_path / "lying.png")
    assert upright.shape == (40, 20, 3) and upright[:20].min() == 255 and upright[20:].max() == 0
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert np.array_equal(np.unique(read_picture(tmp_path / "grey.png")), [77])
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").min() == 255
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.jpg")
    assert 500 <= min(read_picture(tmp_path / "large.jpg").shape[:2]) <= 512
