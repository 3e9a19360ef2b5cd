"""Class folders with films that have a sound alone, or pictures alone."""

import io

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import config

from media_files import picture, video
from nano4m.config.datasets import FolderDataset
from nano4m.data import build
from nano4m.data.clip_table import open_clips
from nano4m.data.cut import cut
from nano4m.data.sources import folder
from nano4m.errors import BadMedia
from nano4m.media.film import is_sound

SUFFIXES = (".mp4", ".webm", ".mkv", ".3gp", ".mov")


def sound_film(path, hertz, seconds=0.6, cover=False):
    """A file with the ending of a film and a track of sound alone, perhaps with a cover."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec, rate = ("libopus", 48000) if path.suffix == ".webm" else ("aac", 44100)
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        shown = container.add_stream("mjpeg", rate=1) if cover else None
        if shown:
            shown.width, shown.height, shown.pix_fmt = 32, 32, "yuvj420p"
            shown.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(shown.encode(frame))
            container.mux(shown.encode(None))
        resampler = av.AudioResampler(track.format, "mono", rate, track.frame_size or 960)
        frame = av.AudioFrame.from_ndarray(np.float32(wave)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return path


def class_folder(root):
    """Class tone: sounds in files of films and pictures; class mute: films without a sound."""
    for i in range(8):
        suffix = SUFFIXES[i % len(SUFFIXES)]
        sound_film(root / "tone" / f"s{i}{suffix}", 400 + 100 * i)
        picture(root / "tone" / f"p{i}.png", (40, 25 * i, 200))
        video(root / "mute" / f"m{i}.mp4", 1.0, has_sound=False)
    return root


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_film_without_a_track_of_pictures_is_a_sound(tmp_path, suffix):
    assert is_sound(sound_film(tmp_path / f"a{suffix}", 500))
    assert not is_sound(video(tmp_path / "b.mp4", 0.5))
    assert not is_sound(video(tmp_path / "c.mp4", 0.5, has_sound=False))
    (tmp_path / "d.mp4").write_bytes(b"no film at all")
    assert not is_sound(tmp_path / "d.mp4") and not is_sound(tmp_path / "gone.mp4")


def test_the_film_of_a_sound_with_a_cover_is_a_sound(tmp_path):
    assert is_sound(sound_film(tmp_path / "a.mp4", 500, cover=True))


def test_sounds_in_films_draw_pictures_of_their_class_and_split_as_sounds_do(tmp_path):
    plans = folder.plan(FolderDataset(), class_folder(tmp_path), 0)
    by_split = {}
    for plan in (p for p in plans if p.label == "tone"):
        raw = folder.load(plan, FolderDataset())
        assert raw.frames and len(raw.frames) == len(plan.details["pictures"])
        by_split.setdefault(plan.split, set()).update(plan.details["pictures"])
        found = cut(raw, config(window_seconds=0.5).clips)
        sound, rate = soundfile.read(io.BytesIO(found["audio"]))
        hertz = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17)).argmax()
        number = int(plan.clip_id.split("s")[-1][0])
        assert abs(hertz * rate / (1 << 17) - (400 + 100 * number)) < 4
        red, _, blue = np.asarray(Image.open(io.BytesIO(found["frames"][0])))[8, 8].astype(int)
        assert abs(red - 40) < 8 and abs(blue - 200) < 8
    assert set(by_split) == {"train", "val"} and not by_split["train"] & by_split["val"]


def test_films_without_a_sound_are_kept_where_no_sound_is_required(tmp_path):
    data = class_folder(tmp_path / "data")
    loose = build.build_clips(config(require=()), data, tmp_path / "loose")
    assert loose["kept"] == 16 and loose["by_media"] == {"caption": 16, "picture": 16, "sound": 8}
    table = open_clips(tmp_path / "loose")
    assert (table.present("sound") == (table.labels == "tone")).all()
    with pytest.raises(BadMedia, match="no sound: m0.mp4 has no audio stream"):
        plan = next(p for p in folder.plan(FolderDataset(), data, 0) if p.label == "mute")
        cut(folder.load(plan, FolderDataset()), config().clips)


def test_sounds_in_films_of_a_class_without_pictures_say_so(tmp_path):
    for i in range(6):
        sound_film(tmp_path / "tone" / f"s{i}.mp4", 500 + 9 * i)
    for plan in folder.plan(FolderDataset(), tmp_path, 0):
        raw = folder.load(plan, FolderDataset())
        assert "audio" in cut(raw, config(require=()).clips)
        with pytest.raises(BadMedia, match="no picture: none of class 'tone'"):
            cut(raw, config().clips)
