"""Cutting and the clips table: against known patterns, planted faults and interrupted builds."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from nano4m import clip_table, clips, cut
from nano4m.clip_table import open_clips, write_shard
from nano4m.config import Bpe, ClipsConfig, Config, EvaluateConfig, FolderSource, MelVQ
from nano4m.errors import BadMedia, UserError
from nano4m.sources.base import ClipPlan, RawMedia

RATE = 24000


def config(**settings) -> Config:
    asked = {"window_seconds": 0.25, "picture_size": 16, "workers": 0} | settings
    return Config(
        preset="animals",
        source=FolderSource(),
        clips=ClipsConfig(**asked),
        tokenizers={"sound": MelVQ(), "caption": Bpe()},
        evaluate=EvaluateConfig(split="val"),
    )


def sine(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return np.float32(level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate))


def raw(sound=None, rate=RATE, frames=1, **more) -> RawMedia:
    grey = np.full((20, 30, 3), 128, np.uint8)
    sound = sine(0.5) if sound is None else sound
    return RawMedia(sound=sound, sample_rate=rate, frames=(grey,) * frames, **more)


def plan(number: int, **more) -> ClipPlan:
    fields = {
        "clip_id": f"c{number:03d}",
        "source": "fake",
        "video_id": f"v{number}",
        "start_s": 10.0,
        "label": ("cat", "dog")[number % 2],
        "caption": f"a caption {number}",
        "split": "val" if number % 5 == 0 else "train",
        "licence": "CC0",
        "details": {"number": number},
    }
    return ClipPlan(**(fields | more))


def media_of(clip: ClipPlan, settings: object = None) -> RawMedia:
    rng = np.random.default_rng(int(clip.details["number"]))
    picture = rng.integers(0, 255, (24, 24, 3), np.uint8)
    sound = rng.uniform(-0.3, 0.3, 9000).astype(np.float32)
    return RawMedia(sound=sound, sample_rate=RATE, frames=(picture,))


@pytest.fixture
def fake(monkeypatch):
    """A source of 20 clips in shards of 8, whose plans and media a test may change."""
    module = SimpleNamespace(plans=[plan(i) for i in range(20)], media=media_of, loaded=[])

    def load(clip, settings):
        module.loaded.append(clip.clip_id)
        return module.media(clip, settings)

    module.plan, module.load = (lambda settings, data, seed: module.plans), load
    monkeypatch.setattr(clips, "source", lambda name: module)
    monkeypatch.setattr(clips, "SHARD_CLIPS", 8)
    return module


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("clips-*.parquet"))}


def decoded_sound(columns) -> np.ndarray:
    return soundfile.read(io.BytesIO(columns["audio"]), dtype="float32")[0]


# -- sound -------------------------------------------------------------------------------------


def test_mono_is_the_mean_of_the_channels():
    left, right = sine(0.1), sine(0.1, hertz=1000)
    assert np.allclose(cut.to_mono(np.stack([left, right], 1)), (left + right) / 2, atol=1e-7)
    assert np.array_equal(cut.to_mono(left), left)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_duration_and_pitch(rate):
    sound = cut.resample(sine(0.5, rate), rate, RATE)
    assert abs(len(sound) - 12000) <= 1 and sound.dtype == np.float32
    loudest = np.abs(np.fft.rfft(sound)).argmax() / (len(sound) / RATE)
    assert abs(loudest - 440) < 3
    assert abs(sound.std() - 0.5 / np.sqrt(2)) < 0.01


def test_window_policies_on_a_sound_with_one_loud_place():
    sound = np.full(1000, 0.01, np.float32)
    sound[620:720] = 0.5
    assert cut.window_start(sound, 100, "loudest") == 620
    assert cut.window_start(sound, 100, "start") == 0
    assert cut.window_start(sound, 100, "centre") == 450
    with pytest.raises(ValueError, match="choose from"):
        cut.window_start(sound, 100, "end")


def test_the_loudest_window_is_that_of_a_plain_search():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sound = np.float32(rng.normal(size=rng.integers(30, 200)) * rng.uniform(size=1))
        energies = [(sound[i : i + 30] ** 2).sum() for i in range(len(sound) - 29)]
        found = cut.window_start(sound, 30, "loudest")
        assert energies[found] == pytest.approx(max(energies), rel=1e-5)


@pytest.mark.parametrize("policy", ["loudest", "start", "centre"])
def test_a_short_recording_lies_in_the_centre_of_zeros(policy):
    settings = config(min_seconds=0, window=policy).clips
    columns = cut.cut(raw(np.full(1001, 0.25, np.float32)), settings)
    sound = decoded_sound(columns)
    assert len(sound) == 6000
    heard = np.flatnonzero(sound)
    assert heard[0] in (2499, 2500) and len(heard) == 1001
    assert columns["offset_s"] == pytest.approx(-heard[0] / RATE)
    assert columns["rms_db"] == pytest.approx(20 * np.log10(0.25), abs=0.01)


@pytest.mark.parametrize(
    ("rate", "shape"), [(8000, (8000,)), (44100, (44100, 2)), (96000, (96000,)), (24000, (1, 1))]
)
def test_every_window_has_the_same_length(rate, shape):
    columns = cut.cut(raw(np.full(shape, 0.2, np.float32), rate), config(min_seconds=0).clips)
    assert len(decoded_sound(columns)) == 6000


@pytest.mark.parametrize("samples", [1, 3, 1199])
def test_a_recording_of_a_few_samples_is_refused(samples):
    settings = ClipsConfig(window_seconds=0.25)
    with pytest.raises(BadMedia, match=r"too short: 0\.0.* s, below min_seconds 0\.05 s"):
        cut.cut(raw(np.full(samples, 0.5, np.float32)), settings)
    kept = cut.cut(raw(np.full(1200, 0.5, np.float32)), settings)
    assert "reason" not in kept
    assert cut.cut(raw(np.full(3, 0.5, np.float32)), settings.model_copy(update={"min_seconds": 0}))


def test_a_shift_as_long_as_the_window_is_refused():
    with pytest.raises(ValueError, match="moves a view out of its window; it must be below"):
        Config(
            clips=ClipsConfig(window_seconds=0.5),
            tokenizers={"sound": MelVQ(shift_seconds=0.5), "caption": Bpe()},
        )


def test_silence_gives_a_reason_and_its_level():
    for sound in (np.zeros(9000, np.float32), sine(0.5, level=1e-4)):
        columns = cut.cut(raw(sound), config().clips)
        assert columns["reason"].startswith("silent: ") and columns["rms_db"] < -60
        assert "audio" not in columns
    assert "reason" not in cut.cut(raw(sine(0.5, level=1e-4)), config(silence_db=-90).clips)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused(bad):
    sound = sine(0.5)
    sound[77] = bad
    with pytest.raises(BadMedia, match="not finite: 1 of 12000"):
        cut.cut(raw(sound), config().clips)
    with pytest.raises(BadMedia, match="no samples"):
        cut.cut(raw(np.zeros(0, np.float32)), config().clips)


def test_loudness_is_set_and_never_clips():
    steady = decoded_sound(cut.cut(raw(sine(0.5, level=0.01)), config(loudness_db=-23.0).clips))
    assert 20 * np.log10(np.sqrt((steady**2).mean())) == pytest.approx(-23, abs=0.05)
    peaky = sine(0.5, level=0.01)
    peaky[3000] = 0.9
    loud = decoded_sound(cut.cut(raw(peaky), config(loudness_db=-10.0).clips))
    assert np.abs(loud).max() == pytest.approx(0.99, abs=1e-3)
    untouched = decoded_sound(cut.cut(raw(sine(0.25, level=0.3)), config().clips))
    assert np.allclose(untouched, sine(0.25, level=0.3), atol=2**-15)
    beyond = decoded_sound(cut.cut(raw(sine(0.25, level=2.0)), config().clips))
    assert np.allclose(beyond, sine(0.25, level=1.0), atol=1e-3)


# -- pictures ----------------------------------------------------------------------------------


def pattern(height: int, width: int) -> RawMedia:
    """Picture, depth and normals that show one and the same smooth pattern, without symmetry."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    value = 0.5 + 0.4 * np.sin(x / 5 + 1) * np.cos(y / 6 + 2)
    frame = np.repeat(np.round(value * 255).astype(np.uint8)[..., None], 3, axis=2)
    tilt = value[..., None] * np.float32([1, 0, 0])
    normals = tilt + np.sqrt(1 - value**2)[..., None] * np.float32([0, 0, 1])
    return RawMedia(
        sound=sine(0.5), sample_rate=RATE, frames=(frame,), depth=(1 / value,), normals=(normals,)
    )


