"""Where a folder lies decides nothing: ids, groups, splits, captions and pairings are the same."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from test_folder_source import class_folder, pairs_folder, pairs_of
from test_sources import digit_folder

from media_files import tone
from nano4m.config.datasets import DigitsDataset, FolderDataset
from nano4m.data.sources import digits, folder


def labels_folder(root: Path) -> Path:
    rows = ["file,label,caption"]
    for i in range(12):
        tone(root / "sounds" / f"s{i}.wav", hertz=300 + 10 * i)
        rows.append(f"{'./' * (i % 2)}sounds/s{i}.wav,{('cat', 'dog')[i % 2]},number {i}")
    (root / "labels.csv").write_text("\n".join(rows))
    class_folder(root / "more", {"cat": 1})
    shutil.move(root / "more" / "images", root / "images")
    return root


def bare_pairs(root: Path) -> Path:
    """A pairs.csv without a metadata.csv, so that groups are names of files; one is damaged."""
    own = {f"p{i}.png": "" for i in range(10)}
    rows = [(f"s{i}", "", f"{'./' * (i % 2)}p{i}.png") for i in range(10)]
    rows[4] = ("s4", "", "p4.png;p7.png")
    pairs_of(root, rows, own)
    (root / "metadata.csv").unlink()
    (root / "p2.png").write_bytes(b"no picture")
    return root


FOLDERS = {
    "classes": (class_folder, folder, FolderDataset(test_share=0.2)),
    "pairs": (lambda root: pairs_folder(root, "abcdef", own=True), folder, FolderDataset()),
    "pairs without groups": (bare_pairs, folder, FolderDataset(val_share=0.3)),
    "labels": (labels_folder, folder, FolderDataset()),
    "digits": (digit_folder, digits, DigitsDataset()),
}


def facts(plans, data: Path) -> str:
    """All that a plan says; locations of files, which loading needs, from the data on."""
    start = f"{data.as_posix()}/" if data != Path() else ""
    text = json.dumps([dataclasses.asdict(plan) for plan in plans])
    return text.replace(f'"{start}', '"') if start else text


@pytest.mark.parametrize("form", FOLDERS)
def test_two_copies_of_a_folder_give_the_same_plan(tmp_path, form, monkeypatch):
    make, source, settings = FOLDERS[form]
    first = make(tmp_path / "here")
    second = tmp_path / "~ another place" / "deep" / "er"
    shutil.copytree(first, second)
    linked = tmp_path / "Link"
    linked.symlink_to(first)
    for seed in range(4):
        expected = facts(source.plan(settings, first, seed), first)
        assert str(tmp_path) not in expected
        for other in (second, linked):
            assert facts(source.plan(settings, other, seed), other) == expected
        monkeypatch.chdir(second)
        assert facts(source.plan(settings, Path("."), seed), Path()) == expected
        monkeypatch.chdir(second.parent)
        assert facts(source.plan(settings, Path("er"), seed), Path("er")) == expected


def test_the_location_in_a_group_would_be_noticed(tmp_path, monkeypatch):
    """A planted fault: groups of pictures that are named by their whole path."""
    first = bare_pairs(tmp_path / "here")
    second = tmp_path / "zzz"
    shutil.copytree(first, second)
    named = folder.find_contents

    def with_paths(data, settings):
        contents = named(data, settings)
        whole = [dataclasses.replace(p, group=p.path.as_posix()) for p in contents.pictures]
        return dataclasses.replace(contents, pictures=whole)

    monkeypatch.setattr(folder, "find_contents", with_paths)
    plans = [folder.plan(FolderDataset(), data, 0) for data in (first, second)]
    groups = [{plan.video_id for plan in own} for own in plans]
    assert groups[0] != groups[1]


def test_linked_folders_of_a_class_are_read_and_a_loop_ends(tmp_path):
    data = class_folder(tmp_path / "data")
    elsewhere = tmp_path / "disk" / "cat"
    shutil.move(data / "audio" / "cat", elsewhere)
    plain = folder.plan(FolderDataset(), class_folder(tmp_path / "plain"), 0)
    (data / "audio" / "cat").symlink_to(elsewhere)
    os.symlink(data, data / "audio" / "dog" / "again")
    linked = folder.plan(FolderDataset(), data, 0)
    assert facts(linked, data) == facts(plain, tmp_path / "plain")
