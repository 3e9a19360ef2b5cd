"""Files that no clip reads stand in the manifest of the clips, by reason and class."""

import pytest
from test_build import config

from media_files import picture, tone
from nano4m.config.datasets import FolderDataset
from nano4m.data import build as clips
from nano4m.data.sources import folder
from nano4m.data.sources.folder_layouts import find_contents
from nano4m.errors import UserError


def class_folder(root):
    for label in ("cat", "dog"):
        for i in range(8):
            tone(root / label / f"{i}.wav", 0.3, hertz=300 + 50 * i + 20 * (label == "cat"))
            picture(root / label / f"{i}.png", (9 * i, 90, 20))
    return root


def test_the_manifest_counts_what_is_not_read_by_reason_and_class(tmp_path):
    data = class_folder(tmp_path / "data")
    for name in ("cat/notes.txt", "cat/more.TXT", "dog/a.docx", "dog/bare"):
        (data / name).write_text("no medium")
    (data / "dog" / "broken.png").write_bytes(b"no picture")
    tone(data / "loose.wav")
    for i in range(2):
        tone(data / "emu" / f"{i}.wav")
    counts = clips.build_clips(config(), data, tmp_path / "out")
    assert counts["files_not_read"] == {
        "no medium: .txt": {"cat": 2},
        "a class with fewer than 5, see --dataset.min-per-class": {"emu": 2},
        "a picture that cannot be opened": {"dog": 1},
        "no medium: (none)": {"dog": 1},
        "no medium: .docx": {"dog": 1},
        "not in a class folder": {"": 1},
    }
    assert list(counts["files_not_read"])[-1] == "not in a class folder"
    assert clips.build_clips(config(), data, tmp_path / "out") == counts


def with_list(root, rows):
    for i in range(10):
        tone(root / f"s{i}.wav", 0.3, hertz=300 + 40 * i)
    named = [f"s{i}.wav,cat,a cat" for i in range(10)]
    (root / "labels.csv").write_text("\n".join(["file,label,caption", *named, *rows]))
    return root


def test_a_row_of_an_unknown_ending_is_left_out_by_name_and_the_rest_is_read(tmp_path, capsys):
    rows = ["notes.doc,cat,words", "s3.mid,dog,notes", ",dog,nothing"]
    data = with_list(tmp_path / "data", rows)
    (data / "notes.doc").write_text("words")
    plans = folder.plan(FolderDataset(), data, 0)
    assert {plan.clip_id for plan in plans} == {f"s{i}.wav" for i in range(10)}
    assert plans.unread["no medium: .doc"] == {"cat": 1}
    assert plans.unread["no medium: .mid"] == {"dog": 1}
    said = capsys.readouterr().err.replace("\n", " ")
    assert "3 rows of labels.csv name a file that is no sound, no video and no picture" in said
    assert "notes.doc (line 12), s3.mid (line 13), an empty cell (line 14)" in said
    plain = folder.plan(FolderDataset(), with_list(tmp_path / "plain", []), 0)
    assert [(p.clip_id, p.split) for p in plans] == [(p.clip_id, p.split) for p in plain]


def test_a_list_of_which_nothing_is_left_is_refused(tmp_path):
    (tmp_path / "a.doc").write_text("words")
    (tmp_path / "labels.csv").write_text("file,label,caption\na.doc,cat,words\n")
    with pytest.raises(UserError, match=r"no sound, no video and no picture in .*1 .doc"):
        find_contents(tmp_path)


def test_the_order_of_reasons_is_that_of_their_counts(tmp_path):
    data = class_folder(tmp_path)
    for i in range(3):
        (data / "cat" / f"{i}.xyz").write_text("x")
    (data / "cat" / "0.abc").write_text("x")
    reasons = list(find_contents(data).unread_by_reason())
    assert reasons == ["no medium: .xyz", "no medium: .abc"]
