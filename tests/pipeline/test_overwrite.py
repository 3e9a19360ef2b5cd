"""``--overwrite``: what is replaced is there until the new one is done, and comes back."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from nano4m.config.presets import preset
from nano4m.errors import UserError
from nano4m.pipeline import stages
from nano4m.pipeline.run import run_one_stage, run_pipeline
from nano4m.pipeline.source_data import remembered_data
from nano4m.pipeline.stages import STAGES, Run
from nano4m.stage import manifest_of
from nano4m.storage import replaced
from nano4m.storage.json_files import write_json
from nano4m.storage.replaced import ASIDE, set_aside

NAMES = list(STAGES)


class Fake:
    """Stages that write one small file each, count their calls, and fail where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.begins: set[str] = set()
        for name, stage in STAGES.items():
            work = self._work(name)
            monkeypatch.setitem(STAGES, name, dataclasses.replace(stage, work=work))

    def _work(self, name: str):
        def work(run: Run, folder: Path) -> dict:
            self.calls.append(name)
            if name in self.begins or name not in self.fails:
                (folder / "half").touch()
            if name in self.fails:
                raise self.fails[name]
            content = [name, stages.settings_of(run, name), stages.inputs_of(run, name)]
            # What a result depends on is in it, so that the digest tells results apart.
            (folder / "made.npz").write_text(json.dumps(content, sort_keys=True))
            if name == "evaluate":
                write_json(folder / "results.json", {"steps": run.config.train.steps})
            return {}

        return work

    def taken(self) -> list[str]:
        """Return the stages that worked since the last question."""
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def fake(monkeypatch):
    """Stages that cost nothing."""
    return Fake(monkeypatch)


def a_run(out: Path, **train) -> Run:
    """Return a run of the farm with other training settings."""
    config = preset("farm")
    changed = config.train.model_copy(update=train)
    return Run(config.model_copy(update={"train": changed}), out)


