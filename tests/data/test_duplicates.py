"""One recording under two names: planted twins are told, distinct clips are left alone."""

import csv
import dataclasses
import io
import itertools
from contextlib import suppress

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import RATE, config, fake, plan, shards  # noqa: F401

from nano4m.config.datasets import FarmDataset
from nano4m.data import build as clips
from nano4m.data import duplicates
from nano4m.data.clip_table import open_clips
from nano4m.data.duplicate_rules import ClipFacts, choose_excluded
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


def facts(splits: list[str], groups: list[str] | None = None, **more) -> ClipFacts:
    """Return clips of one class, each of a group of its own unless ``groups`` says otherwise."""
    n = len(splits)
    usual = {
        "labels": ["cat"] * n,
        "groups": groups or [f"g{i}" for i in range(n)],
        "kept": [True] * n,
        "fixed": [False] * n,
        "draws": [False] * n,
    }
    return ClipFacts(splits=splits, **(usual | more))


def test_few_clips_give_way_and_the_train_split_first():
    clips = facts(["train", "train", "train", "val", "test"])
    assert choose_excluded([(0, 3, "sound")], clips) == {0: (0, 3, "sound")}
    star = [(0, 3, "picture"), (1, 3, "picture"), (2, 3, "picture")]
    assert list(choose_excluded(star, clips)) == [3]
    assert list(choose_excluded([(3, 4, "sound")], clips)) == [3]
    rng = np.random.default_rng(0)
    many = [(int(a), int(b), "sound") for a, b in rng.integers(0, 5, (30, 2)) if a != b]
    gone = choose_excluded(many, clips)
    assert all(a in gone or b in gone for a, b, _ in many)


def test_of_given_splits_the_last_counts_however_many_that_costs():
    splits = ["train", "train", "train", "val", "test"]
    star = [(0, 3, "picture"), (1, 3, "picture"), (2, 3, "picture"), (3, 4, "sound")]
    gone = choose_excluded(star, facts(splits, fixed=[True] * 5))
    assert gone.keys() == {0, 1, 2, 3}
    # A split that is dealt from what is given as train gives way to a given test split.
    gone = choose_excluded([(0, 4, "sound")], facts(splits, fixed=[False] * 4 + [True]))
    assert gone.keys() == {0}


def test_a_sound_found_twice_takes_its_whole_group_and_a_picture_one_clip():
    clips = facts(["train"] * 4 + ["val"] * 2, ["a", "a", "b", "c", "d", "e"])
    gone = choose_excluded([(0, 4, "sound")], clips)
    assert list(gone) == [4]  # one clip of val is less than two of train
    gone = choose_excluded([(0, 4, "sound"), (1, 4, "sound"), (1, 5, "sound")], clips)
    assert set(gone) in ({0, 1}, {4, 5})
    assert list(choose_excluded([(0, 4, "picture")], clips)) == [0]
    clips = facts(["train"] * 4 + ["val"] * 2, ["a", "a", "b", "c", "d", "d"])
    assert set(choose_excluded([(0, 4, "sound")], clips)) == {0, 1}


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


SMALL = {"window_seconds": 1.0, "window": "start"}


def test_a_recording_under_two_names_moves_and_is_counted_and_told(tmp_path, twins, capsys):
    counts = clips.build_clips(config(**SMALL), None, tmp_path)
    assert counts["reasons"] == {} and counts["kept"] == 20
    assert counts["moved"] == {"from val to train": 1}
    assert counts["by_split"] == {"train": [17, 17], "val": [3, 3]}
    said = capsys.readouterr().err.replace("\n", " ")
    assert "1 moved with their recordings, as they are found in two splits: 1 from val to" in said
    assert "first c015: the sound of c003 is that of c015" in said
    table = open_clips(tmp_path)
    splits = dict(zip(table.clip_ids.tolist(), table.splits.tolist(), strict=True))
    assert splits["c003"] == splits["c015"] == "train" and len(table) == 20
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = {row["clip_id"]: row for row in csv.DictReader(file)}
    assert rows["c015"]["moved"] == "from val to train: the sound of c003 is that of c015"
    assert {row["moved"] for clip, row in rows.items() if clip != "c015"} == {""}


