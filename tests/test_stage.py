"""A stage's folder: complete or not used, made again when what it was made from changed."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from media_files import picture, tone
from nano4m.config.clips import ClipsConfig
from nano4m.config.presets import PRESETS
from nano4m.data.sources.listing import list_files
from nano4m.errors import UserError
from nano4m.pipeline.run import run_one_stage
from nano4m.pipeline.stages import Run, remembered_data, settings_of
from nano4m.stage import digest, manifest_of, run_stage


class Work:
    """Counts its calls and writes an array."""

    def __init__(self, value: int = 0) -> None:
        self.calls, self.value = 0, value

    def __call__(self, folder: Path) -> dict:
        self.calls += 1
        np.savez(folder / "made.npz", value=np.array(self.value))
        return {"value": self.value}


def test_a_finished_stage_is_not_run_again(tmp_path):
    work = Work()
    first = run_stage(tmp_path, "clips", {"seed": 1}, {}, work)
    second = run_stage(tmp_path, "clips", {"seed": 1}, {}, work)
    assert work.calls == 1 and first == second == manifest_of(tmp_path, "clips")


def test_an_unfinished_stage_keeps_what_it_has(tmp_path):
    def stopped(folder: Path) -> dict:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "train", {}, {}, stopped)
    assert manifest_of(tmp_path, "train") is None
    run_stage(tmp_path, "train", {}, {}, Work())
    assert (tmp_path / "train" / "part").read_text() == "half"


def test_other_settings_are_refused_and_other_inputs_make_it_again(tmp_path, capsys):
    work = Work()
    run_stage(tmp_path, "table", {"seed": 1}, {"clips": "aaa"}, work)
    with pytest.raises(UserError, match="seed: 1 there, 2 now"):
        run_stage(tmp_path, "table", {"seed": 2}, {"clips": "aaa"}, work)
    (tmp_path / "table" / "old").write_text("of other clips")
    run_stage(tmp_path, "table", {"seed": 1}, {"clips": "bbb"}, work)
    assert work.calls == 2 and not (tmp_path / "table" / "old").exists()
    assert "made again" in capsys.readouterr().err


def test_the_digest_is_of_what_was_made(tmp_path):
    digests = []
    for run, value in (("a", 1), ("b", 1), ("c", 2)):
        digests.append(run_stage(tmp_path / run, "x", {"run": run}, {}, Work(value))["digest"])
        (tmp_path / run / "x" / "log.txt").write_text(run)
        assert digest(tmp_path / run / "x") == digests[-1]
    assert digests[0] == digests[1] != digests[2]


def test_a_run_remembers_its_data(tmp_path):
    assert remembered_data(tmp_path) is None
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "settings.json").write_text(json.dumps({"data": "recordings"}))
    assert remembered_data(tmp_path) == Path("recordings")


# -- the data of a run -------------------------------------------------------------------------


def animals(tmp_path: Path) -> Run:
    """A run on a small folder, two classes of ten recordings."""
    for k, label in enumerate(("cat", "dog")):
        for number in range(10):
            tone(tmp_path / "data" / label / f"{number}.wav", hertz=200 + 90 * number + 45 * k)
            picture(tmp_path / "data" / label / f"{number}.png", (20 * number, 90 * k, 9))
    small = ClipsConfig(window_seconds=0.25, picture_size=16, workers=0)
    config = PRESETS["animals"].model_copy(update={"clips": small})
    return Run(config, tmp_path / "data" / "run", tmp_path / "data")


def test_files_that_are_added_to_the_data_are_noticed(tmp_path, capsys):
    run = animals(tmp_path)
    run_one_stage(run, "clips")
    again = dataclasses.replace(run)
    run_one_stage(again, "clips")
    assert "clips: up to date" in capsys.readouterr().err
    tone(run.data / "cat" / "late.wav", hertz=3000)
    with pytest.raises(UserError, match=r"data_files.files: 40 there, 41 now"):
        run_one_stage(dataclasses.replace(run), "clips")
    run_one_stage(dataclasses.replace(run), "clips", overwrite=True)
    assert manifest_of(run.out, "clips")["summary"]["clips"] == 21


@pytest.mark.parametrize("change", ["grown", "touched", "removed", "renamed"])
def test_a_changed_file_is_noticed(tmp_path, change):
    run = animals(tmp_path)
    before, file = settings_of(run, "clips"), run.data / "dog" / "3.png"
    if change == "grown":
        stamp = file.stat()
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif change == "touched":
        os.utime(file, ns=(1, 1))
    elif change == "removed":
        file.unlink()
    else:
        file.rename(file.with_name("other.png"))
    assert settings_of(dataclasses.replace(run), "clips") != before


def test_what_is_no_data_is_not_noticed_nor_where_the_folder_lies(tmp_path):
    run = animals(tmp_path)
    before = settings_of(run, "clips")["data_files"]
    run.out.mkdir()
    tone(run.out / "inside.wav")
    (run.data / "notes.txt").write_text("x")
    tone(run.data / ".hidden" / "a.wav")
    assert settings_of(dataclasses.replace(run), "clips")["data_files"] == before
    (tmp_path / "data" / "run" / "inside.wav").unlink()
    (tmp_path / "data").rename(tmp_path / "moved")
    assert list_files(tmp_path / "moved") == before


def test_data_that_are_gone_do_not_spoil_what_was_made_of_them(tmp_path):
    run = animals(tmp_path)
    run = dataclasses.replace(run, out=tmp_path / "run")
    run_one_stage(run, "clips")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert settings_of(dataclasses.replace(run), "clips") == settings_of(run, "clips")