def contents(out: Path) -> dict[str, bytes]:
    """Return what stands in a run but for times."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json",)
    }


def test_a_new_configuration_replaces_the_old_when_it_is_done(tmp_path, fake, capsys):
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == NAMES
    capsys.readouterr()
    run_pipeline(a_run(tmp_path, steps=9), overwrite=True)
    assert fake.taken() == ["train", "evaluate", "report"]
    said = capsys.readouterr().err
    assert "replaces train (made in" in said and "evaluate (made in" in said and " MB)" in said
    assert not (tmp_path / ASIDE).exists()
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 9
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 9


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("stage", ["train", "evaluate", "report"])
def test_a_refused_command_gives_everything_back(tmp_path, fake, stage, begins):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    fake.fails[stage] = UserError("the loss is not finite")
    fake.begins = {stage} if begins else set()
    with pytest.raises(UserError, match="not finite\n.*in their place again"):
        run_pipeline(a_run(tmp_path, steps=9), overwrite=True)
    found = contents(tmp_path)
    assert {k: v for k, v in found.items() if not k.startswith(ASIDE)} == before
    fake.taken()
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == [] and contents(tmp_path)["config.json"] == before["config.json"]
    # What was begun is taken up by the same command.
    fake.fails.clear()
    run_pipeline(a_run(tmp_path, steps=9), overwrite=True)
    done = NAMES[NAMES.index("train") : NAMES.index(stage)]
    assert fake.taken() == [n for n in NAMES[3:] if n not in done]
    assert not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_stopped_command_keeps_the_old_aside(tmp_path, fake, stage):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    fake.fails[stage], fake.begins = KeyboardInterrupt(), {stage}
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(a_run(tmp_path, steps=9), overwrite=True)
    assert (tmp_path / ASIDE / "1" / "report" / "manifest.json").exists()
    fake.fails.clear()
    fake.taken()
    # The settings of before bring it back, without any work.
    run_pipeline(a_run(tmp_path), overwrite=True)
    assert fake.taken() == [] and contents(tmp_path) == before


def test_a_stopped_command_goes_on_and_then_drops_the_old(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    fake.fails["train"], fake.begins = KeyboardInterrupt(), {"train"}
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(a_run(tmp_path, steps=9), overwrite=True)
    fake.fails.clear()
    fake.taken()
    run_pipeline(a_run(tmp_path, steps=9))
    assert fake.taken() == ["train", "evaluate", "report"]
    assert not (tmp_path / ASIDE).exists()


def test_one_stage_made_again_with_the_same_result_keeps_those_after_it(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    run_one_stage(a_run(tmp_path), "table", overwrite=True)
    assert fake.taken()[len(NAMES) :] == ["table"]
    assert contents(tmp_path) == before and not (tmp_path / ASIDE).exists()
    assert manifest_of(tmp_path, "report")


def test_changed_inputs_make_a_stage_again(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    fake.taken()
    manifest = manifest_of(tmp_path, "train") | {"inputs": {"clips": "another"}}
    write_json(tmp_path / "train" / "manifest.json", manifest)
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == ["train"] and not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("name", ["settings.json", "inputs.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_what_a_finished_stage_was_made_from_is_restored(tmp_path, fake, name, content):
    run_pipeline(a_run(tmp_path))
    fake.taken()
    before, path = contents(tmp_path), tmp_path / "train" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == [] and contents(tmp_path) == before


def test_settings_of_another_stage_are_noticed(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    other = (tmp_path / "table" / "settings.json").read_bytes()
    (tmp_path / "train" / "settings.json").write_bytes(other)
    with pytest.raises(UserError, match="train/settings.json is damaged .*train farm"):
        run_pipeline(a_run(tmp_path))


def test_damage_is_named_and_the_command_mends_it(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    (tmp_path / "table" / "made.npz").write_bytes(b"")
    for again in (
        lambda: run_pipeline(a_run(tmp_path)),
        lambda: run_one_stage(a_run(tmp_path), "train"),
    ):
        with pytest.raises(UserError, match="made.npz is damaged .*nano4m table farm.*--overwrite"):
            again()
    run_one_stage(a_run(tmp_path), "table", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "results.json"])
@pytest.mark.parametrize("content", [None, b"", b"\xef\xbb\xbf{}", b'{"unknown": 1}'])
def test_the_files_beside_the_stages_are_restored(tmp_path, fake, name, content):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    fake.taken()
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    run_pipeline(a_run(tmp_path))
    assert contents(tmp_path) == before and fake.taken() == []


def test_a_linked_stage_is_set_aside_and_its_target_stays(tmp_path, fake):
    run, disk = tmp_path / "run", tmp_path / "disk"
    run_pipeline(a_run(run))
    os.replace(run / "train", disk)
    (run / "train").symlink_to(disk)
    run_pipeline(a_run(run, steps=9), overwrite=True)
    assert (disk / "made.npz").exists() and not (run / "train").is_symlink()


def test_all_is_checked_before_anything_is_moved(tmp_path, fake, monkeypatch):
    run_pipeline(a_run(tmp_path))
    before = contents(tmp_path)
    fake.taken()
    refused = {
        "tracker": a_run(tmp_path, steps=9, tracker="wandb"),
        "device": dataclasses.replace(
            a_run(tmp_path), config=a_run(tmp_path, steps=9).config.model_copy(
                update={"device": "cuda:77"}
            )
        ),
    }  # fmt: skip
    for what, run in refused.items():
        with pytest.raises(UserError, match=what if what == "tracker" else "cuda"):
            run_pipeline(run, overwrite=True)
        with pytest.raises(UserError, match=what if what == "tracker" else "cuda"):
            run_one_stage(run, "train", overwrite=True)
    assert contents(tmp_path) == before and fake.taken() == []


def test_damage_of_two_stages_is_mended_and_later_stages_are_not_made_again(tmp_path, fake):
    run_pipeline(a_run(tmp_path))
    fake.taken()
    before = contents(tmp_path)
    (tmp_path / "tokenizers" / "made.npz").unlink()
    (tmp_path / "table" / "manifest.json").write_bytes(b"")
    with pytest.raises(UserError, match="made.npz is damaged .*nano4m tokenizers farm"):
        run_pipeline(a_run(tmp_path))
    run_one_stage(a_run(tmp_path), "tokenizers", overwrite=True)
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == ["tokenizers", "table"] and contents(tmp_path) == before
    assert not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_the_data_of_a_run_is_remembered_by_the_manifest_too(tmp_path, fake, content):
    (tmp_path / "clips").mkdir()
    write_json(tmp_path / "clips" / "settings.json", {"data": "there"})
    assert remembered_data(tmp_path) == Path("there")
    about = {"stage": "clips", "seconds": 1, "summary": {}, "settings": {"data": "there"}}
    write_json(tmp_path / "clips" / "manifest.json", about)
    (tmp_path / "clips" / "settings.json").unlink()
    if content is not None:
        (tmp_path / "clips" / "settings.json").write_bytes(content)
    assert remembered_data(tmp_path) == Path("there")
    (tmp_path / "clips" / "manifest.json").write_bytes(b"")
    assert remembered_data(tmp_path) is None


@pytest.mark.parametrize("again", ["run", "train"])
def test_what_an_overwritten_stage_was_comes_back_after_a_kill(tmp_path, fake, again):
    run_pipeline(a_run(tmp_path))
    fake.taken()
    before = contents(tmp_path)
    fake.begins, fake.fails = {"train"}, {"train": SystemExit(9)}
    with pytest.raises(SystemExit):
        run_one_stage(a_run(tmp_path, steps=7), "train", overwrite=True)
    fake.fails = {}
    fake.taken()
    if again == "run":
        run_pipeline(a_run(tmp_path), overwrite=True)
    else:
        run_one_stage(a_run(tmp_path), "train", overwrite=True)
        run_pipeline(a_run(tmp_path))
    assert fake.taken() == [] and contents(tmp_path) == before


def test_what_a_stopped_removal_has_left_is_never_taken_back(tmp_path, fake, monkeypatch):
    run_pipeline(a_run(tmp_path))
    fake.taken()
    set_aside(tmp_path, ["report"], until="report")
    with monkeypatch.context() as patch:
        # Killed after it has removed some of it.
        def stopped(folder: Path) -> None:
            (folder / "report" / "made.npz").unlink(missing_ok=True)

        patch.setattr(replaced, "drop", stopped)
        for aside in list(replaced.replaced(tmp_path)):
            aside.drop()
    run_pipeline(a_run(tmp_path))
    assert fake.taken() == ["report"] and not (tmp_path / ASIDE).exists()