def maps(columns) -> dict[str, np.ndarray]:
    from nano4m.clip_media import READERS

    kinds = ("picture", "depth", "normals")
    return {k: READERS[k][1]([columns[READERS[k][0]]], 0)[0].numpy()[0] for k in kinds}


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (48, 48), (33, 57), (12, 17)])
def test_picture_depth_and_normals_show_the_same_place(height, width):
    columns = cut.cut(pattern(height, width), config(picture_size=24).clips)
    side = min(height, width)
    assert columns["crop"] == [[(width - side) // 2, (height - side) // 2, side]]
    shown = maps(columns)
    assert np.abs(shown["picture"] - shown["depth"]).mean() < 0.02
    assert np.abs(shown["picture"] - shown["normals"]).mean() < 0.02


@pytest.mark.parametrize("fault", ["crop_depth", "crop_normals"])
def test_a_wrong_crop_of_one_of_them_would_be_seen(monkeypatch, fault):
    """The positive control of the test above: its measure sees a squash instead of the crop."""
    right = getattr(cut, fault)

    def squash(array, box, size, *more):
        height, width = array.shape[:2]
        side = min(height, width)
        rows, columns = (np.linspace(0, n - 1, side).astype(int) for n in (height, width))
        return right(array[rows][:, columns], (0, 0, side), size, *more)

    monkeypatch.setattr(cut, fault, squash)
    shown = maps(cut.cut(pattern(40, 60), config(picture_size=24).clips))
    assert np.abs(shown["picture"] - shown[fault.removeprefix("crop_")]).mean() > 0.1


def test_depth_is_inverse_and_the_sky_is_zero():
    distance = np.full((16, 16), 4.0, np.float32)
    distance[:8] = np.inf
    distance[8:, :8] = 0.5
    media = raw()
    picture = np.zeros((16, 16, 3), np.uint8)
    media = RawMedia(sound=media.sound, sample_rate=RATE, frames=(picture,), depth=(distance,))
    columns = cut.cut(media, config(depth_near=1.0).clips)
    coded = np.asarray(Image.open(io.BytesIO(columns["depth"][0])), np.float64) / 65535
    assert np.allclose(coded[:8], 0) and np.allclose(coded[8:, 8:], 0.25, atol=1e-4)
    assert np.allclose(coded[8:, :8], 1)


def test_wrong_maps_are_refused():
    distance, normals = np.ones((20, 30)), np.zeros((20, 30, 3))
    settings = config().clips
    with pytest.raises(BadMedia, match="wrong normals"):
        cut.cut(raw(normals=(normals,)), settings)
    with pytest.raises(BadMedia, match="wrong depth: .* NaN"):
        cut.cut(raw(depth=(distance * np.nan,)), settings)
    with pytest.raises(BadMedia, match=r"wrong depth: \(20, 20\) pixels"):
        cut.cut(raw(depth=(distance[:, :20],)), settings)


def test_keyframes_lie_inside_the_window_evenly_and_once():
    times = tuple(i * 0.1 for i in range(100))
    assert cut.choose_frames(times, 100, 4, 5.0, 6.0) == [51, 54, 56, 59]
    assert cut.choose_frames(times, 100, 10, 5.02, 6.02) == list(range(51, 61))
    with pytest.raises(BadMedia, match="too few frames: 10 of 11"):
        cut.choose_frames(times, 100, 11, 5.02, 6.02)
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = tuple(np.sort(rng.uniform(0, 2, 30)))
        inside = sum(0.5 <= time <= 1.5 for time in times)
        needed = int(rng.integers(1, inside + 1))
        chosen = cut.choose_frames(times, 30, needed, 0.5, 1.5)
        assert len(set(chosen)) == needed and chosen == sorted(chosen)
        assert all(0.5 <= times[i] <= 1.5 for i in chosen)


def test_the_frame_of_a_video_is_that_of_the_loud_moment():
    sound = np.zeros(10 * RATE, np.float32)
    sound[7 * RATE : 8 * RATE] = sine(1)
    frames = tuple(np.full((20, 20, 3), 10 * i, np.uint8) for i in range(20))
    media = RawMedia(
        sound=sound, sample_rate=RATE, frames=frames, frame_times=tuple(i / 2 for i in range(20))
    )
    columns = cut.cut(media, config(window_seconds=1.0, frames=2).clips)
    shown = [np.asarray(Image.open(io.BytesIO(b))).mean() for b in columns["frames"]]
    assert np.allclose(shown, [140, 150], atol=2) or np.allclose(shown, [150, 160], atol=2)
    assert columns["offset_s"] == pytest.approx(7, abs=1e-3)


def test_still_pictures_are_repeated_or_left_off_and_none_is_refused():
    assert cut.choose_frames(None, 3, 5, 0, 1) == [0, 1, 2, 0, 1]
    assert cut.choose_frames(None, 3, 2, 0, 1) == [0, 1]
    with pytest.raises(BadMedia, match="no picture"):
        cut.cut(raw(frames=0), config().clips)


# -- the table ---------------------------------------------------------------------------------


def table_of(tmp_path: Path, count: int = 6, frames: int = 2, size: int = 24):
    """A table written by hand, with the media that went in."""
    media = [pattern(size, size) for _ in range(count)]
    rows = []
    for i, one in enumerate(media):
        one = RawMedia(
            sound=sine(0.25, hertz=200 + 50 * i), sample_rate=RATE, frames=one.frames * frames,
            depth=one.depth * frames, normals=one.normals * frames,
        )  # fmt: skip
        columns = cut.cut(one, config(picture_size=size, frames=frames).clips)
        columns.pop("offset_s")
        about = {k: getattr(plan(i), k) for k in (*clip_table.TEXTS, "start_s")}
        rows.append(about | columns | {"kept": i != 2, "reason": "silent: x" if i == 2 else None})
    write_shard(tmp_path, 0, rows[:4], sample_rate=RATE, num_shards=2)
    write_shard(tmp_path, 1, rows[4:], sample_rate=RATE, num_shards=2)
    return media


def test_media_come_back_in_the_form_of_tokenizers(tmp_path):
    [source, *_] = table_of(tmp_path)
    table = open_clips(tmp_path)
    assert table.clip_ids.tolist() == ["c000", "c001", "c003", "c004", "c005"]
    assert table.rows("val").tolist() == [0, 4] and table.rows("test").tolist() == []
    assert (table.num_frames, table.sample_rate, table.classes) == (2, RATE, ["cat", "dog"])
    rows = [4, 0, 3, 3]
    picture, depth, normals = (table.media(k, rows) for k in ("picture", "depth", "normals"))
    assert picture.shape == normals.shape == (4, 2, 3, 24, 24) and depth.shape == (4, 2, 1, 24, 24)
    assert all(t.dtype == torch.float32 for t in (picture, depth, normals))
    expected = torch.from_numpy(source.frames[0]).movedim(-1, 0) / 255
    assert (picture - expected).abs().max() < 0.05
    assert (depth[0, 0, 0] - torch.from_numpy(1 / source.depth[0])).abs().max() < 1e-4
    assert (normals[0, 0] - torch.from_numpy(source.normals[0]).movedim(-1, 0)).abs().max() < 0.02
    assert torch.allclose(normals.norm(dim=2), torch.ones(4, 2, 24, 24), atol=1e-5)
    assert table.media("caption", rows) == ["a caption 5", "a caption 0", *["a caption 4"] * 2]
    sound = table.media("sound", rows)
    assert sound.shape == (4, 6000) and sound.dtype == torch.float32
    for row, number in zip(sound.numpy(), (5, 0, 4, 4), strict=True):
        assert np.allclose(row, sine(0.25, hertz=200 + 50 * number), atol=1e-4)
    for kind in ("picture", "depth", "normals"):
        assert torch.equal(table.media(kind, rows, frame=1), table.media(kind, rows)[:, 1])


def test_what_a_table_does_not_have_is_refused(tmp_path, fake):
    clips.build_clips(config(), None, tmp_path)
    table = open_clips(tmp_path)
    assert table.has("picture") and table.has("sound") and not table.has("depth")
    with pytest.raises(UserError, match="have no depth, only caption, picture, sound"):
        table.media("depth", [0])
    with pytest.raises(UserError, match="did you mean 'sound'"):
        table.media("sounds", [0])
    with pytest.raises(UserError, match="unknown split 'valid'"):
        table.rows("valid")
    with pytest.raises(IndexError):
        table.media("picture", [99])
    with pytest.raises(IndexError):
        table.media("picture", [0], frame=1)
    with pytest.raises(ValueError, match="no rows"):
        table.media("sound", [])


def test_a_table_that_is_missing_unfinished_or_damaged_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="nano4m clips PRESET"):
        open_clips(tmp_path / "nowhere")
    table_of(tmp_path)
    last = clip_table.shard_path(tmp_path, 1)
    whole = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match="1 of 2 shards are missing .*nano4m clips PRESET"):
        open_clips(tmp_path)
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="clips-00001.parquet cannot be read"):
        open_clips(tmp_path)


