"""The token table: round trip, views, and everything that contradicts itself is refused."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nano4m.errors import UserError
from nano4m.tokens.table import TokenSpec, TokenTable, open_table, write_table
from nano4m.tokens.table_shards import Sharded, strings


def test_round_trip_is_exact(table, tmp_path):
    write_table(table, tmp_path)
    read = open_table(tmp_path)
    assert read.token_spec.fingerprint == table.token_spec.fingerprint
    for name, ids in table.ids.items():
        np.testing.assert_array_equal(read.ids[name], ids)
        assert read.ids[name].dtype == np.uint16
    np.testing.assert_array_equal(read.lengths["caption"], table.lengths["caption"])
    np.testing.assert_array_equal(read.codebooks["rgb"], table.codebooks["rgb"])
    for name in ("clip_ids", "labels", "splits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(table, name))


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_several_shards_are_one_table(table, tmp_path):
    write_table(table, tmp_path, shard_rows=7)
    assert len(list(tmp_path.glob("tokens*.arrow"))) == len(list(tmp_path.glob("*.parquet"))) == 7
    read = open_table(tmp_path)
    rng = np.random.default_rng(0)
    for name, ids in table.ids.items():
        several = read.ids[name]
        assert isinstance(several, Sharded) and not isinstance(several, np.ndarray)
        assert (several.shape, several.size, several.ndim) == (ids.shape, ids.size, 3)
        assert several.dtype == np.uint16 and len(several) == 48 and several.max() == ids.max()
        np.testing.assert_array_equal(several, ids)
        rows = rng.integers(-48, 48, 25)
        views = rng.integers(0, ids.shape[1], 25)
        for key in (3, -1, rows, rows.tolist(), slice(5, 30, 4), rows[:0], rows > 0, (rows, views)):
            if isinstance(key, np.ndarray) and key.dtype == bool:
                key = np.resize(key, 48)
            np.testing.assert_array_equal(several[key], ids[key])
        for key in ((rows, 0), (9, 0), (rows, views, 1), (slice(None), 0, slice(1, 3))):
            np.testing.assert_array_equal(several[key], ids[key])
        with pytest.raises(IndexError):
            several[[0, 48]]
    for name in ("clip_ids", "labels", "splits"):
        np.testing.assert_array_equal(getattr(read, name), getattr(table, name))
    rows = rng.permutation(48)
    views = table.draw_views(table.variants(rows), np.random.default_rng(1))
    for got, expected in zip(read.gather(rows, views), table.gather(rows, views), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert sum(pq.read_table(p).num_rows for p in tmp_path.glob("*.parquet")) == 48
    write_table(table, tmp_path)
    expected = ["codes.safetensors", "tokens.arrow", "tokens.json", "tokens.parquet"]
    assert files(tmp_path) == expected, "shards of the table of before are still there"


def test_a_table_of_before_opens_and_all_its_ids_are_looked_at(table, tmp_path):
    write_table(table, tmp_path)
    (tmp_path / "tokens.json").unlink()
    np.testing.assert_array_equal(open_table(tmp_path).ids["sound"], table.ids["sound"])
    arrow = pa.ipc.open_file(tmp_path / "tokens.arrow").read_all()
    place = arrow.schema.get_field_index("rgb")
    wrong = table.ids["rgb"].reshape(-1).copy()
    wrong[0] = 11
    column = pa.FixedSizeListArray.from_arrays(pa.array(wrong), len(wrong) // 48)
    arrow = arrow.set_column(place, "rgb", column)
    with pa.ipc.new_file(tmp_path / "tokens.arrow", arrow.schema) as writer:
        writer.write_table(arrow)
    with pytest.raises(UserError, match="rgb of clip 'clip000' has id 11"):
        open_table(tmp_path)


def test_shards_that_do_not_belong_together_are_refused(table, tmp_path):
    write_table(table, tmp_path, shard_rows=25)
    (tmp_path / "tokens-00001.arrow").rename(tmp_path / "away")
    with pytest.raises(UserError, match="no token table at .*tokens-00001.arrow.*nano4m table"):
        open_table(tmp_path)
    (tmp_path / "tokens-00001.arrow").write_bytes((tmp_path / "tokens.arrow").read_bytes())
    with pytest.raises(UserError, match="has 25 clips, its index says 23"):
        open_table(tmp_path)
    (tmp_path / "away").rename(tmp_path / "tokens-00001.arrow")
    index = json.loads((tmp_path / "tokens.json").read_text())
    assert index["highest"]["rgb"] == table.ids["rgb"].max() and index["rows"] == 48
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(UserError, match="tokens.json is damaged.*--overwrite"):
        open_table(tmp_path)


@pytest.mark.parametrize("count", [0, 3, 5000])
@pytest.mark.parametrize("words", ["cat", "a clip {i} of its own", "\u00e9t\u00e9 {i}", ""])
def test_strings_of_a_column(count, words):
    expected = [words.format(i=i) for i in range(count)]
    parts = (expected[: count // 2], expected[count // 2 :])
    halves = [pa.array(part, pa.string()) for part in parts]
    found = strings(pa.chunked_array(halves, pa.string()))
    assert found.dtype.kind == "U" and found.tolist() == expected


def test_parquet_is_one_row_a_clip_with_fixed_size_uint16_lists(table, tmp_path):
    write_table(table, tmp_path)
    parquet = pq.read_table(tmp_path / "tokens.parquet")
    assert parquet.num_rows == len(table.clip_ids)
    assert str(parquet.schema.field("sound").type).startswith("fixed_size_list<")
    assert "uint16" in str(parquet.schema.field("sound").type)
    assert parquet["sound"][3].as_py() == table.ids["sound"][3].reshape(-1).tolist()


def test_gather_marks_only_what_is_behind_the_end_of_a_text(table):
    rows = np.array([0, 1, 2, 3])
    ids, valid = table.gather(rows, None)
    assert ids.shape == valid.shape == (4, 4 + 4 + 6 + 8 + 6)
    assert valid[:, :22].all()
    assert valid[:, 22:].sum(1).tolist() == table.lengths["caption"][rows, 0].tolist()


def test_pictures_depth_and_normals_take_the_same_frame(table):
    ids = {
        m.name: np.broadcast_to(
            np.arange(table.ids[m.name].shape[1])[None, :, None], table.ids[m.name].shape
        ).astype(np.uint16)
        for m in table.modalities
        if not m.is_text
    }
    ids["caption"] = table.ids["caption"]
    marked = dataclasses.replace(table, ids=ids)
    rows = np.arange(40)
    got, _ = marked.gather(rows, marked.draw_views(marked.variants(rows), np.random.default_rng(0)))
    rgb, depth, normals, sound = got[:, 0], got[:, 4], got[:, 8], got[:, 14]
    assert (rgb == depth).all() and (rgb == normals).all()
    assert set(rgb.tolist()) == {0, 1, 2}
    assert set(sound.tolist()) == {0, 1} and (sound != rgb).any()


def _broken(table: TokenTable, name: str, clip: int, value: int) -> dict[str, np.ndarray]:
    ids = {n: a.copy() for n, a in table.ids.items()}
    ids[name][clip, 0, 0] = value
    return ids


def test_id_out_of_range_names_the_clip(table):
    with pytest.raises(
        UserError, match=r"rgb of clip 'clip007' has id 11, its vocabulary ends at 10"
    ):
        dataclasses.replace(table, ids=_broken(table, "rgb", 7, 11))


def test_caption_without_end_is_refused(table):
    ids = {n: a.copy() for n, a in table.ids.items()}
    ids["caption"][5, 0, int(table.lengths["caption"][5, 0]) - 1] = 3
    with pytest.raises(UserError, match="clip005.*end token"):
        dataclasses.replace(table, ids=ids)


def test_missing_and_truncated_tables_say_what_to_run(table, tmp_path):
    with pytest.raises(UserError, match="nano4m table"):
        open_table(tmp_path)
    write_table(table, tmp_path)
    whole = (tmp_path / "tokens.arrow").read_bytes()
    (tmp_path / "tokens.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="Not an Arrow file.*--overwrite"):
        open_table(tmp_path)
    (tmp_path / "tokens.arrow").write_bytes(whole)
    (tmp_path / "codes.safetensors").unlink()
    with pytest.raises(UserError, match="codes.safetensors is .* missing.*nano4m table"):
        open_table(tmp_path)


def test_vocabularies_that_differ_are_refused_with_both_fingerprints(table):
    mine = table.token_spec
    other = TokenSpec(mine.modalities, {**mine.tokenizers, "sound": "retrained"})
    assert TokenSpec.from_json(mine.to_json()).fingerprint == mine.fingerprint
    mine.require_same(TokenSpec.from_json(mine.to_json()), "a", "b")
    with pytest.raises(UserError) as caught:
        mine.require_same(other, "the checkpoint", "the token table")
    for part in (mine.fingerprint, other.fingerprint, "sound: print-sound / retrained", "--out"):
        assert part in str(caught.value)


def _without(table: TokenTable, **gone: list[int]) -> TokenTable:
    """Return the table without some modalities of some clips."""
    lengths = {name: own.copy() for name, own in table.lengths.items()}
    ids = {name: own.copy() for name, own in table.ids.items()}
    for name, rows in gone.items():
        lengths[name][rows], ids[name][rows] = 0, 0
    return dataclasses.replace(table, ids=ids, lengths=lengths)


@pytest.mark.parametrize("shard_rows", [None, 7])
def test_what_clips_lack_is_stored_and_comes_back(table, tmp_path, shard_rows):
    gaps = _without(table, depth=[3, 40], caption=[5])
    write_table(gaps, tmp_path, shard_rows)
    read = open_table(tmp_path)
    for name, lengths in gaps.lengths.items():
        np.testing.assert_array_equal(read.lengths[name], lengths)
    assert np.flatnonzero(~read.present("depth")).tolist() == [3, 40]
    assert read.present("rgb").all() and not read.present("caption")[5]
    ids, valid = read.gather(np.array([2, 3, 5]))
    assert valid[:, 4:8].all(1).tolist() == [True, False, True]
    assert valid[:, 22:].any(1).tolist() == [True, True, False]
    assert not ids[~valid].any()
    assert read.counts(np.array([3, 5])).tolist() == [
        [4, 0, 6, 8, int(table.lengths["caption"][3, 0])],
        [4, 4, 6, 8, 0],
    ]
    columns = set(pq.read_schema(tmp_path / "tokens.parquet").names)
    assert {"depth_length", "caption_length"} <= columns, "the exchange form says it too"
    assert not {"rgb_length", "sound_length"} & columns, "what all clips have needs no column"


def test_in_a_table_of_before_all_clips_have_all(table, tmp_path):
    """It has a column of lengths for texts alone."""
    write_table(table, tmp_path)
    names = pq.read_schema(tmp_path / "tokens.parquet").names
    assert [name for name in names if name.endswith("_length")] == ["caption_length"]
    read = open_table(tmp_path)
    for modality in read.modalities:
        assert read.present(modality.name).all()
        assert modality.is_text or (read.lengths[modality.name] == modality.length).all()


def test_lengths_that_cannot_be_are_refused(table):
    lengths = {n: a.copy() for n, a in table.lengths.items()}
    lengths["sound"][7, 1] = 3
    with pytest.raises(
        UserError, match=r"sound of clip 'clip007' has length \[8, 3\] and must have 8"
    ):
        dataclasses.replace(table, lengths=lengths)
    with pytest.raises(UserError, match="clip 'clip009' has no token of any modality"):
        _without(table, **{m.name: [9, 11] for m in table.modalities})
    lengths = {"rgb": np.zeros((48, 1), np.int64)}
    with pytest.raises(UserError, match=r"lengths of rgb have shape \(48, 1\), expected \(48, 3\)"):
        dataclasses.replace(table, lengths=dict(table.lengths) | lengths)


def test_views_whose_lengths_differ_are_separate_samples(table):
    """Two captions of unequal length: both come up, and pictures stay free."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, (48, 2))
    ids = np.ones((48, 2, 6), np.uint16)
    ids[np.arange(6) >= lengths[..., None] - 1] = 0
    two = dataclasses.replace(
        table,
        ids=dict(table.ids) | {"caption": ids},
        lengths=dict(table.lengths) | {"caption": lengths},
    )
    rows, views = two.variants(np.arange(48))
    assert sorted(zip(rows.tolist(), views[:, 4].tolist(), strict=True)) == [
        (row, view) for row in range(48) for view in (0, 1)
    ]
    assert (views[:, :4] == -1).all()
    np.testing.assert_array_equal(two.counts(rows, views)[:, 4], lengths[rows, views[:, 4]])
    assert (table.variants(np.arange(48)).views == -1).all()
