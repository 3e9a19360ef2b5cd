"""Data that changed since the clips were cut: what is advised, overwritten, and read of before."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_source_data import a_run, again, change_byte, touch, train

from media_files import tone
from nano4m.data import build
from nano4m.data.sources import file_record
from nano4m.data.sources.listing import list_files
from nano4m.errors import UserError
from nano4m.pipeline.run import run_one_stage
from nano4m.pipeline.source_data import remembered_data
from nano4m.stage import manifest_of
from nano4m.storage.json_files import write_json

# -- what is advised ---------------------------------------------------------------------------


def test_nothing_advises_to_delete_a_training_and_leaving_data_out_goes_on(tmp_path, capsys):
    run = a_run(tmp_path)
    first = again(run)
    tone(run.data / "cat" / "late.wav", hertz=3000)
    with pytest.raises(UserError, match=r"or add --overwrite \(nothing is trained yet\)"):
        again(run)
    made = train(run)
    with pytest.raises(UserError) as error:
        again(run)
    assert "--overwrite" not in str(error.value) and "choose another --out" in str(error.value)
    assert "leave --data out" in str(error.value)
    capsys.readouterr()
    assert again(run, is_data_given=False) == first
    said = capsys.readouterr().err.replace("\n", " ")
    assert "1 file is new (cat/late.wav)" in said and "goes on with its clips" in said
    assert (made / "step-100").read_text() == "hours of work"
    again(run, out=tmp_path / "another")
    assert manifest_of(tmp_path / "another", "clips")["summary"]["clips"] == 21


def test_an_unfinished_table_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    run, made = a_run(tmp_path), build.write_manifest
    monkeypatch.setattr(build, "write_manifest", lambda out: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        again(run)
    monkeypatch.setattr(build, "write_manifest", made)
    change_byte(run.data / "cat" / "3.wav")
    for is_given in (True, False):
        with pytest.raises(UserError, match=r"Not all clips are cut.*bring the files of before"):
            again(run, is_data_given=is_given)
    change_byte(run.data / "cat" / "3.wav")
    again(run)


def test_overwrite_makes_clips_of_the_data_of_now(tmp_path):
    run = a_run(tmp_path)
    again(run)
    tone(run.data / "cat" / "late.wav", hertz=3000)
    run_one_stage(dataclasses.replace(run), "clips", overwrite=True)
    assert manifest_of(run.out, "clips")["summary"]["clips"] == 21
    assert again(run) == manifest_of(run.out, "clips")


def test_another_configuration_advises_no_overwrite_where_a_training_would_go(tmp_path):
    run = a_run(tmp_path)
    again(run)
    other = run.config.model_copy(
        update={"clips": run.config.clips.model_copy(update={"frames": 2})}
    )
    with pytest.raises(UserError, match="or add --overwrite to replace it"):
        again(run, config=other)
    train(run)
    with pytest.raises(UserError) as error:
        again(run, config=other)
    assert "add --overwrite" not in str(error.value)
    assert "--overwrite would replace the training" in str(error.value)
    assert "clips.frames" in str(error.value)


# -- tables of before, and damage --------------------------------------------------------------


def test_a_table_without_a_record_is_compared_by_times(tmp_path):
    run = a_run(tmp_path)
    first = again(run)
    (run.out / "clips" / file_record.RECORD).unlink()
    run.data.rename(tmp_path / "moved")
    moved = dataclasses.replace(run, data=tmp_path / "moved")
    assert again(moved) == first
    touch(moved.data)
    with pytest.raises(UserError, match="contents cannot be compared, as these clips are of an"):
        again(moved)
    assert again(moved, is_data_given=False) == first
    tone(moved.data / "cat" / "late.wav")
    with pytest.raises(UserError, match="there are 41 files, and there were 40"):
        again(moved)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]\n", b'{"format": 99}\n'])
def test_a_record_that_cannot_be_read_is_none(tmp_path, content):
    run = a_run(tmp_path)
    first = again(run)
    (run.out / "clips" / file_record.RECORD).write_bytes(content)
    assert again(run) == first
    assert remembered_data(run.out) == run.data.resolve()


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    run = a_run(tmp_path)
    again(run)
    path = run.out / "clips" / file_record.RECORD
    before = file_record.read_record(path.parent)
    with path.open("a") as file:
        file.write('["cat/1.wav", 12')
    assert file_record.read_record(path.parent) == before
    assert all(file.content for file in before.files.values())


def test_data_that_are_gone_do_not_spoil_what_was_made_of_them(tmp_path):
    run = a_run(tmp_path)
    first = again(run)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert again(run, is_data_given=False) == first and again(run) == first
    with pytest.raises(UserError, match="nowhere is not a folder"):
        again(run, data=tmp_path / "nowhere")
    assert again(run, data=tmp_path / "elsewhere") == first


def test_what_is_no_data_is_not_noticed(tmp_path):
    run = a_run(tmp_path)
    before = list_files(run.data, run.data / "run")
    (run.data / "run").mkdir()
    tone(run.data / "run" / "inside.wav")
    (run.data / "notes.txt").write_text("x")
    tone(run.data / ".hidden" / "a.wav")
    assert list_files(run.data, run.data / "run") == before


def test_a_run_remembers_its_data(tmp_path):
    assert remembered_data(tmp_path) is None
    (tmp_path / "clips").mkdir()
    write_json(tmp_path / "clips" / "settings.json", {"data": "recordings"})
    assert remembered_data(tmp_path) == Path("recordings")
    header = json.dumps({"format": 1, "data": "/moved"})
    (tmp_path / "clips" / file_record.RECORD).write_text(f"{header}\n")
    assert remembered_data(tmp_path) == Path("/moved")