def test_shards_of_other_settings_do_not_mix(tmp_path):
    table_of(tmp_path)
    row = {k: "x" for k in clip_table.TEXTS} | {"kept": False, "reason": "silent: x"}
    write_shard(tmp_path, 1, [row], sample_rate=RATE, num_shards=2, fingerprint="other")
    with pytest.raises(UserError, match="mixes shards"):
        open_clips(tmp_path)


def test_a_table_of_which_nothing_was_kept_is_refused(tmp_path):
    row = {k: "x" for k in clip_table.TEXTS} | {"kept": False, "reason": "silent: x"}
    write_shard(tmp_path, 0, [row], sample_rate=RATE)
    with pytest.raises(UserError, match="no clip in .* was kept"):
        open_clips(tmp_path)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(table, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_table.pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, 0, [], sample_rate=RATE)
    assert list(tmp_path.iterdir()) == []


# -- the stage ---------------------------------------------------------------------------------


def test_a_build_counts_everything_and_names_every_fault(tmp_path, fake):
    def media(clip, settings):
        number = clip.details["number"]
        if number == 3:
            raise BadMedia("empty file: x.wav has 0 bytes")
        if number == 4:
            raise KeyError("surprise")
        if number == 6:
            return raw(np.zeros(9000, np.float32))
        return media_of(clip)

    fake.media = media
    counts = clips.build_clips(config(), None, tmp_path)
    assert (counts["clips"], counts["kept"]) == (20, 17)
    assert counts["by_split"] == {"train": [13, 16], "val": [4, 4]}
    assert counts["by_label"] == {"cat": [8, 10], "dog": [9, 10]}
    assert counts["reasons"] == {"empty file": 1, "KeyError": 1, "silent": 1}
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"] for row in rows] == [f"c{i:03d}" for i in range(20)]
    assert rows[3]["reason"] == "empty file: x.wav has 0 bytes" and rows[3]["kept"] == "0"
    assert rows[4]["reason"] == "KeyError: 'surprise'" and rows[6]["rms_db"] == "-200.0"
    assert rows[0]["reason"] == "" and float(rows[0]["start_s"]) >= 10
    table = open_clips(tmp_path)
    assert len(table) == 17 and "c004" not in table.clip_ids
    assert set(table.licences) == {"CC0"}


