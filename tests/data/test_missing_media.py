"""Clips that lack media: what is kept, what the clips table says, and what is made of them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_build import RATE, config, plan, sine
from test_cut import pattern

from nano4m.config.tokenizers import Bpe, ImageVQ, MelVQ
from nano4m.data import clip_shards, cut
from nano4m.data.clip_counts import write_manifest
from nano4m.data.clip_table import names_it, open_clips
from nano4m.data.sources.base import RawMedia
from nano4m.errors import BadMedia, UserError
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.apply import build_table
from nano4m.tokenizers.fit import fit_tokenizers
from nano4m.tokens.table import open_table

LOOSE = {"require": (), "picture_size": 24}


def media_of(number: int, sound: bool = True, picture: bool = True, depth: bool = True) -> RawMedia:
    one = pattern(24, 24)
    planes = {"depth": one.planes["depth"]} if depth and picture else {}
    return RawMedia(
        sound=sine(0.25, hertz=200 + 40 * number) if sound else None,
        sample_rate=RATE,
        frames=one.frames if picture else (),
        planes=planes,
    )


LACKS = [{}, {"depth": False}, {"sound": False}, {"picture": False}]


def write_clips(folder: Path, count: int = 24) -> None:
    """Clip i lacks what LACKS[i % 4] says; a third is for validation."""
    rows = []
    for i in range(count):
        columns = cut.cut(media_of(i, **LACKS[i % 4]), config(**LOOSE).clips)
        columns.pop("offset_s")
        about = {k: getattr(plan(i), k) for k in (*clip_shards.TEXTS, "start_s")}
        split = "val" if i % 12 >= 8 else "train"
        rows.append(about | columns | {"split": split, "kept": True, "reason": None})
    for shard, part in enumerate((rows[: count // 2], rows[count // 2 :])):
        clip_shards.write_shard(folder, shard, part, sample_rate=RATE, num_shards=2)


def test_a_clip_without_required_media_is_not_kept_and_says_which():
    for lacking, said in (({"sound": False}, "no sound"), ({"picture": False}, "no picture")):
        with pytest.raises(BadMedia, match=said):
            cut.cut(media_of(0, **lacking), config().clips)
    with pytest.raises(BadMedia, match="no depth"):
        cut.cut(media_of(0, depth=False), config(require=("depth",)).clips)
    with pytest.raises(BadMedia, match="no sound and no picture"):
        cut.cut(media_of(0, sound=False, picture=False), config(**LOOSE).clips)
    with pytest.raises(UserError, match="did you mean 'sound'"):
        cut.cut(media_of(0), config(require=("sounds",)).clips)
    both = cut.cut(media_of(0), config(**LOOSE).clips)
    assert cut.cut(media_of(0), config(picture_size=24).clips) == both
    mute = cut.cut(media_of(0, sound=False), config(**LOOSE).clips)
    assert mute["frames"] == both["frames"] and "audio" not in mute and mute["offset_s"] == 0


def test_one_clip_without_depth_does_not_take_it_from_all(tmp_path):
    write_clips(tmp_path)
    table = open_clips(tmp_path)
    place = np.arange(24) % 4
    assert (table.present("depth") == ~np.isin(place, (1, 3))).all()
    assert (table.present("sound") == (place != 2)).all()
    assert (table.present("picture") == (place != 3)).all() and table.present("caption").all()
    assert table.has("depth") and not table.has("normals")
    depth = table.media("depth", [0, 4, 2])
    assert depth.shape == (3, 1, 1, 24, 24)
    with pytest.raises(ValueError, match="clip c001 of .* has no depth"):
        table.media("depth", [0, 1])
    with pytest.raises(UserError, match="have no normals, only caption, depth, picture, sound"):
        table.require("normals")
    tally = write_manifest(tmp_path)
    found = tally.summary()["by_media"]
    assert found["sound"] == 18 and found["depth"] == 12 and found["caption"] == 24


def test_in_shards_of_before_a_kind_counts_where_all_clips_have_it(tmp_path):
    write_clips(tmp_path, 16)
    for number in range(2):
        path = clip_shards.shard_path(tmp_path, number)
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[clip_shards.KEY]) | {"format": 3}
        table = table.drop_columns(["media"])
        meta = {clip_shards.KEY: json.dumps(about).encode()}
        pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=64)
    read = open_clips(tmp_path)
    assert not read.present("depth").any() and read.present("sound").all()


def test_clips_with_gaps_are_fitted_and_tokenised(tmp_path):
    write_clips(tmp_path / "clips")
    clips = open_clips(tmp_path / "clips")
    image = ImageVQ(grid=3, vocab=8, width=8, steps=2, batch_size=4)
    sound = MelVQ(vocab=8, width=8, steps=2, batch_size=4, griffin_lim=1)
    settings = config(**LOOSE)
    sections = {"rgb": image, "depth": image, "sound": sound, "caption": Bpe()}
    settings = settings.model_copy(update={"tokenizers": sections, "broken_tokenizers": "accept"})
    quality = fit_tokenizers(settings, clips, tmp_path / "tokenizers")
    val = clips.rows("val")
    assert quality["depth"]["clips"] == clips.present("depth")[val].sum() < len(val)
    made = {name: load_tokenizer(tmp_path / "tokenizers" / name) for name in sections}
    about = build_table(settings, clips, made, tmp_path / "table")
    assert about["present"] == {"rgb": 18, "depth": 12, "sound": 18, "caption": 24}
    table = open_table(tmp_path / "table")
    for modality in table.modalities:
        is_there = clips.present(modality.media)
        assert (table.present(modality.name) == is_there).all()
        assert not table.ids[modality.name][~is_there].any()
        row = int(np.flatnonzero(is_there)[-1])
        media = clips.media(modality.media, [row], frame=0 if modality.layout == "grid" else None)
        again = made[modality.name].encode(media).reshape(-1)
        assert table.ids[modality.name][row, 0].tolist() == again.tolist()
    without = dataclasses.replace(
        clips, presence=dict(clips.presence) | {"depth": clips.splits == "train"}
    )
    with pytest.raises(UserError, match="no val clip has depth .*--without depth"):
        fit_tokenizers(settings, without, tmp_path / "others")


def test_a_kind_whose_name_begins_another_one_is_not_taken_for_it():
    cells = pa.chunked_array([["depth sound", "depths", "", "a depth"]])
    assert names_it(cells, "depth").tolist() == [True, False, False, True]
