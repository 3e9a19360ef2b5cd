"""Columns beside the media: groups, pictures and measures, in new tables and in those of before."""

import csv
import dataclasses
import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_build import config, fake, media_of  # noqa: F401
from test_sources import digit_folder

from nano4m.config.datasets import DigitsDataset
from nano4m.data import build as clips
from nano4m.data import clip_shards
from nano4m.data.clip_table import open_clips
from nano4m.data.fingerprints import content_hash, image_fingerprint
from nano4m.data.sources import digits
from nano4m.errors import UserError


def test_groups_pictures_and_measures_come_back(tmp_path, fake):  # noqa: F811
    fake.plans = [
        dataclasses.replace(
            one,
            group=f"film {i // 3}" if i % 2 else None,
            measures={"size_m": i / 7} | ({"odd": 1.0} if i % 2 else {}),
        )
        for i, one in enumerate(fake.plans)
    ]

    def media(plan, settings):
        found = media_of(plan)
        number = int(plan.details["number"])
        if number % 4 == 0:  # a picture that clips share, and others that differ beside the crop
            grey = np.full((20, 30, 3), 90, np.uint8)
            grey[:, :3] = 7 + number % 8
            found = dataclasses.replace(found, frames=(grey,))
        return dataclasses.replace(found, measures={"loaded": -float(number)})

    fake.media = media
    clips.build_clips(config(), None, tmp_path)
    table = open_clips(tmp_path)
    numbers = np.array([int(name[1:]) for name in table.clip_ids])
    expected = [f"film {i // 3}" if i % 2 else f"v{i}" for i in numbers]
    assert table.groups.tolist() == expected
    assert table.video_ids.tolist() == [f"v{i}" for i in numbers]
    assert table.measure_names == ["loaded", "odd", "size_m"]
    assert table.measure("size_m").dtype == np.float64
    np.testing.assert_array_equal(table.measure("size_m"), numbers / 7)
    np.testing.assert_array_equal(table.measure("loaded"), -numbers.astype(float))
    np.testing.assert_array_equal(table.measure("odd"), np.where(numbers % 2, 1.0, np.nan))
    with pytest.raises(UserError, match="did you mean 'size_m'"):
        table.measure("size")
    assert all(len(own) == 1 and len(own[0]) == 12 for own in table.pictures)
    shared = {own: i % 8 for own, i in zip(table.pictures, numbers, strict=True) if i % 4 == 0}
    assert sorted(shared.values()) == [0, 4]
    assert len(set(table.pictures)) == 2 + int((numbers % 4 != 0).sum())
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[3]["measures"]) == {"size_m": 0.429, "odd": 1.0, "loaded": -3.0}
    assert rows[3]["group"] == "film 1" and rows[2]["group"] == "v2"


def test_identity_is_that_of_the_frame_before_the_crop():
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    other = picture.copy()
    other[0, 0, 0] ^= 1
    assert content_hash(picture) == content_hash(picture.copy()[:, :, :]) != content_hash(other)
    assert content_hash(picture) != content_hash(picture.reshape(30, 20, 3))
    assert int(content_hash(picture), 16) >= 0 and len(content_hash(picture)) == 12


def test_a_digit_that_is_moved_at_random_stays_the_same_picture(tmp_path):
    """Recordings draw from the same pictures; how often one is used can be counted."""
    settings = DigitsDataset(pictures_per_sound=40, picture_size=16)
    plans = digits.plan(settings, digit_folder(tmp_path, takes=(0, 1, 2, 3, 5)), 0)
    drawn: dict[str, set[str]] = {}
    for plan in (p for p in plans if p.label == "three"):
        raw = digits.load(plan, settings)
        for number, original in zip(plan.details["pictures"], raw.originals, strict=True):
            drawn.setdefault(number, set()).add(content_hash(original))
    assert all(len(own) == 1 for own in drawn.values())
    assert len(set.union(*drawn.values())) == len(drawn) < 5 * 40


def age(folder, lost: set[str], number: int) -> None:
    """Rewrite the shards of a table without some columns, as an earlier format had them."""
    for path in folder.glob("clips-*.parquet"):
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[clip_shards.KEY]) | {"format": number}
        table = table.drop_columns(list(lost)).replace_schema_metadata(
            {clip_shards.KEY: json.dumps(about).encode()}
        )
        pq.write_table(table, path, row_group_size=clip_shards.GROUP_ROWS)


def test_a_table_of_before_has_what_can_be_told_from_it(tmp_path, fake):  # noqa: F811
    clips.build_clips(config(), None, tmp_path)
    age(tmp_path, {"group", "picture", "measures"}, 3)
    table = open_clips(tmp_path)
    assert table.groups.tolist() == table.video_ids.tolist()
    assert table.measure_names == []
    with pytest.raises(UserError, match="no measure 'size_m'"):
        table.measure("size_m")
    pictures = table.pictures
    assert len(set(pictures)) == len(table) and all(len(own[0]) == 12 for own in pictures)
    [first] = pq.read_table(clip_shards.shard_path(tmp_path, 0))["image_fingerprints"][0].as_py()
    assert pictures[0] == (hashlib.sha256(first).hexdigest()[:12],)
    frame = np.asarray(table.media("picture", [0])[0, 0].movedim(0, -1) * 255, np.uint8)
    assert len(image_fingerprint(frame)) == len(first)
    age(tmp_path, {"image_fingerprints", "audio_fingerprint"}, 1)
    assert open_clips(tmp_path).pictures == [()] * len(table)


def test_resuming_a_table_of_before_is_refused(tmp_path, fake):  # noqa: F811
    clips.build_clips(config(), None, tmp_path)
    clip_shards.shard_path(tmp_path, 1).unlink()
    for path in tmp_path.glob("clips-*.parquet"):
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[clip_shards.KEY])
        about |= {"format": 3, "fingerprint": "of before"}
        pq.write_table(
            table.replace_schema_metadata({clip_shards.KEY: json.dumps(about).encode()}), path
        )
    with pytest.raises(UserError, match="clips of other settings"):
        clips.build_clips(config(), None, tmp_path)
