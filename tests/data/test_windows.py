"""Several windows of one recording: where they are, what is heard and seen in each, their ids."""

import dataclasses
import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import config
from test_film_window import film

from media_files import picture, raw_recording, tone, video
from nano4m.config.clips import ClipsConfig
from nano4m.data import build, clip_ids, waveform
from nano4m.data.clip_table import open_clips
from nano4m.data.cut import cut, cut_windows
from nano4m.data.sources.base import ClipPlan, RawMedia
from nano4m.errors import UserError

RATE = 24000


def steps(path, pitches, seconds=0.5, rate=16000, level=None, pause=0.0):
    """Tones one after the other, each louder than the one before."""
    levels = level or [0.1 + 0.05 * k for k in range(len(pitches))]
    t = np.arange(round(seconds * rate)) / rate
    quiet = np.zeros(round(pause * rate))
    parts = [
        np.r_[g * np.sin(2 * np.pi * f * t), quiet] for f, g in zip(pitches, levels, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), rate)
    return path


def pitch(columns):
    sound, rate = soundfile.read(io.BytesIO(columns["audio"]))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17))
    return spectrum.argmax() * rate / (1 << 17)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("policy", ["loudest", "start", "centre"])
def test_windows_do_not_overlap_and_the_first_ones_do_not_depend_on_their_number(seed, policy):
    rng = np.random.default_rng(seed)
    sound = rng.normal(size=rng.integers(20, 900)).astype(np.float32) * rng.uniform(0.1, 1)
    length = int(rng.integers(5, 120))
    most = waveform.window_starts(sound, length, policy, 50)
    assert len(set(most)) == len(most) >= 1
    gaps = np.diff(sorted(most))
    assert (gaps >= length).all()
    if len(sound) >= length:
        assert min(most) >= 0 and max(most) + length <= len(sound)
        assert len(most) >= len(sound) // (2 * length)
    for count in range(1, len(most)):
        assert waveform.window_starts(sound, length, policy, count) == most[:count]
    if policy == "loudest":  # greedy, by a plain search
        energies = [float((sound[i : i + length] ** 2).sum()) for i in range(len(sound) - length)]
        free = np.ones(len(energies), bool)
        for start in most:
            if free.any():
                best = max(e for e, is_free in zip(energies, free, strict=True) if is_free)
                assert (sound[max(start, 0) : start + length] ** 2).sum() >= best * (1 - 1e-5)
            free[max(0, start - length + 1) : start + length] = False


def test_each_window_of_a_recording_has_the_pitch_that_is_there(tmp_path):
    pitches = [300, 500, 700, 900, 1100, 1300]
    path = steps(tmp_path / "a.wav", pitches)
    settings = ClipsConfig(window_seconds=0.5, windows_per_recording=4, require=())
    found = list(cut_windows(raw_recording(path), settings))
    assert [round(pitch(own), -1) for own in found] == [1300, 1100, 900, 700]
    assert np.allclose([own["offset_s"] for own in found], [2.5, 2.0, 1.5, 1.0], atol=0.005)
    assert cut(raw_recording(path), settings) == found[0]
    few = list(cut_windows(raw_recording(path), settings.model_copy(
        update={"windows_per_recording": 2})))  # fmt: skip
    assert few == found[:2]
    for policy, wanted in (("start", [0, 0.5, 1]), ("centre", [1.25, 0.75, 1.75])):
        asked = settings.model_copy(update={"window": policy, "windows_per_recording": 3})
        own = list(cut_windows(raw_recording(path), asked))
        assert np.allclose([columns["offset_s"] for columns in own], wanted)
        if policy == "start":
            assert np.allclose([pitch(columns) for columns in own], [300, 500, 700], atol=3)


def test_windows_that_are_silent_or_not_there_are_no_clips(tmp_path):
    settings = ClipsConfig(window_seconds=0.5, windows_per_recording=9, require=())
    path = steps(tmp_path / "a.wav", [400, 800], level=[0.4, 0.2], pause=2.0)
    assert [round(pitch(own), -1) for own in cut_windows(raw_recording(path), settings)] == [
        400,
        800,
    ]
    short = tone(tmp_path / "short.wav", 0.3)
    assert len(list(cut_windows(raw_recording(short), settings))) == 1
    silent = tone(tmp_path / "mute.wav", 3, hertz=0)
    (only,) = cut_windows(raw_recording(silent), settings)
    assert only["reason"].startswith("silent")


def test_windows_of_a_sound_show_different_pictures_of_those_that_it_has(tmp_path):
    greys = tuple(np.full((16, 16, 3), grey, np.uint8) for grey in (10, 90, 170))
    path = steps(tmp_path / "a.wav", [400, 500, 600, 700])
    raw = dataclasses.replace(raw_recording(path), frames=greys)
    settings = ClipsConfig(window_seconds=0.5, windows_per_recording=4, picture_size=16)
    ids = [own["picture"][0] for own in cut_windows(raw, settings)]
    assert len(set(ids[:3])) == 3 and ids[3] == ids[0]


