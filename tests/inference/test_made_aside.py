"""Files of ``generate`` are made aside: those of an earlier call stay until there are new ones."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from nano4m.errors import UserError
from nano4m.inference import outputs
from nano4m.inference.outputs import ASIDE, RECORD_FILE, made_aside, prepare_folder, write_record


def call(folder: Path, names: list[str], content: str) -> None:
    """Make files as a call of the command does."""
    with made_aside(folder) as aside:
        for name in names:
            (aside / name).write_text(content)
        write_record(aside, {"seed": 0}, names)


def contents(folder: Path) -> dict[str, str]:
    """Return name -> content of all files but the record."""
    return {p.name: p.read_text() for p in folder.iterdir() if p.name != RECORD_FILE}


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of a call, and one of the user."""
    call(tmp_path, ["a.png", "b.png"], "old")
    (tmp_path / "mine.txt").write_text("mine")
    return tmp_path


def test_new_files_take_the_place_of_old_ones_and_mine_stay(folder):
    call(folder, ["b.png", "c.png"], "new")
    assert contents(folder) == {"b.png": "new", "c.png": "new", "mine.txt": "mine"}


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_call_that_fails_changes_nothing(folder, error):
    before = contents(folder), (folder / RECORD_FILE).read_bytes()
    with pytest.raises((UserError, KeyboardInterrupt)), made_aside(folder) as aside:
        (aside / "b.png").write_text("half")
        raise error
    assert (contents(folder), (folder / RECORD_FILE).read_bytes()) == before


@pytest.mark.parametrize("number", range(5))
def test_after_a_death_while_files_are_moved_the_next_call_leaves_only_its_own(
    folder, monkeypatch, number
):
    class Killed(BaseException):
        pass

    real, left = os.replace, [number]

    def replace(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(source, target)

    with monkeypatch.context() as dying:
        dying.setattr(outputs.os, "replace", replace)
        dying.setattr(outputs, "drop", lambda path: None)  # as nothing runs after a death
        with pytest.raises(Killed) if number < 4 else nullcontext():
            call(folder, ["b.png", "c.png"], "new")
    call(folder, ["d.png"], "newest")
    assert contents(folder) == {"d.png": "newest", "mine.txt": "mine"}


def test_a_folder_with_a_lock_or_leftovers_alone_is_empty(tmp_path):
    (tmp_path / ASIDE).mkdir()
    prepare_folder(tmp_path, overwrite=False)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        prepare_folder(tmp_path, overwrite=False)


@pytest.mark.parametrize("record", ["", "[]", '{"files": 3}', '{"files": ["../x", "a.png"]}'])
def test_a_record_of_anything_never_reaches_outside(tmp_path, record):
    (tmp_path / "x").write_text("mine")
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / RECORD_FILE).write_text(record)
    call(folder, ["b.png"], "new")
    assert (tmp_path / "x").read_text() == "mine" and contents(folder) == {"b.png": "new"}
