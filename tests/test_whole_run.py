"""One whole tiny run by the command line: what it leaves, stops, new starts, other settings."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from evaluation_page import undefined
from nano4m.checkpoints import folder as checkpoint
from nano4m.cli import main
from nano4m.config.compatibility import read_stored
from nano4m.config.presets import PRESETS
from nano4m.config.run import Config
from nano4m.evaluate.results import Results
from nano4m.pipeline.stages import STAGES
from nano4m.storage.json_files import read_json
from nano4m.training import trainer as train
from old_names import age
from refusals import refused
from tiny_run import FITTED, TINY


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every file under a folder."""
    return {
        str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(out.rglob("*"))
        if p.is_file()
    }


def of_stages(found: dict, *stages: str) -> dict:
    """Return the files of some stages."""
    return {name: what for name, what in found.items() if name.split("/")[0] in stages}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a run ended with."""
    return load_file(out / "train" / "checkpoint" / "model.safetensors")


def are_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two models are the same bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A whole run from nothing; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("finished") / "run"
    main(["run", "farm", "--out", str(out), *TINY])
    return out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run, times of files included."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def fails(capsys) -> Callable[..., str]:
    """See ``refused``."""
    return partial(refused, capsys)


def test_info_of_a_run_and_of_its_table(capsys, finished):
    main(["info", str(finished), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert list(told["finished"]) == list(STAGES) and told["unfinished"] == []
    assert told["class_consistency"] and told["probes"]
    main(["info", str(finished / "table"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["clips"] == {"train": 44, "val": 22, "test": 22}
    assert list(told["modalities"]) == list(PRESETS["farm"].tokenizers)


# -- a whole run -------------------------------------------------------------------------------


def test_a_run_leaves_what_it_promises(finished):
    results = Results.model_validate_json((finished / "results.json").read_text())
    modalities = list(PRESETS["farm"].tokenizers)
    assert len(results.classes) == 11 and results.split == "test"
    assert {(d.source, d.target) for d in results.matrix} >= {
        (a, b) for a in modalities for b in modalities if a != b
    }
    assert [c.modality for c in results.cross_entropy] == modalities
    assert (finished / "report" / "index.html").read_text().startswith("<!doctype html>")
    for stage in STAGES:
        manifest = json.loads((finished / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage and manifest["summary"] and manifest["seconds"] >= 0
    config = read_stored(Config, read_json(finished / "config.json"))
    assert config.model_dump(mode="json") == results.config
    assert (config.preset, config.train.steps, config.clips.workers) == ("farm", 6, 0)
    assert all(config.tokenizers[name].steps == 2 for name in FITTED)


def test_every_figure_of_a_run_is_defined(finished):
    results = Results.model_validate_json((finished / "results.json").read_text())
    measures = {name for quality in results.tokenizers.values() for name in quality}
    line = json.loads((finished / "train" / "log.jsonl").read_text().splitlines()[-1])
    scores = [probe.score for probe in results.probes]
    beside = {name for score in scores for name in (*score.controls, *score.ceilings)}
    assert {"psnr_db", "exact_share"} <= measures and "val" in line and beside
    assert not undefined({*measures, *results.training, *line, *beside})


def test_again_changes_nothing(finished, capsys):
    before = files(finished)
    main(["run", "farm", "--out", str(finished), *TINY])
    said = capsys.readouterr().err
    assert all(f"{stage}: up to date" in said for stage in STAGES) and "done in" not in said
    assert files(finished) == before


def test_the_same_seed_gives_the_same_figures(finished, tmp_path):
    # Two processes instead of none: how it is computed does not change what comes out.
    workers = ["--clips.workers", "2", "--evaluate.workers", "2"]
    main(["run", "farm", "--out", str(tmp_path / "again"), *TINY, *workers])
    runs = (finished, tmp_path / "again")
    first, second = (json.loads((out / "results.json").read_text()) for out in runs)
    for key in ("matrix", "probes", "classifiers", "cross_entropy", "continuation", "classes"):
        assert first[key] == second[key], key
    assert first["training"]["val"] == second["training"]["val"]
    assert are_equal(weights(finished), weights(tmp_path / "again"))


def test_a_run_of_before_is_up_to_date_and_can_be_evaluated_and_generated_from(
    finished, copy, tmp_path, capsys
):
    age(copy)
    before = files(copy)
    main(["run", "farm", "--out", str(copy), *TINY])
    said = capsys.readouterr().err
    assert said.count("up to date") == len(STAGES), said
    assert files(copy) == before
    main(["evaluate", "farm", "--out", str(copy), *TINY, "--overwrite"])
    now, then = (json.loads((out / "results.json").read_text()) for out in (copy, finished))
    for key in ("matrix", "probes", "classifiers", "cross_entropy", "continuation", "all_sources"):
        assert now[key] == then[key], key
    main(["report", "farm", "--out", str(copy), *TINY])
    made = [
        "--split",
        "test",
        "--rows",
        "0:1",
        "--out",
        "rgb,caption",
        "--dir",
        str(tmp_path / "x"),
    ]
    main(["generate", "--run", str(copy), *made])
    assert len(list((tmp_path / "x").glob("*.rgb.png"))) == 1


def test_an_option_of_before_that_differs_is_still_another_configuration(copy, fails):
    age(copy)
    settings = json.loads((copy / "train" / "settings.json").read_text())
    settings["masking"]["unheard"] = 0.9
    (copy / "train" / "settings.json").write_text(json.dumps(settings))
    said = fails("train", "farm", "--out", str(copy), *TINY)
    assert "masking.no_audio_input_prob: 0.9 there, 0.3 now" in said


def test_other_settings_are_refused_and_overwrite_replaces_what_depends_on_them(copy, fails):
    before = files(copy)
    other = ["run", "farm", "--out", str(copy), *TINY, "--train.steps", "7"]
    said = fails(*other)
    assert "train.steps: 6 there, 7 now" in said and "--overwrite" in said
    assert files(copy) == before, "a refusal changes nothing"
    main([*other, "--overwrite"])
    after = files(copy)
    kept = ("clips", "tokenizers", "table")
    assert of_stages(after, *kept) == of_stages(before, *kept)
    assert json.loads((copy / "train" / "manifest.json").read_text())["summary"]["steps"] == 7
    assert json.loads((copy / "results.json").read_text())["config"]["train"]["steps"] == 7
    for stage in ("train", "evaluate", "report"):
        name = f"{stage}/manifest.json"
        assert after[name] != before[name]


def test_overwrite_of_one_stage_does_not_mix_configurations(copy, fails):
    before = files(copy)
    other = ["evaluate", "farm", "--out", str(copy), *TINY, "--train.steps", "7", "--overwrite"]
    said = fails(*other)
    assert "train.steps: 6 there, 7 now" in said
    assert files(copy) == before, "a refusal changes nothing"


def test_figures_of_a_run_that_is_no_longer_there_are_not_told(copy, capsys):
    (copy / "evaluate" / "manifest.json").unlink()
    main(["info", str(copy), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert "evaluate" in told["unfinished"] and "probes" not in told


def test_a_folder_that_cannot_be_written_is_answered_with_a_sentence(tmp_path, fails):
    (tmp_path / "clips").touch()
    said = fails("clips", "farm", "--out", str(tmp_path), *TINY)
    assert "/clips" in said and "Not a directory; name another place" in said


def test_a_full_disk_is_answered_with_a_sentence(copy, fails, monkeypatch):
    def full(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    (copy / "train" / "manifest.json").unlink()
    monkeypatch.setattr(checkpoint, "write_tensors", full)
    said = fails("train", "farm", "--out", str(copy), *TINY)
    assert "No space left on device" in said and "free some space" in said


def test_an_unfinished_stage_runs_again_and_no_other(copy, capsys):
    before = files(copy)
    (copy / "table" / "manifest.json").unlink()
    main(["run", "farm", "--out", str(copy), *TINY])
    said = capsys.readouterr().err
    assert "table: done in" in said
    others = [stage for stage in STAGES if stage != "table"]
    assert all(f"{stage}: up to date" in said for stage in others)
    after = files(copy)
    assert of_stages(after, *others) == of_stages(before, *others)
    assert after["table/tokens.arrow"][1] == before["table/tokens.arrow"][1]


def test_a_checkpoint_of_another_run_is_refused(copy, fails):
    path = copy / "train" / "checkpoint" / "modalities.json"
    token_spec = json.loads(path.read_text())
    name = next(iter(token_spec["tokenizers"]))
    here = token_spec["tokenizers"][name]
    token_spec["tokenizers"][name] = "0123456789ab"
    path.write_text(json.dumps(token_spec))
    (copy / "evaluate" / "manifest.json").unlink()
    said = fails("evaluate", "farm", "--out", str(copy), *TINY)
    assert "modalities.json is damaged (it has " in said
    # Of a run whose manifests list no files.
    manifest = json.loads((copy / "train" / "manifest.json").read_text())
    (copy / "train" / "manifest.json").write_text(json.dumps(manifest | {"files": {}}))
    said = fails("evaluate", "farm", "--out", str(copy), *TINY)
    assert "the checkpoint" in said and "the token table" in said and "do not belong" in said
    assert f"{name}: 0123456789ab / {here}" in said
    assert len(set(re.findall(r"\(([0-9a-f]{12})\)", said))) == 2
    assert not (copy / "evaluate" / "manifest.json").exists()


def test_ctrl_c_and_the_same_command_again_end_where_no_stop_ends(
    finished, copy, capsys, monkeypatch
):
    command = ["run", "farm", "--out", str(copy), *TINY]
    for stage in ("train", "evaluate", "report"):
        shutil.rmtree(copy / stage)
    rate = train.learning_rate

    def stop_at_step_3(step, settings):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return rate(step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rate", stop_at_step_3)
        with pytest.raises(SystemExit) as stop:
            main(command)
    assert stop.value.code == 130
    assert "run the same command to go on from here" in capsys.readouterr().err
    assert not (copy / "train" / "manifest.json").exists()
    assert not (copy / "train" / "checkpoint").exists()
    main(command)
    assert "train: goes on after step 3" in capsys.readouterr().err
    assert are_equal(weights(copy), weights(finished))
    figures = [json.loads((out / "results.json").read_text())["matrix"] for out in (finished, copy)]
    assert figures[0] == figures[1]


def test_results_as_json_are_all_that_stands_on_standard_output(finished, capsys):
    main(["run", "farm", "--out", str(finished), *TINY, "--json"])
    assert Results.model_validate_json(capsys.readouterr().out).preset == "farm"
    main(["train", "farm", "--out", str(finished), *TINY, "--json"])
    assert json.loads(capsys.readouterr().out)["summary"]["steps"] == 6
