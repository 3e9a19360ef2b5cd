"""Files and folders are there whole or not at all, whichever call the process dies in."""

import os
from pathlib import Path

import pytest

from nano4m.storage import files
from nano4m.storage.files import exchange, recover, whole_file, whole_folder, write_text


class Killed(BaseException):
    """Stands for the end of a process: no handler of the code under test may need to run."""


def dies_at(monkeypatch, number: int) -> None:
    """Let the process die at the ``number``-th call that changes names or removes something."""
    left = [number]

    def counted(real):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(files.os, "replace", counted(os.replace))
    monkeypatch.setattr(files.shutil, "rmtree", counted(files.shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))


def test_a_file_is_written_whole_and_brought_to_the_disk(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    write_text(tmp_path / "a.txt", "caf\u00e9\n")
    assert (tmp_path / "a.txt").read_bytes() == "caf\u00e9\n".encode()
    assert len(synced) == 2, "the content, and the folder that has the name"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_file_of_before_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", range(6))
def test_a_folder_is_the_old_or_the_new_one_after_any_death(tmp_path, monkeypatch, number):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text("old")
    with monkeypatch.context() as dying:
        dies_at(dying, number)
        try:
            with whole_folder(folder) as part:
                for name in ("a", "b"):
                    (part / name).write_text("new")
        except Killed:
            pass
    recover(folder)
    found = {path.name: path.read_text() for path in folder.iterdir()}
    assert found in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
    # The next replacement removes what was left.
    with whole_folder(folder) as part:
        (part / "a").write_text("newest")
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    assert (folder / "a").read_text() == "newest"


def test_a_block_that_fails_is_not_exchanged(tmp_path):
    folder = tmp_path / "model"
    with whole_folder(folder) as part:
        (part / "a").write_text("old")
    with pytest.raises(ValueError), whole_folder(folder) as part:
        (part / "a").write_text("new")
        raise ValueError
    assert (folder / "a").read_text() == "old" and os.listdir(tmp_path) == ["model"]


def test_a_link_is_exchanged_and_its_target_stays(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a").write_text("mine")
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    (tmp_path / "part").mkdir()
    exchange(tmp_path / "part", tmp_path / "model")
    assert (tmp_path / "disk" / "a").read_text() == "mine"
    assert not (tmp_path / "model").is_symlink() and not list((tmp_path / "model").iterdir())
