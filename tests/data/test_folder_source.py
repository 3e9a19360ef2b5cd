"""The folder source: forms of folders, splits without leaks, pairings, what it leaves out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_sources import pictures_by_split

from conftest import SHARED
from media_files import picture, read_window, tone, video
from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FolderDataset
from nano4m.data.cut import cut
from nano4m.data.sources import folder
from nano4m.errors import BadMedia, UserError

needs_animals = pytest.mark.skipif(
    not (SHARED / "animals").is_dir(), reason="needs the data of ../shared: animals"
)


def class_folder(root: Path, sounds=None, pictures=None) -> Path:
    for label, count in (sounds or {"cat": 6, "dog": 6}).items():
        for i in range(count):
            tone(root / "audio" / label / f"{label} {i}.wav", hertz=300 + 10 * i)
    for label, count in (pictures or {"cat": 6, "dog": 6}).items():
        for i in range(count):
            picture(root / "images" / label / f"{i}.png", (i * 20, 90, 10))
    return root


# -- forms and splits --------------------------------------------------------------------------


def test_folder_of_class_directories(tmp_path):
    settings = FolderDataset(pictures_per_sound=2)
    plans = folder.plan(settings, class_folder(tmp_path), 0)
    assert len(plans) == len({p.clip_id for p in plans}) == 12
    assert {p.label for p in plans} == {"cat", "dog"} == {p.caption for p in plans}
    for label in ("cat", "dog"):
        assert {p.split for p in plans if p.label == label} == {"train", "val"}
    found = pictures_by_split(plans)
    assert found["val"] and not found["train"] & found["val"]
    for plan in plans:
        assert all(f"/{plan.label}/" in name for name in plan.details["pictures"])
        raw = folder.load(plan, settings)
        assert raw.recording.suffix == ".wav" and raw.sound is None and raw.frame_times is None
        assert len(raw.frames) == len(plan.details["pictures"]) > 0


def test_folder_of_plain_class_directories_with_awkward_names(tmp_path):
    for i in range(5):
        tone(tmp_path / "Barn Owl" / f"{i}.flac")
        tone(tmp_path / "Barn Owl" / f"{i}.ogg")
        picture(tmp_path / "Barn Owl" / f"{i}.jpg")
    plans = folder.plan(FolderDataset(), tmp_path, 0)
    assert {(p.label, p.caption) for p in plans} == {("barn_owl", "Barn Owl")}
    assert len({p.clip_id for p in plans}) == 10


def test_folder_of_videos_with_labels(tmp_path):
    rows = ["file,label,caption"]
    for i in range(5):
        video(tmp_path / f"v{i}.mp4", 1.0)
        rows.append(f"v{i}.mp4,Dog,a dog number {i}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    plans = folder.plan(FolderDataset(), tmp_path, 0)
    assert sorted(p.caption for p in plans) == [f"a dog number {i}" for i in range(5)]
    path = folder.load(plans[0], FolderDataset()).recording
    raw = read_window(path, ClipsConfig(window_seconds=2))
    assert abs(raw.seconds - 1) < 0.1
    start = raw.start_s
    assert len(raw.frames) == len(raw.frame_times) == 10
    for frame, time in zip(raw.frames, raw.frame_times, strict=True):
        assert abs(frame.mean() - 100 * (start + time)) < 6


def pairs_folder(root: Path, groups=("a", "a", "b", "c", "d", "e"), own=False) -> Path:
    """A pairs.csv of one class; each sound has all pictures, or its own one."""
    count = len(groups)
    pairs = ["audio_id,class,audio,images,caption"]
    metadata = ["id,class,kind,file,recording_group,license_note,quality"]
    for i, group in enumerate(groups):
        tone(root / f"s{i}.wav")
        picture(root / f"p{i}.png")
        chosen = [i] if own else range(count)
        images = ";".join(f"p{j}.png" for j in chosen)
        pairs.append(f"id{i},cow,s{i}.wav,{images},A cow: {i}.")
        metadata.append(f"id{i},cow,audio,s{i}.wav,{group},CC0,ok")
        metadata.append(f"im{i},cow,image,p{i}.png,g{i},CC0,ok")
    (root / "pairs.csv").write_text("\ufeff" + "\n".join(pairs), encoding="utf-8")
    (root / "metadata.csv").write_text("\n".join(metadata))
    return root


@pytest.mark.parametrize("seed", range(30))
def test_folder_never_parts_a_recording_group(tmp_path, seed):
    groups = ["x"] * 4 + ["y"] * 3 + list("abcde")
    settings = FolderDataset(val_share=0.25, test_share=0.2)
    plans = folder.plan(settings, pairs_folder(tmp_path, groups), seed)
    splits: dict[str, set[str]] = {}
    for plan in plans:
        splits.setdefault(plan.video_id, set()).add(plan.split)
    assert splits.keys() == set(groups) and all(len(found) == 1 for found in splits.values())
    assert {p.split for p in plans} == {"train", "val", "test"}
    found = pictures_by_split(plans)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert found[one] and not found[one] & found[other]


def test_folder_takes_captions_licences_and_ids_of_the_tables(tmp_path):
    plans = folder.plan(FolderDataset(), pairs_folder(tmp_path), 0)
    assert [(p.clip_id, p.caption) for p in plans] == [(f"id{i}", f"A cow: {i}.") for i in range(6)]
    assert {p.licence for p in plans} == {"CC0"}


def test_folder_keeps_pictures_that_belong_to_one_sound_alone(tmp_path):
    plans = folder.plan(FolderDataset(), pairs_folder(tmp_path, "abcdef", own=True), 0)
    for i, plan in enumerate(plans):
        assert [Path(name).name for name in plan.details["pictures"]] == [f"p{i}.png"]


def test_folder_draws_no_picture_that_belongs_to_another_sound(tmp_path):
    data = pairs_folder(tmp_path, "abcdef", own=True)
    lines = (data / "pairs.csv").read_text(encoding="utf-8-sig").splitlines()
    lines[2] = "id1,cow,s1.wav,,A cow: 1."
    (data / "pairs.csv").write_text("\n".join(lines))
    for seed in range(10):
        plans = folder.plan(FolderDataset(), data, seed)
        assert {Path(name).name for name in plans[1].details["pictures"]} <= {"p1.png"}


@pytest.mark.parametrize("shares", [(0.9, 0.0), (0.5, 0.45), (0.0, 0.9)])
def test_folder_leaves_something_to_train_on_in_every_class(tmp_path, shares):
    settings = FolderDataset(val_share=shares[0], test_share=shares[1], min_per_class=1)
    data = class_folder(tmp_path, {"cat": 1, "dog": 2, "owl": 3, "cow": 9})
    for seed in range(5):
        plans = folder.plan(settings, data, seed)
        assert {p.label for p in plans if p.split == "train"} == {"cat", "dog", "owl", "cow"}


def test_folder_class_of_one_group_stays_in_train(tmp_path, capsys):
    plans = folder.plan(FolderDataset(), pairs_folder(tmp_path, "aaaaaa"), 0)
    assert {p.split for p in plans} == {"train"}
    assert "'cow' stays in train" in capsys.readouterr().err


def test_folder_leaves_a_small_class_out_and_says_so(tmp_path, capsys):
    data = class_folder(tmp_path, {"cat": 5, "dog": 4, "owl": 1})
    assert {p.label for p in folder.plan(FolderDataset(), data, 0)} == {"cat"}
    said = capsys.readouterr().err
    assert "'dog' left out: 4" in said and "'owl' left out: 1" in said
    one = folder.plan(FolderDataset(min_per_class=1), data, 0)
    assert [p.split for p in one if p.label == "owl"] == ["train"]
    with pytest.raises(UserError, match="no class has 9 recordings"):
        folder.plan(FolderDataset(min_per_class=9), data, 0)


def test_folder_pictures_that_are_missing_become_a_reason(tmp_path):
    data = class_folder(tmp_path, {"cat": 6, "emu": 6}, {"cat": 1})
    plans = folder.plan(FolderDataset(), data, 0)
    for plan in plans:
        raw = folder.load(plan, FolderDataset())
        if plan.label == "cat" and plan.split == "train":
            assert len(raw.frames) == 1 and not raw.absent
            continue
        assert raw.recording is not None and not raw.frames
        said = "of class 'emu'$" if plan.label == "emu" else "of class 'cat' left for val"
        with pytest.raises(BadMedia, match=f"no picture: none {said}"):
            cut(raw, ClipsConfig())
        assert "frames" in cut(raw, ClipsConfig(require=()))


def test_folder_prefers_full_pictures_where_there_are_enough(tmp_path):
    data = class_folder(tmp_path, {"cat": 6, "dog": 6}, {"cat": 6, "dog": 2})
    for i in range(9):
        picture(data / "images" / "cat" / f"small{i}.png", size=(32, 32))
        picture(data / "images" / "dog" / f"small{i}.png", size=(32, 32))
    used = {"cat": set(), "dog": set()}
    for plan in folder.plan(FolderDataset(pictures_per_sound=4), data, 0):
        used[plan.label] |= {"small" in name for name in plan.details["pictures"]}
    assert used == {"cat": {False}, "dog": {True, False}}


def test_folder_depends_on_the_seed_alone(tmp_path):
    data, settings = class_folder(tmp_path), FolderDataset()
    assert folder.plan(settings, data, 1) == folder.plan(settings, data, 1)
    splits = {tuple(p.split for p in folder.plan(settings, data, seed)) for seed in range(8)}
    assert len(splits) > 1


def test_folder_of_no_known_form_names_the_forms_and_what_is_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.txt").write_text("no medium")
    for data, said in (
        (None, "needs --data"),
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "there: no file"),
        (tmp_path / "flat", "there: 1 .txt"),
    ):
        with pytest.raises(UserError, match=said) as error:
            folder.plan(FolderDataset(), data, 0)
        assert "pairs.csv" in str(error.value) and "labels.csv" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pairs.csv", "audio_id,class\n1,cat\n", r"missing \['audio', 'caption', 'images'\]"),
        ("pairs.csv", "audio_id,class,audio,images,caption\n", "no row"),
        ("pairs.csv", b"audio_id\xff\xfe\x00", "UTF-8"),
        ("labels.csv", "file,label,caption\na.txt,cat,a cat\n", "not read: 1 no medium: .txt"),
    ],
)
def test_folder_refuses_a_wrong_table(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        folder.plan(FolderDataset(), tmp_path, 0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match="leave nothing to train on"):
        FolderDataset(val_share=0.5, test_share=0.5)


def test_folder_draws_another_picture_for_one_that_is_cut_off(tmp_path):
    data = class_folder(tmp_path, {"cat": 6}, {"cat": 8})
    plans = folder.plan(FolderDataset(val_share=0.2), data, 0)
    asked = next(p for p in plans if p.split == "train")
    victim = Path(asked.details["pictures"][1])
    victim.write_bytes(victim.read_bytes()[:60])
    assert asked.details["spare"] and not set(asked.details["spare"]) & set(
        asked.details["pictures"]
    )
    raw = folder.load(asked, FolderDataset())
    assert len(raw.frames) == 4
    assert [victim.name in reason for reason in raw.left_out] == [True]
    stand_in = np.asarray(Image.open(asked.details["spare"][0]))
    assert (raw.frames[3] == stand_in).all()
    for path in (data / "images" / "cat").iterdir():
        path.write_bytes(b"")
    raw = folder.load(asked, FolderDataset())
    with pytest.raises(BadMedia, match="no picture: none of class 'cat' can be read, .*0 bytes"):
        cut(raw, ClipsConfig())


def pairs_of(root: Path, rows: list[tuple[str, str, str]], pictures: dict[str, str]) -> Path:
    """A pairs.csv of (sound, its group, its pictures) and pictures with their groups."""
    pairs = ["audio_id,class,audio,images,caption"]
    metadata = ["id,class,kind,file,recording_group,license_note,quality"]
    for name, group, images in rows:
        tone(root / f"{name}.wav")
        pairs.append(f"{name},cow,{name}.wav,{images},A cow.")
        metadata.append(f"{name},cow,audio,{name}.wav,{group},CC0,ok")
    for name, group in pictures.items():
        picture(root / name)
        metadata.append(f"{name},cow,image,{name},{group},CC0,ok")
    (root / "pairs.csv").write_text("\n".join(pairs))
    (root / "metadata.csv").write_text("\n".join(metadata))
    return root


def test_folder_keeps_pairings_of_which_one_picture_is_shared(tmp_path):
    own = {f"p{i}.png": f"g{i}" for i in range(10)}
    rows = [(f"s{i}", f"r{i}", f"p{i}.png") for i in range(10)]
    rows[4] = ("s4", "r4", "p4.png;p7.png")
    data = pairs_of(tmp_path, rows, own)
    for seed in range(20):
        plans = folder.plan(FolderDataset(val_share=0.3), data, seed)
        drawn = [[Path(n).name for n in p.details["pictures"]] for p in plans]
        assert drawn == [row[2].split(";") for row in rows]
        assert plans[4].video_id == plans[7].video_id and plans[4].split == plans[7].split
        assert len({p.video_id for p in plans}) == 9
        assert {p.split for p in plans} == {"train", "val"}


def test_folder_gives_up_pairings_by_class_and_says_so(tmp_path, capsys):
    plans = folder.plan(FolderDataset(), pairs_folder(tmp_path), 0)
    assert "pictures of cow are paired with so many" in capsys.readouterr().err
    assert {p.split for p in plans} == {"train", "val"}


@pytest.mark.parametrize("paired", [True, False])
def test_folder_never_parts_pictures_and_sounds_of_a_recording_group(tmp_path, paired):
    # Every recording has two sounds and two pictures of one film; only some are paired.
    rows = [(f"s{i}", f"film{i // 2}", f"p{i}.png" if paired and i % 2 else "") for i in range(20)]
    pictures = {f"p{i}.png": f"film{i // 2}" for i in range(20)}
    data = pairs_of(tmp_path, rows, pictures)
    shared = 0
    for seed in range(20):
        plans = folder.plan(FolderDataset(val_share=0.25, test_share=0.2), data, seed)
        splits = {p.clip_id: p.split for p in plans}
        of_film = {rows[i][1]: splits[f"s{i}"] for i in range(20)}
        for p in plans:
            for name in (*p.details["pictures"], *p.details["spare"]):
                assert of_film[pictures[Path(name).name]] == p.split
                shared += 1
        assert set(splits.values()) == {"train", "val", "test"}
    assert shared > 100


@needs_animals
def test_folder_of_the_real_animals():
    plans = folder.plan(FolderDataset(), SHARED / "animals", 0)
    assert sum(bool(p.details["is_video"]) for p in plans) == 1
    found = pictures_by_split(plans)
    assert found["train"] and found["val"] and not found["train"] & found["val"]
    groups: dict[str, set[str]] = {}
    for plan in plans:
        groups.setdefault(plan.video_id, set()).add(plan.split)
    assert all(len(splits) == 1 for splits in groups.values())
    film = next(p for p in plans if p.details["is_video"])
    path = folder.load(film, FolderDataset()).recording
    raw = read_window(path, ClipsConfig(window_seconds=11))
    assert abs(raw.seconds - 10) < 0.1 and np.abs(raw.sound).max() > 0.1
    assert len(raw.frames) >= 10 and raw.frames[0].shape == (180, 320, 3)
