"""One recording under two names: planted twins are told, distinct clips are left alone."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import RATE, config, fake, plan, shards  # noqa: F401

from nano4m.config.datasets import FarmDataset
from nano4m.data import build as clips
from nano4m.data.clip_table import open_clips
from nano4m.data.duplicates import exclude_duplicates, resolve_duplicates
from nano4m.data.fingerprints import (
    agreement,
    audio_fingerprint,
    correlation,
    image_fingerprint,
    same_pictures,
    same_sounds,
)
from nano4m.data.sources import SOURCES, farm
from nano4m.data.sources.base import RawMedia
from nano4m.data.waveform import resample

FARM = FarmDataset(train=160, val=40, test=40, picture_size=32)
FALSE_ALARMS = 1e-4
"""Share of pairs of distinct clips that may be taken for one recording."""


def farm_sounds() -> list[np.ndarray]:
    plans = farm.plan(FARM, None, 7)
    return [resample(farm.voice(p, FARM.seconds), 24000, RATE) for p in plans]


def copy_of(sound: np.ndarray, seconds: float = 0.05, decibels: float = -6.0) -> np.ndarray:
    """Return the same recording, later and quieter, as 16-bit numbers hold it."""
    shift = round(seconds * RATE)
    moved = np.zeros_like(sound)
    moved[shift:] = sound[: len(sound) - shift] * 10 ** (decibels / 20)
    return np.round(moved * 32768).astype(np.float32) / 32768


def pairs_of(sounds: list[np.ndarray], first: list[int], second: list[int]) -> list:
    prints = [audio_fingerprint(sound, RATE) for sound in sounds]
    return same_sounds(prints, first, second, lambda numbers: {i: sounds[i] for i in numbers})


# -- prints ------------------------------------------------------------------------------------


def test_a_shifted_quieter_copy_is_found_and_distinct_farm_voices_are_not():
    sounds = farm_sounds()
    first, second = list(range(160)), list(range(160, 240))
    assert len(pairs_of(sounds, first, second)) <= FALSE_ALARMS * len(first) * len(second)
    rng = np.random.default_rng(0)
    planted = []
    for number, twin in enumerate(rng.permutation(160)[:40].tolist()):
        sounds[160 + number] = copy_of(sounds[twin], rng.uniform(0.04, 0.06))
        planted.append((twin, 160 + number))
    assert sorted(pairs_of(sounds, first, second)) == sorted(planted)


def test_distinct_spoken_digits_are_no_twins(shared_data):
    files = sorted((shared_data / "spoken_digits" / "recordings").glob("*.wav"))
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:500]]
    sounds = []
    for path in chosen:
        sound, rate = soundfile.read(path, dtype="float32")
        window = np.zeros(round(0.85 * RATE), np.float32)
        heard = resample(sound, rate, RATE)[: len(window)]
        window[: len(heard)] = heard
        sounds.append(window)
    first, second = list(range(350)), list(range(350, 500))
    assert len(pairs_of(sounds, first, second)) <= FALSE_ALARMS * len(first) * len(second)
    sounds[400] = copy_of(sounds[17])
    assert (17, 400) in pairs_of(sounds, first, second)


def test_agreement_is_that_of_a_plain_loop():
    rng = np.random.default_rng(2)
    prints = rng.integers(-1, 2, size=(5, 20, 16)).astype(np.int8)
    prints[:, :, :] *= rng.integers(0, 2, size=(5, 20, 1)).astype(np.int8)
    prints[(prints == 0) & (np.abs(prints).max(2, keepdims=True) > 0)] = 1
    found = agreement(prints[:3], prints[3:])
    for i, j in itertools.product(range(3), range(2)):
        best = -1.0
        for shift in range(-13, 14):
            rows = [(t, t - shift) for t in range(20) if 0 <= t - shift < 20]
            both = [(t, u) for t, u in rows if prints[i, t, 0] and prints[3 + j, u, 0]]
            if len(both) * 16 >= 96:
                alike = sum(int(prints[i, t].astype(int) @ prints[3 + j, u]) for t, u in both)
                best = max(best, alike / len(both) / 16)
        assert found[i, j] == pytest.approx(best)


def test_correlation_of_cuts_of_one_and_of_two_recordings():
    rng = np.random.default_rng(0)
    sound = rng.normal(size=12000)
    assert correlation(sound[:8000], -0.3 * sound[1000:9000]) == pytest.approx(1)
    assert correlation(sound[:4000], sound[3000:7000]) == 0  # a quarter is common
    assert correlation(sound[:4000], rng.normal(size=4000)) < 0.2
    assert correlation(np.zeros(100), sound[:100]) == 0


def test_what_says_nothing_has_no_print():
    assert audio_fingerprint(np.zeros(RATE, np.float32), RATE) == b""
    assert audio_fingerprint(np.ones(500, np.float32), RATE) == b""
    assert image_fingerprint(np.full((40, 40, 3), 90, np.uint8)) == b""
    assert same_sounds([b"", b""], [0], [1], dict.fromkeys) == []
    assert same_pictures([[b""], []], [0], [1]) == []


def test_a_picture_saved_again_is_found_and_distinct_ones_are_not():
    settings = FarmDataset(train=110, val=11, test=11, picture_size=64)
    plans = farm.plan(settings, None, 7)[:120]
    pictures = [farm.load(p, settings).frames[0] for p in plans]
    first, second = list(range(90)), list(range(90, 120))
    prints = [[image_fingerprint(picture)] for picture in pictures]
    assert same_pictures(prints, first, second) == []
    data = io.BytesIO()
    Image.fromarray(pictures[5]).resize((97, 97)).save(data, "JPEG", quality=80)
    prints[100] = [b"", image_fingerprint(np.asarray(Image.open(data)))]
    assert same_pictures(prints, first, second) == [(5, 100)]


# -- what gives way ----------------------------------------------------------------------------


def test_few_clips_give_way_and_the_train_split_first():
    splits = ["train", "train", "train", "val", "test"]
    assert resolve_duplicates([(0, 3, "sound")], splits) == {0: (0, 3, "sound")}
    star = [(0, 3, "picture"), (1, 3, "picture"), (2, 3, "picture")]
    assert list(resolve_duplicates(star, splits)) == [3]
    assert list(resolve_duplicates([(3, 4, "sound")], splits)) == [3]
    rng = np.random.default_rng(0)
    many = [(int(a), int(b), "sound") for a, b in rng.integers(0, 5, (30, 2)) if a != b]
    gone = resolve_duplicates(many, splits)
    assert all(a in gone or b in gone for a, b, _ in many)


# -- the stage ---------------------------------------------------------------------------------


@pytest.fixture
def twins(fake):  # noqa: F811
    """Twenty clips; clip 15 (val) is clip 3 (train) 50 ms later and 6 dB quieter."""
    rng = np.random.default_rng(1)
    sounds = {i: rng.normal(0, 0.1, 2 * RATE).astype(np.float32).clip(-0.9, 0.9) for i in range(20)}
    pictures = {i: rng.integers(0, 255, (24, 24, 3), np.uint8) for i in range(20)}
    sounds[15] = copy_of(sounds[3])

    def media(clip, settings):
        number = int(clip.details["number"])
        return RawMedia(sound=sounds[number], sample_rate=RATE, frames=(pictures[number],))

    fake.media, fake.pictures = media, pictures
    return fake


def test_a_recording_under_two_names_is_moved_out_counted_and_told(tmp_path, twins, capsys):
    asked = config(window_seconds=1.0, window="start")
    counts = clips.build_clips(asked, None, tmp_path)
    assert counts["reasons"] == {"duplicate": 1} and counts["kept"] == 19
    assert "c003: duplicate: the sound is that of c015 of val" in capsys.readouterr().err
    table = open_clips(tmp_path)
    assert "c003" not in table.clip_ids and "c015" in table.clip_ids and len(table) == 19
    assert "c003" in (tmp_path / "manifest.csv").read_text()
    assert table.media("sound", range(19)).shape == (19, RATE)


def test_a_picture_of_another_split_is_moved_out(tmp_path, twins):
    twins.pictures[10] = twins.pictures[6]
    counts = clips.build_clips(config(window_seconds=1.0, window="start"), None, tmp_path)
    assert counts["reasons"] == {"duplicate": 2}
    assert {"c003", "c006"}.isdisjoint(open_clips(tmp_path).clip_ids)


def test_duplicates_are_not_looked_for_where_clips_are_distinct_by_construction(
    tmp_path, twins, monkeypatch
):
    assert SOURCES["farm"].is_distinct and not SOURCES["folder"].is_distinct
    asked = config(window_seconds=1.0, window="start")
    found = clips.build_clips(asked, None, tmp_path / "folder")
    assert found["duplicates"] == "looked for: 1 excluded"

    def never(folder):
        raise AssertionError("duplicates are looked for")

    monkeypatch.setattr(clips, "exclude_duplicates", never)
    distinct = asked.model_copy(update={"dataset": FARM})
    counts = clips.build_clips(distinct, None, tmp_path / "farm")
    assert counts["duplicates"].startswith("not looked for: no two clips of the source farm")
    assert counts["kept"] == 20
    with pytest.raises(AssertionError, match="looked for"):
        clips.build_clips(asked, None, tmp_path / "again")


def test_twins_of_one_split_stay(tmp_path, twins):
    twins.plans = [plan(i, split="val" if i in (3, 15) else "train") for i in range(20)]
    assert clips.build_clips(config(window_seconds=1.0), None, tmp_path)["kept"] == 20


def test_moving_out_is_done_once_and_a_resumed_build_makes_the_same_bytes(tmp_path, twins):
    asked = config(window_seconds=1.0, window="start")
    clips.build_clips(asked, None, tmp_path / "a")
    before = shards(tmp_path / "a")
    assert list(exclude_duplicates(tmp_path / "a")) == ["c003"]
    clips.build_clips(asked, None, tmp_path / "a")
    assert shards(tmp_path / "a") == before
    clips.build_clips(asked, None, tmp_path / "b")
    (Path(tmp_path) / "b" / "clips-00001.parquet").unlink()
    clips.build_clips(asked, None, tmp_path / "b")
    assert shards(tmp_path / "b") == before


def test_a_sound_found_twice_takes_its_whole_group_and_a_picture_one_clip():
    splits = ["train"] * 4 + ["val"] * 2
    groups = ["a", "a", "b", "c", "d", "e"]
    gone = resolve_duplicates([(0, 4, "sound")], splits, groups)
    assert list(gone) == [4]  # one clip of val is less than two of train
    gone = resolve_duplicates([(0, 4, "sound"), (1, 4, "sound"), (1, 5, "sound")], splits, groups)
    assert set(gone) in ({0, 1}, {4, 5})
    assert list(resolve_duplicates([(0, 4, "picture")], splits, groups)) == [0]
    twos = resolve_duplicates([(0, 4, "sound")], splits, ["a", "a", "b", "c", "d", "d"])
    assert set(twos) == {0, 1}
