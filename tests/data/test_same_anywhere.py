"""One folder at several addresses: every form of folder and list gives the same splits and clips.

Copied with other times, linked, reached by a relative path and from inside: names relative to the
folder decide, and the seed.
"""

import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_build import config
from test_folder_forms import splits_folder
from test_folder_lists import PATHS
from test_relative_paths import facts

from media_files import picture, tone, video
from nano4m.config.datasets import FolderDataset
from nano4m.data import build as clips
from nano4m.data.sources import folder
from nano4m.data.sources.folder_lists import GROUP_COLUMNS

CLIPS = 18
SPLITS = ("train", "train", "train", "val", "dev", "Test")


def media(root: Path, name: str, i: int) -> None:
    tone(root / f"{name}.wav", 0.06, hertz=200 + 20 * i)
    picture(root / f"{name}.png", (12 * i, 90, 10), size=(16, 16))


def listed(root: Path, table: str, columns: str = "", cells=lambda i: (), path=PATHS["plain"]):
    """Write a list of two classes; ``cells`` are those of the further columns of a row."""
    head = "file,label,caption" if table == "labels.csv" else "audio_id,class,audio,images,caption"
    rows = [head + columns]
    for i in range(CLIPS):
        name, label = f"media/{i % 2}/s{i}", ("cat", "dog")[i % 2]
        media(root, name, i)
        sound, image = (path(root, f"{name}{end}") for end in (".wav", ".png"))
        own = [sound, label, f"number {i}"]
        if table == "pairs.csv":
            own = [f"id{i}", label, sound, image, f"number {i}"]
        rows.append(",".join([*own, *cells(i)]))
    (root / table).write_text("\n".join(rows))
    return root


def with_metadata(root: Path, column: str, cell) -> Path:
    listed(root, "pairs.csv")
    rows = [f"file,license_note,{column}"]
    rows += [f"media/{i % 2}/s{i}.wav,CC0,{cell(i)}" for i in range(CLIPS)]
    (root / "metadata.csv").write_text("\n".join(rows))
    return root


