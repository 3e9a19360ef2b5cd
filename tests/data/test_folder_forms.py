"""Folders as they are packed: splits, a lone folder, links, odd names; right labels and splits."""

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from test_folder_source import class_folder

from conftest import SHARED
from media_files import picture, tone
from nano4m.config.datasets import FolderDataset
from nano4m.data.sources import folder
from nano4m.data.sources.folder_layouts import find_contents
from nano4m.data.sources.listing import list_files
from nano4m.data.sources.walk import walk
from nano4m.errors import UserError

ODD = SHARED / "odd_files"
needs_odd = pytest.mark.skipif(
    not (ODD.is_dir() and (SHARED / "animals").is_dir()),
    reason="needs the data of ../shared: odd_files, animals",
)
LOOSE = FolderDataset(min_per_class=1)


def counts(data: Path) -> dict[str, int]:
    return dict(Counter(r.label for r in find_contents(data).recordings))


def odd(case: str, out: Path) -> Path:
    subprocess.run([sys.executable, ODD / "make_folder.py", case, out], check=True)
    return out


def splits_folder(root: Path, above: str = "{split}/{kind}", names=("train", "valid", "test")):
    number = 0
    for split, count in zip(names, (6, 2, 3), strict=True):
        for label in ("cat", "dog"):
            for _ in range(count):
                number += 1
                at = root / above.format(split=split, kind="audio") / label
                tone(at / f"s{number}.wav", hertz=200 + 10 * number)
                at = root / above.format(split=split, kind="images") / label
                picture(at / f"p{number}.png", (number * 7, 90, 10))
    return root


@pytest.mark.parametrize("above", ["{split}", "{split}/{kind}", "{kind}/{split}", "top/{split}"])
@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "dev", "TEST")])
def test_folders_named_as_splits_are_splits(tmp_path, above, names):
    plans = folder.plan(FolderDataset(), splits_folder(tmp_path, above, names), 0)
    assert {p.label for p in plans} == {"cat", "dog"}
    assert Counter(p.split for p in plans) == {"train": 12, "val": 4, "test": 6}
    for plan in plans:
        own = names[("train", "val", "test").index(plan.split)]
        assert f"/{own}/" in plan.details["file"] and plan.details["pictures"]
        assert all(f"/{own}/" in name for name in plan.details["pictures"])


def test_given_splits_without_val_hold_some_of_train_out(tmp_path):
    data = splits_folder(tmp_path)
    shutil.rmtree(data / "valid")
    for seed in range(5):
        plans = folder.plan(FolderDataset(val_share=0.3), data, seed)
        found = Counter(p.split for p in plans)
        assert found["test"] == 6 and found["val"] >= 2 and found["train"] >= 6
        assert all("/test/" in p.details["file"] for p in plans if p.split == "test")
        assert not any("/test/" in p.details["file"] for p in plans if p.split != "test")


def test_val_and_test_without_train_are_refused_and_a_class_train_is_a_class(tmp_path):
    data = splits_folder(tmp_path / "a", "{split}")
    shutil.rmtree(data / "train")
    with pytest.raises(UserError, match="test, valid and no folder train"):
        find_contents(data)
    for label in ("train", "test", "ship"):
        tone(tmp_path / "b" / label / "x.wav")
    assert counts(tmp_path / "b") == {"train": 1, "test": 1, "ship": 1}


def test_a_recording_in_two_given_splits_is_not_trained_on(tmp_path):
    data = splits_folder(tmp_path, "{split}")
    for at, start in (("train", 0), ("train", 10), ("test", 20), ("valid", 30)):
        tone(data / at / "cat" / f"aB3dE6gH9_k_{start:06d}.wav", hertz=900 + start)
    shutil.copy(data / "test" / "dog" / "p20.png", data / "train" / "dog" / "copy.png")
    plans = folder.plan(FolderDataset(), data, 0)
    film = {p.clip_id[-10:-4]: p for p in plans if "aB3dE6gH9_k" in p.clip_id}
    by_start = {p.clip_id.split("_k_")[1][:6]: p for p in film.values()}
    assert {s: bool(p.reason) for s, p in by_start.items()} == {
        "000000": True, "000010": True, "000020": False, "000030": True,
    }  # fmt: skip
    assert by_start["000000"].reason.startswith("also in test")
    for plan in plans:
        if not plan.reason and plan.split == "train":
            assert not any("copy.png" in n for n in plan.details["pictures"])