def test_a_picture_of_another_split_moves_its_clip_or_costs_it_where_it_was_drawn(tmp_path, twins):
    twins.pictures[10] = twins.pictures[6]
    counts = clips.build_clips(config(**SMALL), None, tmp_path / "own")
    assert counts["kept"] == 20 and counts["moved"] == {"from val to train": 2}
    assert counts["by_split"]["val"] == [2, 2]
    twins.plans = [plan(i, draws_pictures=i == 6) for i in range(20)]
    counts = clips.build_clips(config(**SMALL), None, tmp_path / "drawn")
    assert counts["moved"] == {"from val to train": 1} and counts["reasons"] == {"duplicate": 1}
    assert "c006" not in open_clips(tmp_path / "drawn").clip_ids


def test_given_splits_stay_and_what_is_in_the_last_one_is_left_out_of_the_others(tmp_path, twins):
    twins.plans = [plan(i, is_split_given=True) for i in range(20)]
    counts = clips.build_clips(config(**SMALL), None, tmp_path)
    assert counts["reasons"] == {"duplicate": 1} and counts["moved"] == {}
    table = open_clips(tmp_path)
    assert "c003" not in table.clip_ids and "c015" in table.clip_ids
    assert "c003: the sound" not in (tmp_path / "manifest.csv").read_text()
    assert "duplicate: the sound is that of c015 of val" in (tmp_path / "manifest.csv").read_text()


def test_a_group_moves_as_a_whole_with_the_clips_that_are_not_kept(tmp_path, twins):
    """Clips 15 and 10 of val are of one recording; 10 is silent."""
    twins.plans = [plan(i, video_id="film" if i in (10, 15) else f"v{i}") for i in range(20)]
    media = twins.media

    def with_silence(clip, settings):
        found = media(clip, settings)
        return (
            dataclasses.replace(found, sound=0 * found.sound)
            if clip.details["number"] == 10
            else found
        )

    twins.media = with_silence
    clips.build_clips(config(**SMALL), None, tmp_path)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = {row["clip_id"]: row for row in csv.DictReader(file)}
    assert {rows[c]["split"] for c in ("c010", "c015", "c003")} == {"train"}
    assert rows["c010"]["reason"].startswith("silent") and rows["c010"]["moved"]


def test_duplicates_are_not_looked_for_where_clips_are_distinct_by_construction(
    tmp_path, twins, monkeypatch
):
    assert SOURCES["farm"].is_distinct and not SOURCES["folder"].is_distinct
    asked = config(**SMALL)
    found = clips.build_clips(asked, None, tmp_path / "folder")
    assert found["duplicates"] == "looked for: 1 moved, 0 excluded"

    def never(*args):
        raise AssertionError("duplicates are looked for")

    monkeypatch.setattr(duplicates, "settle_duplicates", never)
    distinct = asked.model_copy(update={"dataset": FARM})
    counts = clips.build_clips(distinct, None, tmp_path / "farm")
    assert counts["duplicates"].startswith("not looked for: no two clips of the source farm")
    assert counts["kept"] == 20
    with pytest.raises(AssertionError, match="looked for"):
        clips.build_clips(asked, None, tmp_path / "again")


def test_twins_of_one_split_stay(tmp_path, twins):
    twins.plans = [plan(i, split="val" if i in (3, 15) else "train") for i in range(20)]
    counts = clips.build_clips(config(window_seconds=1.0), None, tmp_path)
    assert counts["kept"] == 20 and counts["moved"] == {}


@pytest.mark.parametrize("is_given", [False, True])
def test_a_build_that_is_resumed_or_stopped_while_clips_move_makes_the_same_bytes(
    tmp_path, twins, monkeypatch, is_given
):
    # Clip 5 of val is clip 2: another shard.
    twins.pictures[5] = twins.pictures[2]
    twins.plans = [plan(i, is_split_given=is_given) for i in range(20)]
    asked = config(**SMALL)
    counts = clips.build_clips(asked, None, tmp_path / "a")
    before = shards(tmp_path / "a")
    assert clips.build_clips(asked, None, tmp_path / "a") == counts
    assert shards(tmp_path / "a") == before
    for number in range(3):
        (tmp_path / "a" / f"clips-0000{number}.parquet").unlink()
        assert clips.build_clips(asked, None, tmp_path / "a") == counts
        assert shards(tmp_path / "a") == before
    written = duplicates.write_batches
    for stop in range(3):
        out, calls = tmp_path / f"stop{stop}", []

        def stopped(*args, calls=calls, stop=stop, **more):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(1)
            return written(*args, **more)

        monkeypatch.setattr(duplicates, "write_batches", stopped)
        with suppress(KeyboardInterrupt):
            clips.build_clips(asked, None, out)
        monkeypatch.setattr(duplicates, "write_batches", written)
        assert clips.build_clips(asked, None, out) == counts
        assert shards(out) == before
