"""What belongs together stays together: columns and names of files, in every form of folder."""

from pathlib import Path

import pytest

from media_files import tone
from nano4m.config.datasets import FolderDataset
from nano4m.data.sources import folder
from nano4m.data.sources.copies import find_copies
from nano4m.data.sources.name_groups import numbered_name, video_id

FILMS = [f"{chr(65 + i % 26)}b{i:03d}_x-Yz9" for i in range(100)]
"""Ids of eleven letters, as random as those of YouTube."""


def files_of(named) -> list[str]:
    return [f"{named(i)}_{30 + 10 * part:06d}.wav" for i in range(100) for part in range(3)]


def write(root: Path, form: str, files: list[str]) -> Path:
    """An empty file each (nothing is opened but tables) in one form of folder or list."""
    root.mkdir(parents=True, exist_ok=True)
    labels = {name: ("cat", "dog")[i // 3 % 2] for i, name in enumerate(files)}
    for name, label in labels.items():
        at = {"classes": f"{label}/{name}", "audio": f"audio/{label}/{name}"}.get(form, name)
        path = root / at.replace(".wav", ".mp4" if form == "video" else ".wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    if form == "labels":
        rows = [f"{'./' * (i % 2)}{n},{label},a" for i, (n, label) in enumerate(labels.items())]
        (root / "labels.csv").write_text("\n".join(["file,label,caption", *rows]))
    if form in ("pairs", "absolute"):
        base = f"{root}/" if form == "absolute" else "./"
        rows = [f"id{i},{v},{base}{n},,a" for i, (n, v) in enumerate(labels.items())]
        (root / "pairs.csv").write_text("\n".join(["audio_id,class,audio,images,caption", *rows]))
    return root


FORMS = ("classes", "audio", "labels", "pairs", "absolute")


def splits_of(data: Path, seed: int = 0, **settings) -> dict[str, str]:
    plans = folder.plan(FolderDataset(test_share=0.15, **settings), data, seed)
    return {Path(p.details["file"]).stem: p.split for p in plans}


def torn(splits: dict[str, str]) -> int:
    found: dict[str, set[str]] = {}
    for name, split in splits.items():
        found.setdefault(name.rpartition("_")[0], set()).add(split)
    return sum(len(own) > 1 for own in found.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [FILMS.__getitem__, "film{}".format], ids=["ids", "names"])
def test_of_100_films_in_three_files_none_is_in_two_splits(tmp_path, form, named, capsys):
    data = write(tmp_path, form, files_of(named))
    for seed in range(3):
        splits = splits_of(data, seed)
        assert len(splits) == 300 and set(splits.values()) == {"train", "val", "test"}
        assert torn(splits) == 0
    assert "300 files of 100 recordings by their names, such as" in capsys.readouterr().err
    assert torn(splits_of(data, group_by="off")) > 30


def test_numbers_of_a_camera_are_no_recordings_beside_films(tmp_path):
    files = [f"dog/dog_{i:04d}.wav" for i in range(1, 201)]
    files += [f"cat/IMG_{i:04d}.wav" for i in range(1, 101)]
    files += [
        f"{('dog', 'cat')[i % 2]}/{name}" for i, name in enumerate(files_of(FILMS.__getitem__))
    ]
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    plans = folder.plan(FolderDataset(), tmp_path, 0)
    groups = {p.video_id for p in plans}
    assert len(plans) == 600 and len(groups) == 400
    assert sum(p.video_id in FILMS for p in plans) == 300
    assert {p.split for p in plans if "IMG_" in p.clip_id} == {"train", "val"}


@pytest.mark.parametrize(
    ("stem", "found"),
    [
        ("aB3dE6gH9_k_000030", "aB3dE6gH9_k"),
        ("--4gqARaEJE_0.000_10.000", "--4gqARaEJE"),
        ("dog_barking_0001", ""),
        ("BarkingDogs_0001", ""),
        ("aB3dE6gH9_k", ""),
        ("IMG_0001", ""),
    ],
)
def test_only_what_is_random_is_a_video_id(stem, found):
    assert video_id(stem) == found
    assert video_id(f"speaker/{stem}") == found


def test_numbered_names():
    assert numbered_name("a/rec-1_0042") == "a/rec-1" and numbered_name("rec_42") == ""
    assert numbered_name("19-198-0001") == "19-198" and numbered_name("0001") == ""


@pytest.mark.parametrize("column", ["group", "recording_group", "video_id", "speaker", "site"])
def test_a_column_says_the_groups_in_every_list(tmp_path, column):
    names = [f"s{i}.wav" for i in range(40)]
    for i, name in enumerate(names):
        tone(tmp_path / name, 0.05, hertz=200 + 5 * i)
    pairs = [f"id{i},cat,{n},,a,g{i % 10}" for i, n in enumerate(names)]
    labels = [f"{n},cat,a,g{i % 10}" for i, n in enumerate(names)]
    lists = {
        "pairs.csv": [f"audio_id,class,audio,images,caption,{column}", *pairs],
        "labels.csv": [f"file,label,caption,{column}", *labels],
    }
    by = {"group_by": "site"} if column == "site" else {}
    for name, rows in lists.items():
        (tmp_path / name).write_text("\n".join(rows))
        for seed in range(4):
            splits = splits_of(tmp_path, seed, **by)
            found = {(int(stem[1:]) % 10, split) for stem, split in splits.items()}
            assert len(found) == 10 and len({split for _, split in found}) == 3
        (tmp_path / name).unlink()


def test_copies_are_of_one_recording_unless_a_class_is_nothing_else(tmp_path, capsys):
    for i in range(20):
        tone(tmp_path / "a" / "cat" / f"s{i}.wav", 0.05, hertz=200 + 9 * i)
        if i < 8:
            tone(tmp_path / "a" / "cat" / f"again{i}.wav", 0.05, hertz=200 + 9 * i)
        tone(tmp_path / "b" / "cat" / f"s{i}.wav", 0.05)
    paths = sorted((tmp_path / "a" / "cat").iterdir())
    copies = find_copies(paths)
    expected = [[p for p in paths if p.read_bytes() == one.read_bytes()] for one in paths]
    assert sorted(copies) == sorted({tuple(e): e for e in expected if len(e) > 1}.values())
    for seed in range(5):
        splits = splits_of(tmp_path / "a", seed)
        assert all(splits[f"s{i}"] == splits[f"again{i}"] for i in range(8))
    assert len(set(splits_of(tmp_path / "b").values())) == 3
    assert "most of a class" in capsys.readouterr().err