def test_one_folder_above_gives_the_same_plan(tmp_path):
    plain = class_folder(tmp_path / "plain")
    shutil.copytree(plain, tmp_path / "above" / "data-main" / "v1")
    first = folder.plan(FolderDataset(), plain, 0)
    second = folder.plan(FolderDataset(), tmp_path / "above", 0)
    facts = [[(p.clip_id, p.label, p.split, p.video_id) for p in own] for own in (first, second)]
    assert facts[0] == facts[1]
    tone(tmp_path / "one" / "dog" / "a.wav")
    assert counts(tmp_path / "one") == {"dog": 1}


def test_class_folders_of_one_name_in_two_unicode_forms_are_one_and_others_are_refused(tmp_path):
    name = "\u017e\u00e1ba"
    for i in range(3):
        tone(tmp_path / "a" / "audio" / unicodedata.normalize("NFD", name) / f"{i}.wav")
        picture(tmp_path / "a" / "images" / name / f"p{i}.png", (i, 1, 2))
    plans = folder.plan(LOOSE, tmp_path / "a", 0)
    assert {p.label for p in plans} == {name} and all(p.details["pictures"] for p in plans)
    for one, other in (("Dog", "dog"), ("barn owl", "barn_owl")):
        data = tmp_path / one
        tone(data / "audio" / one / "a.wav")
        picture(data / "images" / other / "a.png")
        with pytest.raises(UserError, match="would all be the class"):
            find_contents(data)
    for label in ("C#", "C++", "!!!", "cat & dog", "cat_dog", "\U0001f436", "\U0001f431"):
        tone(tmp_path / "c" / label / "a.wav")
    assert set(counts(tmp_path / "c")) == {
        "c#", "c++", "!!!", "cat_&_dog", "cat_dog", "\U0001f436", "\U0001f431",
    }  # fmt: skip


def test_links_pipes_and_odd_names_are_read_once_or_counted(tmp_path, capsys):
    data = class_folder(tmp_path / "data")
    before = list_files(data)
    for label in ("cat", "dog"):
        (data / "audio" / label / "all").symlink_to("..")
    (data / "audio" / "dog" / "self").symlink_to("self")
    (data / "audio" / "dog" / "gone.flac").symlink_to("../../nowhere.flac")
    os.mkfifo(data / "audio" / "dog" / "pipe.wav")
    shutil.copy(data / "audio/dog/dog 1.wav", os.fsencode(data) + b"/audio/dog/b\xe4r.wav")
    (data / "audio" / "cat" / "notes.txt").write_text("no medium")
    found = {entry.name: entry.fault for entry in walk(data).files}
    assert found["audio/dog/gone.flac"] == "a link to nowhere"
    assert "circle" in found["audio/dog/self"] and "pipe" in found["audio/dog/pipe.wav"]
    assert found["audio/dog/b\\xe4r.wav"] == "" and not any("/all/" in name for name in found)
    contents = find_contents(data)
    assert Counter(r.label for r in contents.recordings) == {"cat": 6, "dog": 9}
    assert contents.unread["cat", "no medium: .txt"] == 1
    plans = folder.plan(FolderDataset(), data, 0)
    for plan in plans:
        plan.clip_id.encode()
    assert len({p.clip_id for p in plans}) == 15
    after = list_files(data)
    assert after["files"] == before["files"] + 3 and after["digest"] != before["digest"]
    assert "audio/cat/all is not entered: the same folder as audio" in capsys.readouterr().err


def test_a_long_name_has_a_short_id_and_a_flat_folder_one_class(tmp_path):
    for name in ("x" * 240, "\u732b" * 80, "a=b", "c"):
        tone(tmp_path / f"{name}.wav")
    plans = folder.plan(LOOSE, tmp_path, 0)
    assert all(len(p.clip_id) < 140 for p in plans) and len({p.clip_id for p in plans}) == 4
    assert {p.label for p in plans} == {"unlabelled"}


