"""A stage's folder: complete or not used, made again when what it was made from changed."""

from pathlib import Path

import numpy as np
import pytest

from nano4m.errors import UserError
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
