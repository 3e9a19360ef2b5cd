"""Lists as people write them: paths, empty rows, commas, columns of splits; what is refused."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from test_folder_forms import needs_odd, odd

from media_files import picture, tone
from nano4m.config.datasets import FolderDataset
from nano4m.data.sources import folder
from nano4m.data.sources.folder_layouts import find_contents
from nano4m.errors import UserError

HEADER = "audio_id,class,audio,images,caption"
PATHS = {
    "plain": lambda root, name: name,
    "dotslash": lambda root, name: f"./{name}",
    "absolute": lambda root, name: f"{root}/{name}",
    "backslashes": lambda root, name: name.replace("/", "\\"),
    "roundabout": lambda root, name: f"audio/../{name}",
}


def pairs_folder(root: Path, path) -> Path:
    rows, more = [HEADER, "", ",,,,"], ["id,class,kind,file,recording_group,license_note", ",,,,,"]
    for i in range(12):
        tone(root / f"audio/cow/s{i}.wav", 0.05, hertz=200 + 9 * i)
        picture(root / f"images/cow/p{i}.png", (9 * i, 4, 4))
        images = path(root, f"images/cow/p{i}.png")
        rows.append(f'id{i},cow,{path(root, f"audio/cow/s{i}.wav")},{images}, "a cow, {i}",,')
        more.append(f"id{i},cow,audio,audio/cow/s{i}.wav,farm{i % 4},CC0")
    more.append("x,cow,audio,audio/cow/nowhere.wav,farm9,CC0")
    (root / "pairs.csv").write_text("\r\n".join([*rows, ",,,,,,,", ""]))
    (root / "metadata.csv").write_text("\n".join(more))
    return root


@pytest.mark.parametrize("spelling", PATHS)
def test_paths_are_compared_as_paths_wherever_the_folder_lies(tmp_path, spelling, capsys):
    found = []
    for at in ("here", "far/away"):
        data = pairs_folder(tmp_path / at / "data", PATHS[spelling])
        for seed in range(3):
            plans = folder.plan(FolderDataset(val_share=0.3), data, seed)
            assert {p.video_id for p in plans} == {f"farm{i}" for i in range(4)}
            assert {p.licence for p in plans} == {"CC0"} and {p.split for p in plans} == {
                "train", "val",
            }  # fmt: skip
            assert [p.caption for p in plans] == [f"a cow, {i}" for i in range(12)]
            assert [Path(p.details["pictures"][0]).stem for p in plans] == [
                f"p{i}" for i in range(12)
            ]
            found.append([(p.clip_id, p.video_id, p.split) for p in plans])
    assert found[:3] == found[3:]
    plain = pairs_folder(tmp_path / "plain", PATHS["plain"])
    first = folder.plan(FolderDataset(val_share=0.3), plain, 0)
    assert [(p.clip_id, p.video_id, p.split) for p in first] == found[0]
    (tmp_path / "link").symlink_to(data)
    linked = folder.plan(FolderDataset(val_share=0.3), tmp_path / "link", 0)
    assert [(p.clip_id, p.video_id, p.split) for p in linked] == found[0]
    assert "1 rows of metadata.csv name a file that pairs.csv does not" in capsys.readouterr().err


def test_more_cells_than_the_header_are_refused_with_file_and_line(tmp_path):
    data = pairs_folder(tmp_path, PATHS["plain"])
    with (data / "pairs.csv").open("a") as file:
        file.write('\nid99,cow,audio/cow/s1.wav,,"two\nlines"\nid98,cow,a.wav,,one, two, three\n')
    with pytest.raises(UserError, match=r'pairs.csv, line 20: 7 cells.*quotes: "one, two, three"'):
        find_contents(data)


def with_splits(root: Path, values: list[str], name: str = "labels.csv", column="split") -> Path:
    rows = []
    for i, value in enumerate(values):
        tone(root / f"s{i}.wav", 0.05, hertz=200 + 9 * i)
        rows.append(
            f"s{i}.wav,cat,a,{value}" if name == "labels.csv" else f"{i},cat,s{i}.wav,,a,{value}"
        )
    start = "file,label,caption" if name == "labels.csv" else HEADER
    (root / name).write_text("\n".join([f"{start},{column}", *rows]))
    return root


@pytest.mark.parametrize("name", ["labels.csv", "pairs.csv"])
def test_a_column_gives_the_splits(tmp_path, name):
    values = ["train"] * 6 + ["val", "valid", "dev", "Test"]
    data = with_splits(tmp_path, values, name)
    plans = folder.plan(FolderDataset(), data, 0)
    assert [p.split for p in plans] == ["train"] * 6 + ["val"] * 3 + ["test"]
    off = folder.plan(FolderDataset(split_column="off"), data, 0)
    assert Counter(p.split for p in off)["test"] == 0
    other = with_splits(tmp_path, values, name, "part")
    assert [p.split for p in folder.plan(FolderDataset(split_column="part"), other, 0)] == [
        p.split for p in plans
    ]
    with pytest.raises(UserError, match="no such column"):
        folder.plan(FolderDataset(split_column="fold"), other, 0)
    with pytest.raises(UserError, match=r"line 4: split is 'fold3'; allowed: train, val"):
        folder.plan(FolderDataset(), with_splits(tmp_path, ["train", "val", "fold3"], name), 0)


def test_a_column_of_one_value_is_no_split_and_that_of_the_metadata_needs_its_option(
    tmp_path, capsys
):
    plans = folder.plan(FolderDataset(), with_splits(tmp_path / "a", ["train"] * 8), 0)
    assert {p.split for p in plans} == {"train", "val"}
    assert "says 'train' in every row, which is no split" in capsys.readouterr().err
    data = with_splits(tmp_path / "b", ["x"] * 8, "pairs.csv", "note")
    rows = [f"s{i}.wav,{('train', 'test')[i % 2]}" for i in range(8)]
    (data / "metadata.csv").write_text("\n".join(["file,split", *rows]))
    assert {p.split for p in folder.plan(FolderDataset(), data, 0)} == {"train", "val"}
    asked = folder.plan(FolderDataset(split_column="split", val_share=0.0), data, 0)
    assert [p.split for p in asked] == ["train", "test"] * 4


def test_classes_of_a_list_in_several_spellings_are_one_and_said(tmp_path, capsys):
    data = with_splits(tmp_path, ["train"] * 4)
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("s1.wav,cat", "s1.wav,Cat"))
    assert {r.label for r in find_contents(data).recordings} == {"cat"}
    assert "'Cat', 'cat' as cat" in capsys.readouterr().err


# -- the lists of ../shared --------------------------------------------------------------------


@needs_odd
@pytest.mark.parametrize(
    "case",
    [
        "pairs:pairs_dotslash.csv:metadata_groups.csv",
        "pairs:excel_six_trailing.csv",
        "pairs:excel_trailing.csv",
        "pairs:one_trailing_min1.csv",
        "pairs:space_after_comma_rows.csv",
        "pairs:backslashes.csv",
    ],
)
def test_odd_lists_are_read(tmp_path, case):
    data = odd(case, tmp_path / "data")
    plans = folder.plan(FolderDataset(), data, 0)
    assert Counter(p.label for p in plans) == {"cat": 6, "cow": 6, "dog": 6}
    if "metadata" in case:
        shutil.copy(data.parents[0] / "data" / "pairs.csv", tmp_path / "dotslash.csv")
        plain = odd(case.replace("dotslash", "plain"), tmp_path / "plain")
        expected = folder.plan(FolderDataset(), plain, 0)
        facts = [[(p.clip_id, p.video_id, p.split) for p in own] for own in (plans, expected)]
        assert facts[0] == facts[1] and len({p.video_id for p in plans}) == 9
    else:
        assert {p.caption for p in plans} == {"A dog calls, then it is quiet, and a car passes"} | {
            f"A {label} calls, then it is quiet, and a car passes" for label in ("cat", "cow")
        }


@needs_odd
@pytest.mark.parametrize(("name", "line"), [("unquoted_commas", 2), ("one_unquoted", 19)])
def test_odd_unquoted_commas_are_refused(tmp_path, name, line):
    with pytest.raises(UserError, match=f"pairs.csv, line {line}: 7 cells"):
        find_contents(odd(f"pairs:{name}.csv", tmp_path / "data"))