def test_each_window_of_a_film_has_its_own_frames(tmp_path):
    path = film(tmp_path / "a.mkv", 20, 12)
    settings = ClipsConfig(window_seconds=2, windows_per_recording=5, picture_size=16)
    found = list(cut_windows(raw_recording(path), settings))
    assert len(found) == 5 and all("reason" not in own for own in found)
    starts = sorted(own["offset_s"] for own in found)
    assert (np.diff(starts) > 2 - 1e-6).all() and abs(found[0]["offset_s"] - 11.5) < 1.01
    for own in found:
        grey = np.asarray(Image.open(io.BytesIO(own["frames"][0]))).mean()
        second = grey * 20 / 250
        assert own["offset_s"] - 1.1 < second < own["offset_s"] + 3.1


def test_windows_of_a_film_without_sound_follow_each_other(tmp_path):
    path = video(tmp_path / "mute.mp4", 2.5, has_sound=False)
    settings = ClipsConfig(window_seconds=0.8, windows_per_recording=5, require=("picture",))
    found = list(cut_windows(raw_recording(path), settings))
    assert np.allclose([own["offset_s"] for own in found], [0.0, 0.8, 1.6])
    assert all(own["frames"] and "audio" not in own for own in found)


# -- in the clips table ------------------------------------------------------------------------


def folder_of_steps(root, count=8):
    """Sounds of four tones each; recordings of four or two windows."""
    for label in ("cat", "dog"):
        for i in range(count):
            low = 300 + 40 * i + 15 * (label == "dog")
            pitches = [low, 2 * low, 3 * low, 4 * low][: 4 if i % 2 else 2]
            steps(root / "audio" / label / f"{i}.wav", pitches, 0.25, pause=0.05)
            picture(root / "images" / label / f"p{i}.png", (20 * i, 90, 10 + 90 * (label == "dog")))
    return root


def test_all_windows_of_a_recording_are_in_one_split_with_one_label_and_caption(tmp_path):
    data = folder_of_steps(tmp_path / "data")
    asked = config(windows_per_recording=3)
    counts = build.build_clips(asked, data, tmp_path / "out")
    assert counts["clips"] == 2 * (4 * 3 + 4 * 2)
    table = open_clips(tmp_path / "out")
    by_recording = {}
    for i, name in enumerate(table.clip_ids):
        by_recording.setdefault(name.split(".wav")[0], []).append(i)
    assert len(by_recording) == 16
    for name, rows in by_recording.items():
        number = int(name.rsplit("-", 1)[-1].rsplit("/", 1)[-1])
        assert len(rows) == (3 if number % 2 else 2)
        for column in (table.splits, table.labels, table.groups):
            assert len({column[i] for i in rows}) == 1
        low = 300 + 40 * number + 15 * (table.labels[rows[0]] == "dog")
        top = 4 if number % 2 else 2
        for rank, row in enumerate(rows):
            sound = table.media("sound", [row])[0].numpy()
            spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17))
            assert abs(spectrum.argmax() * RATE / (1 << 17) - (top - rank) * low) < 5
    one = build.build_clips(config(), data, tmp_path / "one")
    first = open_clips(tmp_path / "one")
    assert one["clips"] == 16
    for i, name in enumerate(first.clip_ids):
        j = list(table.clip_ids).index(name)
        assert (first.media("sound", [i]) == table.media("sound", [j])).all()
    assert sum(".w" in name.replace(".wav", "") for name in table.clip_ids) == len(table) - 16


def test_a_recording_that_cannot_be_used_is_one_row_whatever_is_asked_for(tmp_path):
    data = folder_of_steps(tmp_path / "data")
    (data / "audio" / "cat" / "1.wav").write_bytes(b"RIFF no sound")
    counts = build.build_clips(config(windows_per_recording=3), data, tmp_path / "out")
    assert counts["reasons"] == {"unreadable file": 1}
    assert counts["clips"] == 2 * (4 * 3 + 4 * 2) - 2


def test_an_id_that_a_window_would_take_is_refused():
    fields = {"source": "s", "start_s": 0.0, "label": "a", "caption": "a", "licence": "-"}
    plans = [
        ClipPlan(clip_id=name, video_id=name, split="train", **fields)
        for name in ("a", "a.w2", "b.w2")
    ]
    clip_ids.check_plans(plans, 1)
    with pytest.raises(UserError, match="window 2 of 'a' would have the id of another"):
        clip_ids.check_plans(plans, 2)
    assert [clip_ids.window_id("a", k) for k in range(3)] == ["a", "a.w2", "a.w3"]


def test_media_in_memory_have_several_windows_too():
    t = np.arange(2 * RATE) / RATE
    hertz, level = np.where(t < 1, 400, 800), np.where(t < 1, 0.3, 0.15)
    sound = np.float32(level * np.sin(2 * np.pi * hertz * t))
    raw = RawMedia(sound=sound, sample_rate=RATE, frames=(np.zeros((9, 9, 3), np.uint8),))
    settings = ClipsConfig(window_seconds=1, windows_per_recording=5)
    found = list(cut_windows(raw, settings))
    assert [round(pitch(own), -1) for own in found] == [400, 800]