def by_names(root: Path, name: str) -> Path:
    for i in range(CLIPS):
        for label in ("cat", "dog"):
            at = root / "audio" / label / (name.format(group=i // 3, start=10 * (i % 3)) + ".wav")
            tone(at, 0.06, hertz=200 + 20 * i)
            picture(root / "images" / label / f"p{i}.png", (12 * i, 90, 10), size=(16, 16))
    return root


def films(root: Path) -> Path:
    for i in range(6):
        video(root / "video" / "cat" / f"f{i}.mp4", 0.3)
    return root


def group(i: int) -> str:
    """Return the group of a row: three rows of one class."""
    return f"g{i // 6}-{i % 2}"


FORMS = {
    "split folders": (splits_folder, {}),
    "splits under media folders": (lambda root: splits_folder(root, "{kind}/{split}"), {}),
    "media folders under splits": (lambda root: splits_folder(root, "{split}/{kind}"), {}),
    "one folder above": (lambda root: splits_folder(root / "data-main", "{split}"), {}),
    "train and test": (
        lambda root: splits_folder(root, names=("train", "test", "TEST")),
        {"val_share": 0.3},
    ),
    "names of video ids": (lambda root: by_names(root, "aB3dE6gH9_{group:x}_{start:06d}"), {}),
    "numbered names": (lambda root: by_names(root, "farm{group}-{start:03d}"), {}),
    "films": (films, {}),
    **{
        f"{table} with {column}": (
            lambda root, table=table, column=column: listed(
                root, table, f",{column}", lambda i: [group(i)]
            ),
            {},
        )
        for table in ("labels.csv", "pairs.csv")
        for column in (*GROUP_COLUMNS, "herd")
    },
    **{
        f"{table} with split": (
            lambda root, table=table: listed(root, table, ",split", lambda i: [SPLITS[i // 3]]),
            {},
        )
        for table in ("labels.csv", "pairs.csv")
    },
    **{
        f"{table} with split and group": (
            lambda root, table=table: listed(
                root, table, ",split,group", lambda i: [SPLITS[i // 6], group(i)]
            ),
            {},
        )
        for table in ("labels.csv", "pairs.csv")
    },
    "metadata.csv with group": (lambda root: with_metadata(root, "recording_group", group), {}),
    "metadata.csv with split": (
        lambda root: with_metadata(root, "fold", lambda i: SPLITS[i // 3]),
        {"split_column": "fold"},
    ),
    **{
        f"{table} with {spelling} paths": (
            lambda root, table=table, spelling=spelling: listed(
                root, table, ",group", lambda i: [group(i)], PATHS[spelling]
            ),
            {},
        )
        for table in ("labels.csv", "pairs.csv")
        for spelling in ("dotslash", "absolute", "backslashes")
    },
}


def settings_of(form: str) -> FolderDataset:
    more = {"group_by": "herd"} if form.endswith("with herd") else {}
    return FolderDataset(**{"val_share": 0.25, "pictures_per_sound": 2} | FORMS[form][1] | more)


def places(first: Path, tmp_path: Path) -> dict[str, Path]:
    """Return the same folder as a copy with other times, as a link, and below one."""
    second = tmp_path / "~ another disk" / "deep" / "er"
    shutil.copytree(first, second, copy_function=shutil.copy)
    for path in second.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))
    linked = tmp_path / "Link"
    linked.symlink_to(first)
    files = tmp_path / "linked files"
    shutil.copytree(first, files, copy_function=lambda a, b: os.symlink(a, b))
    for name in ("labels.csv", "pairs.csv", "metadata.csv"):
        if (first / name).exists():
            (files / name).unlink()
            shutil.copy(first / name, files / name)
    return {"copy": second, "link": linked, "linked files": files}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_plan_wherever_it_lies(tmp_path, form, monkeypatch):
    make, settings = FORMS[form][0], settings_of(form)
    first = make(tmp_path / "here")
    others = places(first, tmp_path)
    for seed in range(3):
        plans = folder.plan(settings, first, seed)
        expected = facts(plans, first)
        assert str(tmp_path) not in expected
        for place, data in others.items():
            assert facts(folder.plan(settings, data, seed), data) == expected, place
        monkeypatch.chdir(others["copy"])
        assert facts(folder.plan(settings, Path("."), seed), Path()) == expected
        splits = Counter(plan.split for plan in plans if not plan.reason)
        assert splits["train"] and splits["val"]
        # No recording in two splits, whatever says what one is.
        where: dict[str, set[str]] = defaultdict(set)
        for plan in plans:
            if not plan.reason:
                where[plan.video_id].add(plan.split)
        assert all(len(own) == 1 for own in where.values())
        if "group" in form or any(form.endswith(column) for column in (*GROUP_COLUMNS, "herd")):
            assert {len(own) for own in _members(plans).values()} == {3}


def _members(plans) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for plan in plans:
        found[plan.group or plan.video_id].append(plan.clip_id)
    return found


def test_a_list_of_another_place_means_the_files_here_and_no_others(tmp_path):
    """The folder was copied with its list; of one path another file is meant."""
    first = listed(tmp_path / "here", "pairs.csv", path=PATHS["absolute"])
    second = tmp_path / "there"
    shutil.copytree(first, second)
    for gone in (False, True):
        if gone:
            shutil.rmtree(first)
        plans = folder.plan(FolderDataset(), second, 0)
        files = [Path(str(p.details["file"])) for p in plans]
        assert all(second in file.parents for file in files) and len(plans) == CLIPS
    text = (second / "pairs.csv").read_text().replace(f"{first}", "C:\\Users\\me\\data")
    (second / "pairs.csv").write_text(text.replace("/", "\\"))
    windows = folder.plan(FolderDataset(), second, 0)
    assert [(p.clip_id, p.split) for p in windows] == [(p.clip_id, p.split) for p in plans]
    # A file elsewhere that is another one is that one.
    other = tone(tmp_path / "other" / "media" / "0" / "s0.wav", 0.5)
    shutil.copytree(second, tmp_path / "third")
    text = (tmp_path / "third" / "pairs.csv").read_text()
    line = next(row for row in text.splitlines() if row.startswith("id0,"))
    mixed = line.replace(line.split(",")[2], str(other))
    (tmp_path / "third" / "pairs.csv").write_text(text.replace(line, mixed))
    plans = folder.plan(FolderDataset(), tmp_path / "third", 0)
    assert next(p for p in plans if p.clip_id == "id0").details["file"] == str(other)


@pytest.mark.parametrize(
    "form", ["split folders", "labels.csv with group", "metadata.csv with group"]
)
def test_the_clips_of_two_places_are_the_same_to_the_last_bit(tmp_path, form):
    """So are all later figures, which depend on the table alone."""
    first = FORMS[form][0](tmp_path / "here")
    asked = config(window_seconds=0.2, require=()).model_copy(update={"dataset": settings_of(form)})
    rows, counts = [], []
    for place, data in {"here": first, **places(first, tmp_path)}.items():
        out = tmp_path / "out" / place
        counts.append(json.dumps(clips.build_clips(asked, data, out)))
        tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
        rows.append([table.to_pylist() for table in tables])
    assert all(own == rows[0] for own in rows) and len(set(counts)) == 1