def test_sounds_without_pictures_and_pictures_without_sounds_are_clips(tmp_path):
    data = class_folder(tmp_path, {"cat": 6, "emu": 6}, {"cat": 6, "owl": 6})
    plans = folder.plan(FolderDataset(), data, 0)
    assert Counter(p.label for p in plans) == {"cat": 6, "emu": 6, "owl": 6}
    for plan in plans:
        raw = folder.load(plan, FolderDataset())
        assert (raw.recording is None) == (plan.label == "owl")
        assert bool(raw.frames) == (plan.label != "emu")


def test_speech_by_speaker_and_chapter_is_kept_by_speaker(tmp_path):
    for speaker in ("19", "26"):
        for chapter in ("198", "227"):
            for i in range(3):
                name = f"{speaker}-{chapter}-{i:04d}.flac"
                tone(tmp_path / "corpus" / speaker / chapter / name)
    assert counts(tmp_path) == {"19": 6, "26": 6}


def test_sounds_have_the_picture_of_their_name(tmp_path):
    for i in range(8):
        tone(tmp_path / "cat" / "s" / f"take{i}.wav", hertz=300 + 20 * i)
        picture(tmp_path / "cat" / ("s" if i < 6 else "t") / f"take{i}.png", (i * 9, 5, 5))
    for seed in range(3):
        for plan in folder.plan(FolderDataset(val_share=0.3), tmp_path, seed):
            stem = Path(plan.details["file"]).stem
            drawn = {Path(name).stem for name in plan.details["pictures"]}
            assert drawn == {stem} if stem < "take6" else not drawn & {f"take{i}" for i in range(6)}


# -- the folders of ../shared ------------------------------------------------------------------

AS_USUAL = {"cat": 6, "cow": 6, "dog": 6}


@needs_odd
@pytest.mark.parametrize(
    ("case", "classes"),
    [
        ("dangling_link", AS_USUAL | {"dog": 7}),
        ("latin1_name", AS_USUAL | {"dog": 7}),
        ("link_loop", AS_USUAL),
        ("symlinked_class", AS_USUAL),
        ("symlinked_tops", AS_USUAL),
        ("symlinked_files", AS_USUAL),
        ("one_folder_above", AS_USUAL),
        ("nfd_nfc", {"cat": 6, "cow": 6, "\u017e\u00e1ba": 6}),
        ("one_class", {"dog": 6}),
    ],
)
def test_odd_folders_have_their_classes(tmp_path, case, classes):
    assert counts(odd(case, tmp_path / "data")) == classes


@needs_odd
@pytest.mark.parametrize("case", ["splits", "splits_under_audio"])
def test_odd_splits_are_the_folders(tmp_path, case):
    plans = folder.plan(FolderDataset(), odd(case, tmp_path / "data"), 0)
    assert Counter((p.label, p.split) for p in plans) == {
        (label, split): n
        for label in AS_USUAL
        for split, n in (("train", 4), ("val", 1), ("test", 1))
    }
    owner: dict[bytes, str] = {}
    for plan in plans:
        assert f"/{plan.split}/" in plan.details["file"] and plan.details["pictures"]
        for name in plan.details["pictures"]:
            assert owner.setdefault(Path(name).read_bytes(), plan.split) == plan.split


@needs_odd
def test_odd_class_names_are_eight(tmp_path):
    plans = folder.plan(LOOSE, odd("class_names", tmp_path / "data"), 0)
    assert len({p.label for p in plans}) == 8 and len(plans) == 16


@pytest.mark.parametrize("pictures, by_name", [(10, True), (3, False)])
def test_names_that_agree_by_chance_pair_nothing(tmp_path, pictures, by_name):
    for number in range(12):
        tone(tmp_path / "audio" / "cat" / f"{number}.wav")
    for number in range(pictures):
        picture(tmp_path / "images" / "cat" / f"{number}.png", (20 * number, 9, 9))
    settings = FolderDataset(val_share=0.0, test_share=0.0)
    for plan in folder.plan(settings, tmp_path, seed=0):
        stem = Path(plan.details["file"]).stem
        drawn = [Path(name).stem for name in plan.details["pictures"]]
        if not by_name:
            assert sorted(drawn) == ["0", "1", "2"], "all pictures of the class are for all sounds"
        elif int(stem) < pictures:
            assert drawn == [stem]
        else:
            assert drawn == []
