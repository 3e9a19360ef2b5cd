"""Leaks that are planted in folders of each form: told, counted, and gone without losing a clip."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_build import config

from nano4m.config.datasets import FolderDataset
from nano4m.data import build as clips
from nano4m.data.clip_table import open_clips
from nano4m.data.duplicates import _look
from nano4m.data.sources import folder

RATE = 24000


def noise(path: Path, seed: int, level: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).normal(0, 0.1, RATE).clip(-0.5, 0.5)
    soundfile.write(path, sound * level / 0.1, RATE)


def scene(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((96, 96)).save(path)


def built(tmp_path, data, **dataset):
    asked = config(window_seconds=0.5, window="start", picture_size=32, require=(), frames=1)
    asked = asked.model_copy(update={"dataset": FolderDataset(val_share=0.3, **dataset)})
    counts = clips.build_clips(asked, data, tmp_path / "out")
    plans = folder.plan(asked.dataset, data, asked.seed)
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = {row["clip_id"]: row for row in csv.DictReader(file)}
    table = _look(tmp_path / "out", plans)
    left = [p for p in table.pairs if table.facts.kept[p[0]] and table.facts.kept[p[1]]]
    assert not left, "something is in two splits still"
    return counts, plans, rows


def test_a_sound_under_two_names_moves_and_draws_from_the_pictures_of_its_new_split(
    tmp_path, capsys
):
    data = tmp_path / "data"
    for i in range(12):
        noise(data / "audio" / "cat" / f"s{i}.wav", i)
        scene(data / "images" / "cat" / f"p{i}.png", i)
    # The same sound, quieter and in another format, so that no bytes are equal.
    (data / "audio" / "cat" / "s11.wav").unlink()
    noise(data / "audio" / "cat" / "s11.flac", 11)
    plans = folder.plan(FolderDataset(val_share=0.3), data, config().seed)
    split = {Path(str(p.details["file"])).name: p.split for p in plans}
    first = next(n for n in range(11) if split[f"s{n}.wav"] != split["s11.flac"])
    noise(data / "audio" / "cat" / "s11.flac", first, 0.03)
    counts, _, rows = built(tmp_path, data)
    twins = [c for c in rows if f"s{first}.wav" in c or "s11.flac" in c]
    assert {rows[c]["split"] for c in twins} == {"train"} and counts["kept"] == 12
    assert counts["moved"] == {"from val to train": 1}
    assert "1 moved with their recordings" in capsys.readouterr().err.replace("\n", " ")
    table = open_clips(tmp_path / "out")
    owner: dict[str, set[str]] = {}
    for own, split_of in zip(table.pictures, table.splits.tolist(), strict=True):
        for picture in own:
            owner.setdefault(picture, set()).add(split_of)
    assert all(len(splits) == 1 for splits in owner.values())


def test_pictures_saved_again_move_with_the_recording_that_they_belong_to(tmp_path):
    data = tmp_path / "data"
    for i in range(12):
        noise(data / "cat" / f"s{i}.wav", i)
        scene(data / "cat" / f"s{i}.png", i)
    plans = folder.plan(FolderDataset(val_share=0.3), data, config().seed)
    stems = {p.split: Path(str(p.details["file"])).stem for p in plans}
    copy = data / "cat" / f"{stems['val']}.png"
    copy.unlink()
    with Image.open(data / "cat" / f"{stems['train']}.png") as picture:
        picture.resize((90, 90)).save(copy.with_suffix(".jpg"), quality=85)
    counts, _, rows = built(tmp_path, data)
    assert counts["moved"] == {"from val to train": 1} and counts["kept"] == 12
    moved = next(row for row in rows.values() if row["moved"])
    assert moved["split"] == "train" and "the picture of" in moved["moved"]


@pytest.mark.parametrize("form", ["packed", "column"])
def test_given_splits_keep_their_test_clips(tmp_path, form):
    data, rows = tmp_path / "data", ["file,label,caption,split"]
    for i in range(12):
        split = ("train", "train", "val", "test")[i % 4]
        name = f"{split}/cat/s{i}.wav" if form == "packed" else f"s{i}.wav"
        noise(data / name, 3 if i == 4 else i, 0.05 if i == 4 else 0.1)
        rows.append(f"{name},cat,a cat,{split}")
    if form == "column":
        (data / "labels.csv").write_text("\n".join(rows))
    counts, plans, found = built(tmp_path, data)
    assert {p.is_split_given for p in plans} == {True}
    assert counts["moved"] == {} and counts["reasons"] == {"duplicate": 1}
    lost = next(row for row in found.values() if row["kept"] == "0")
    assert lost["split"] == "train" and "s4" in lost["clip_id"]
    assert Counter(row["split"] for row in found.values()) == {"train": 6, "val": 3, "test": 3}