def test_files_that_were_left_out_and_classes_without_validation_are_told(tmp_path, fake, capsys):
    def media(clip, settings):
        number = int(clip.details["number"])
        if number in (5, 15):  # the validation clips of one class
            raise BadMedia(f"truncated file: {number}.wav")
        found = media_of(clip)
        bad = ("unreadable file: a.png (OSError: cut off)",) if number in (2, 3) else ()
        return RawMedia(sound=found.sound, sample_rate=RATE, frames=found.frames, left_out=bad)

    fake.media = media
    fake.plans = [*fake.plans, plan(20, label="cat")]
    counts = clips.build_clips(config(), None, tmp_path)
    assert counts["files_left_out"] == {"unreadable file: a.png (OSError: cut off)": 2}
    assert counts["by_label_and_split"] == {
        "cat, train": [8, 8], "cat, val": [3, 3], "dog, train": [8, 8], "dog, val": [0, 2],
    }  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert "unreadable file: a.png (OSError: cut off); 2 clips have another one" in said
    assert "class 'dog' has no validation clip, of 2 planned" in said and "'cat' has" not in said
    with (tmp_path / "manifest.csv").open(newline="") as file:
        told = {row["clip_id"]: row["left_out"] for row in csv.DictReader(file)}
    assert [name for name, text in told.items() if "a.png" in text] == ["c002", "c003"]


