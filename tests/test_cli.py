"""The command line as a user types it: help, mistakes, information on what there is."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nano4m import __version__, cli
from nano4m.cli import COMMANDS, main
from nano4m.config.presets import PRESETS
from nano4m.pipeline.info import REGISTRIES
from nano4m.pipeline.stages import STAGES
from refusals import refused
from tiny_run import TINY


@pytest.fixture
def fails(capsys) -> Callable[..., str]:
    """See ``refused``."""
    return partial(refused, capsys)


# -- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_command(capsys, arguments):
    main(arguments)
    said = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", said, re.MULTILINE)


@pytest.mark.parametrize("command", ["run", *STAGES])
def test_help_of_a_command_names_every_preset(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    said = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", said, re.MULTILINE) for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_help_of_a_preset_names_every_option(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main(["run", name, "--help"])
    assert not stop.value.code
    said = capsys.readouterr().out
    options = {"--data", "--out", "--overwrite", "--json", "--seed"}
    preset = PRESETS[name]
    for section in ("dataset", "clips", "masking", "model", "train", "generate", "evaluate"):
        options |= {f"--{section}.{field}" for field in type(getattr(preset, section)).model_fields}
    for modality, tokenizer in preset.tokenizers.items():
        options |= {f"--tokenizers.{modality}.{field}" for field in type(tokenizer).model_fields}
    shown = set(re.findall(r"--[a-z0-9.-]+", said))
    assert {option.replace("_", "-") for option in options} <= shown


def test_help_of_info_names_every_registry(capsys):
    main(["info", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in (*REGISTRIES, *PRESETS))


def test_the_installed_command_and_the_module_are_the_same():
    scripts = [[str(Path(sys.executable).with_name("nano4m"))], [sys.executable, "-m", "nano4m"]]
    for script in scripts:
        done = subprocess.run([*script, "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"{__version__}\n")
        wrong = subprocess.run([*script, "rum"], capture_output=True, text=True)
        assert wrong.returncode == 2 and not wrong.stdout
        assert wrong.stderr.startswith("nano4m: unknown command 'rum'; did you mean 'run'?")


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "trian farm",
            "nano4m: unknown command 'trian'; did you mean 'train'? choose from check-data,",
        ),
        ("run farn", "nano4m: unknown preset 'farn'; did you mean 'farm'? choose from animals,"),
        ("run", f"nano4m: nano4m run needs a preset; choose from {', '.join(PRESETS)}"),
        ("run --seed 1 farm", "nano4m: the preset comes first: nano4m run PRESET --seed 1 farm;"),
        ("run farm --train.stepz 3", "Unrecognized options: --train.stepz"),
        ("run farm --train.stepz 3", "Perhaps you meant: --train.steps"),
        ("run farm --train.steps", "Missing value for argument '--train.steps'"),
        (
            "run farm --train.steps many",
            "nano4m: --train.steps many: must be a whole number from 1 to",
        ),
        ("run farm --train.optimizer sgd", "'sgd' for argument '--train.optimizer'. Expected one"),
        ("run farm --train.steps -3", "nano4m: --train.steps -3: must be a whole number from 1 to"),
        ("run farm --seed -1", "nano4m: --seed -1: must be a whole number from 0 to"),
        ("run farm --tokenizers.sound.vocab 1", "nano4m: --tokenizers.sound.vocab 1: must be"),
        ("run farm --model.dim 30", "nano4m: --model: dim 30 is not a multiple of head_dim 32"),
        ("run farm --train.batch-size 30", "nano4m: train.batch_size 30 is not a multiple of"),
        ("run farm --clips.picture-size 20", "grid 8 does not suit clips.picture_size 20"),
        ("run farm --size d6-w51", "nano4m: unknown size 'd6-w51'; did you mean 'd6-w512'?"),
        ("run farm --size", "Missing value for argument '--size'"),
        ("run farm --model.tables shared", "one for all; add --train.no-init-from-codebook"),
        ("convert nowhere --out there", "nano4m: nothing is at nowhere; give a published"),
        ("info", "nano4m: usage: nano4m info WHAT"),
        ("info tokenizer", "'tokenizer' is no preset, no registry and no folder of a run, a"),
        ("info tokenizer", "did you mean 'tokenizers'?"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(fails, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    assert message in re.sub(" +", " ", fails(*line.split()))
    assert not list(tmp_path.iterdir()), "a command line that is refused writes nothing"


def test_missing_data_are_answered_with_a_sentence(fails, tmp_path):
    out = ["--out", str(tmp_path / "run")]
    assert "the digits source needs --data" in fails("run", "digits", *out)
    assert "the folder source needs --data" in fails("run", "animals", *out)
    nowhere = str(tmp_path / "nowhere")
    for name in ("digits", "animals"):
        assert nowhere in fails("run", name, "--data", nowhere, *out)


def test_forgotten_data_can_be_given_with_the_same_command(fails, tmp_path):
    out = ["--out", str(tmp_path / "run")]
    fails("run", "digits", *out)
    said = fails("run", "digits", *out, "--data", str(tmp_path))
    assert "another configuration" not in said and str(tmp_path) in said


def test_a_stage_before_its_time_says_what_to_run(fails, tmp_path):
    out = tmp_path / "run"
    said = fails("train", "farm", "--out", str(out), *TINY)
    assert f"train needs 'clips' of {out}, which is not finished; run: nano4m clips farm" in said


# -- info --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["--size d6-w512", "--size=d6-w512"])
def test_options_change_a_named_size_wherever_they_stand(given):
    for line in (f"farm {given} --model.dim 256", f"farm --model.dim 256 {given}"):
        config, options = cli._parse("run", line.split())
        assert options.size == "d6-w512"
        assert (config.model.encoder_depth, config.model.dim, config.model.head_dim) == (6, 256, 64)


@pytest.mark.parametrize("what", [*PRESETS, *REGISTRIES])
def test_info_in_words_and_as_json(capsys, what):
    main(["info", what])
    words = capsys.readouterr().out
    main(["info", what, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told and all(key in words for key in told)
    if what in PRESETS:
        assert told["parameters"] > 0 and f"{told['parameters']:,}" in words
        assert list(told["modalities"]) == list(PRESETS[what].tokenizers)
    elif what in ("sources", "tokenizers", "labellers", "filters"):
        assert all(entry["licence"] and entry["licence"] in words for entry in told.values())
