"""The clips table: media come back as they went in; damage and mixtures are named."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_build import RATE, config, fake, plan, sine  # noqa: F401
from test_cut import pattern

from nano4m.data import build as clips
from nano4m.data import clip_shards, cut
from nano4m.data.clip_shards import to_batch, write_batches, write_shard
from nano4m.data.clip_table import open_clips
from nano4m.data.sources.base import RawMedia
from nano4m.errors import UserError


def table_of(tmp_path: Path, count: int = 6, frames: int = 2, size: int = 24):
    """A table written by hand, with the media that went in."""
    media = [pattern(size, size) for _ in range(count)]
    rows = []
    for i, one in enumerate(media):
        one = RawMedia(
            sound=sine(0.25, hertz=200 + 50 * i), sample_rate=RATE, frames=one.frames * frames,
            planes={name: own * frames for name, own in one.planes.items()},
        )  # fmt: skip
        columns = cut.cut(one, config(picture_size=size, frames=frames).clips)
        columns.pop("offset_s")
        about = {k: getattr(plan(i), k) for k in (*clip_shards.TEXTS, "start_s")}
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
    assert (depth[0, 0, 0] - torch.from_numpy(1 / source.planes["depth"][0])).abs().max() < 1e-4
    assert (
        normals[0, 0] - torch.from_numpy(source.planes["normals"][0]).movedim(-1, 0)
    ).abs().max() < 0.02
    assert torch.allclose(normals.norm(dim=2), torch.ones(4, 2, 24, 24), atol=1e-5)
    assert table.media("caption", rows) == ["a caption 5", "a caption 0", *["a caption 4"] * 2]
    assert table.captions == [(f"a caption {i}",) for i in (0, 1, 3, 4, 5)]
    assert table.video_ids.tolist() == [f"v{i}" for i in (0, 1, 3, 4, 5)]
    sound = table.media("sound", rows)
    assert sound.shape == (4, 6000) and sound.dtype == torch.float32
    for row, number in zip(sound.numpy(), (5, 0, 4, 4), strict=True):
        assert np.allclose(row, sine(0.25, hertz=200 + 50 * number), atol=1e-4)
    for kind in ("picture", "depth", "normals"):
        assert torch.equal(table.media(kind, rows, frame=1), table.media(kind, rows)[:, 1])


def test_what_a_table_does_not_have_is_refused(tmp_path, fake):  # noqa: F811
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
    last = clip_shards.shard_path(tmp_path, 1)
    whole = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match="1 of 2 shards are missing .*nano4m clips PRESET"):
        open_clips(tmp_path)
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="clips-00001.parquet is damaged"):
        open_clips(tmp_path)


def test_shards_of_other_settings_do_not_mix(tmp_path):
    table_of(tmp_path)
    row = {k: "x" for k in clip_shards.TEXTS} | {"kept": False, "reason": "silent: x"}
    write_shard(tmp_path, 1, [row], sample_rate=RATE, num_shards=2, fingerprint="other")
    with pytest.raises(UserError, match="mixes shards"):
        open_clips(tmp_path)


def test_a_table_of_which_nothing_was_kept_is_refused(tmp_path):
    row = {k: "x" for k in clip_shards.TEXTS} | {"kept": False, "reason": "silent: x"}
    write_shard(tmp_path, 0, [row], sample_rate=RATE)
    with pytest.raises(UserError, match="no clip in .* was kept"):
        open_clips(tmp_path)


def test_how_a_shard_is_cut_into_batches_changes_no_byte(tmp_path):
    table_of(tmp_path / "a")
    rows = pq.read_table(clip_shards.shard_path(tmp_path / "a", 0)).to_pylist()
    assert len(rows) == 4 and rows[2]["kept"] is False
    written = [
        write_batches(tmp_path / name, 0, list(map(to_batch, parts)), sample_rate=RATE)
        for name, parts in {"b": [rows], "c": [rows[:1], rows[1:3], rows[3:]]}.items()
    ]
    again = write_shard(tmp_path / "d", 0, rows, sample_rate=RATE)
    assert again.read_bytes() == written[0].read_bytes() == written[1].read_bytes()
    del rows[3]["frames"][1]
    with pytest.raises(ValueError, match=r"kept rows have \[1, 2\] frames"):
        write_shard(tmp_path / "e", 0, rows, sample_rate=RATE)


def test_clips_of_many_row_groups_are_found_in_any_order(tmp_path):
    table_of(tmp_path / "a")
    [row, *_] = pq.read_table(clip_shards.shard_path(tmp_path / "a", 0)).to_pylist()
    for shard in range(2):
        names = [f"s{shard}r{i:03d}" for i in range(150)]
        rows = [row | {"clip_id": n, "caption": f"of {n}", "kept": n[-1] != "4"} for n in names]
        write_shard(tmp_path / "b", shard, rows, sample_rate=RATE, num_shards=2)
    assert pq.ParquetFile(clip_shards.shard_path(tmp_path / "b", 0)).num_row_groups == 3
    table = open_clips(tmp_path / "b")
    assert len(table) == 2 * 135
    rows = np.random.default_rng(0).permutation(len(table))
    assert table.media("caption", rows) == [f"of {table.clip_ids[i]}" for i in rows]
    assert table.captions == [(f"of {name}",) for name in table.clip_ids]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(table, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_shards.pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, 0, [], sample_rate=RATE)
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_sounds_alone_has_no_frames_and_gives_its_sounds(tmp_path):
    one = cut.cut(RawMedia(sound=sine(0.25), sample_rate=RATE, frames=()), config(require=()).clips)
    one.pop("offset_s")
    about = {k: getattr(plan(0), k) for k in (*clip_shards.TEXTS, "start_s")}
    rows = [about | one | {"kept": True, "reason": None}]
    clip_shards.write_shard(tmp_path, 0, rows, sample_rate=RATE)
    table = open_clips(tmp_path)
    sounds = table.media("sound", [0], frame=0)
    assert table.num_frames == 0 and torch.equal(sounds, table.media("sound", [0]))