def test_the_window_start_is_counted_from_the_start_of_the_recording(tmp_path, fake):
    def late(clip, settings):
        sound = np.zeros(RATE, np.float32)
        sound[RATE // 2 : RATE // 2 + 6000] = sine(0.25)
        return raw(sound)

    fake.media = late
    clips.build_clips(config(), None, tmp_path)
    starts = pq.read_table(tmp_path / "clips-00000.parquet", columns=["start_s"]).to_pydict()
    assert np.allclose(starts["start_s"], 10.5, atol=1e-3)


def test_builds_are_the_same_bytes_and_resume_makes_them_too(tmp_path, fake):
    clips.build_clips(config(), None, tmp_path / "a")
    clips.build_clips(config(), None, tmp_path / "b")
    first = shards(tmp_path / "a")
    assert len(first) == 3 and first == shards(tmp_path / "b")
    manifest = (tmp_path / "a" / "manifest.csv").read_bytes()
    (tmp_path / "a" / "clips-00001.parquet").unlink()
    (tmp_path / "a" / "manifest.csv").unlink()
    fake.loaded.clear()
    counts = clips.build_clips(config(), None, tmp_path / "a")
    assert fake.loaded == [f"c{i:03d}" for i in range(8, 16)] and counts["clips"] == 20
    assert shards(tmp_path / "a") == first
    assert (tmp_path / "a" / "manifest.csv").read_bytes() == manifest


def test_a_table_of_other_settings_is_not_gone_on_with(tmp_path, fake):
    clips.build_clips(config(), None, tmp_path)
    with pytest.raises(UserError, match="other settings or data .*--overwrite"):
        clips.build_clips(config(picture_size=32), None, tmp_path)
    with pytest.raises(UserError, match="other settings or data"):
        clips.build_clips(config(), None, tmp_path, {"files": 3, "digest": "0"})
    fake.plans = fake.plans[:19]
    with pytest.raises(UserError, match="other settings or data"):
        clips.build_clips(config(), None, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clip_id": "c001"}, "clip ids are given more than once .*'c001'"),
        ({"video_id": "v0"}, "recording 'v0' is in two splits, val and train"),
        ({"clip_id": "a/b"}, "letters, digits"),
    ],
)
def test_a_plan_that_breaks_a_promise_is_refused_before_any_work(tmp_path, fake, changes, said):
    fake.plans[7] = plan(7, **changes)
    with pytest.raises(UserError, match=said):
        clips.build_clips(config(), None, tmp_path / "out")
    assert not fake.loaded and not (tmp_path / "out").exists()
    fake.plans = []
    with pytest.raises(UserError, match="gives no clip"):
        clips.build_clips(config(), None, tmp_path / "out")


