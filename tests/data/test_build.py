"""The clips stage: counts, planted faults, what is refused, shards that are made again."""

import csv
import errno
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FolderDataset
from nano4m.config.run import Config, EvaluateConfig
from nano4m.config.tokenizers import Bpe, MelVQ
from nano4m.data import build as clips
from nano4m.data import clip_shards
from nano4m.data.clip_table import open_clips
from nano4m.data.sources.base import ClipPlan, RawMedia
from nano4m.errors import BadMedia, UserError

RATE = 24000


def config(**settings) -> Config:
    asked = {"window_seconds": 0.25, "picture_size": 16, "workers": 0} | settings
    return Config(
        preset="animals",
        dataset=FolderDataset(),
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
    assert "kept 19 of 21; not kept: 2 truncated file; see" in said
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
    with pytest.raises(UserError, match="too few clips for val: the source plans"):
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


def test_no_permission_is_named(tmp_path, fake, monkeypatch):
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write anywhere

        def denied(table, path, **options):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(clip_shards.pq, "write_table", denied)
    with pytest.raises(UserError, match="cannot write clips to .*closed"):
        clips.build_clips(config(), None, tmp_path / "closed")


def test_a_full_disk_is_named_and_leaves_whole_shards(tmp_path, fake, monkeypatch):
    whole = clip_shards.pq.write_table

    def full(table, path, **options):
        if "00001" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        whole(table, path, **options)

    monkeypatch.setattr(clip_shards.pq, "write_table", full)
    with pytest.raises(UserError, match="No space left on device.*kB free a clip"):
        clips.build_clips(config(), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clips-00000.parquet"]
    monkeypatch.setattr(clip_shards.pq, "write_table", whole)
    clips.build_clips(config(), None, tmp_path)
    assert len(open_clips(tmp_path)) == 20


def test_pieces_of_all_shards_are_under_way_and_only_a_few_at_once(tmp_path, fake, monkeypatch):
    """Workers do not wait at the end of a shard, and results do not pile up in the parent."""
    under_way: list[int] = []
    most = [0]

    class Pool:
        def submit(self, make, piece):
            under_way.append(len(piece))
            most[0] = max(most[0], sum(under_way))

            def result():
                under_way.pop(0)
                return make(piece)

            return SimpleNamespace(result=result)

    @contextmanager
    def pool(workers):
        yield Pool()

    monkeypatch.setattr(clips, "worker_pool", pool)
    fake.plans = [plan(i) for i in range(100)]
    assert clips.build_clips(config(workers=2), None, tmp_path)["kept"] == 100
    assert not under_way and 8 < most[0] <= clips.AHEAD * 2 * 12
    assert len(shards(tmp_path)) == 13