def test_an_empty_split_is_an_error_with_the_reasons(tmp_path, fake):
    def media(clip, settings):
        if clip.split == "val":
            raise BadMedia(f"truncated file: {clip.clip_id}.wav")
        return media_of(clip)

    fake.media = media
    with pytest.raises(UserError, match="too few clips for val.*4 x truncated file"):
        clips.build_clips(config(), None, tmp_path / "a")
    assert "truncated file: c005.wav" in (tmp_path / "a" / "manifest.csv").read_text()
    fake.plans = [p for p in fake.plans if p.split == "train"]
    with pytest.raises(UserError, match="too few clips for val.*the source plans no clip there"):
        clips.build_clips(config(), None, tmp_path / "b")


def test_wrong_settings_are_not_taken_for_a_bad_clip(tmp_path, fake):
    def refuse(clip, settings):
        raise UserError("a setting is wrong")

    fake.media = refuse
    with pytest.raises(UserError, match="a setting is wrong"):
        clips.build_clips(config(), None, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, fake):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write clips to .*file"):
        clips.build_clips(config(), None, tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_named(tmp_path, fake):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write clips to .*closed"):
        clips.build_clips(config(), None, tmp_path / "closed")


def test_a_full_disk_is_named_and_leaves_whole_shards(tmp_path, fake, monkeypatch):
    whole = clip_table.pq.write_table

    def full(table, path, **options):
        if "00001" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(table, path, **options)

    monkeypatch.setattr(clip_table.pq, "write_table", full)
    with pytest.raises(UserError, match="No space left on device.*kB free a clip"):
        clips.build_clips(config(), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clips-00000.parquet"]
    monkeypatch.setattr(clip_table.pq, "write_table", whole)
    clips.build_clips(config(), None, tmp_path)
    assert len(open_clips(tmp_path)) == 20


# -- a pool of processes -----------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from nano4m import clips
from nano4m.config import Bpe, ClipsConfig, Config, EvaluateConfig, FolderSource, MelVQ
if __name__ == "__main__":
    clips.SHARD_CLIPS = 16
    data, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = Config(
        source=FolderSource(), clips=ClipsConfig(workers=workers),
        tokenizers={"sound": MelVQ(), "caption": Bpe()}, evaluate=EvaluateConfig(split="val"),
    )
    clips.build_clips(config, data, out)
"""


def start(tmp_path: Path, out: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, "build.py", "data", out, str(workers)]
    source = str(Path(clips.__file__).parents[1])
    return subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": source}, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_whole_shards_and_goes_on(tmp_path, how):
    rng = np.random.default_rng(0)
    for i in range(96):
        sound = rng.uniform(-0.5, 0.5, 44100 * 2)
        for name in ("audio/cat", "images/cat"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"data/audio/cat/{i}.wav", sound, 44100)
    for i in range(8):
        picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"data/images/cat/{i}.png")
    out = tmp_path / "out"
    (tmp_path / "build.py").write_text(SCRIPT)  # once: a process that starts must not find it cut
    build = start(tmp_path, "out", 2)
    assert wait_for(lambda: len(shards(out)) >= 1, 60), build.stderr.read().decode()
    # Ctrl-C reaches every process of the terminal; a kill only the one that it is meant for.
    os.killpg(build.pid, how) if how == signal.SIGINT else os.kill(build.pid, how)
    build.wait(timeout=20)
    assert wait_for(lambda: not alive(build.pid), 20), "a worker outlives its build"
    stopped = shards(out)
    assert 1 <= len(stopped) < 6, "the build was not stopped in its middle"
    for path in sorted(out.glob("clips-*.parquet")):
        assert pq.read_table(path).num_rows == 16
    with pytest.raises(UserError, match="are not finished"):
        open_clips(out)
    again, straight = start(tmp_path, "out", 0), start(tmp_path, "straight", 0)
    assert again.wait(timeout=60) == straight.wait(timeout=60) == 0
    assert shards(out) == shards(tmp_path / "straight")
    assert stopped.items() <= shards(out).items()
    assert not list(out.glob("*.partial"))
