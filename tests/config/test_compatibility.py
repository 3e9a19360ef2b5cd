"""Configurations of before: old names are read, on the command line they are refused."""

import json
from pathlib import Path

import pytest

from nano4m.cli import main
from nano4m.config.compatibility import (
    read_section,
    read_stored,
    renamed_option,
    with_new_names,
)
from nano4m.config.model import ModelConfig
from nano4m.config.presets import PRESETS
from nano4m.config.run import Config
from nano4m.config.tokenizers import MelVQ
from old_names import with_old_names


@pytest.mark.parametrize("name", PRESETS)
def test_a_configuration_of_before_is_the_same_one(name):
    config = PRESETS[name]
    old = with_old_names(config.model_dump(mode="json"))
    assert "source" in old and "dataset" not in old and "loudness_db" in old["clips"]
    assert "device" in old["train"] and "device" not in old
    assert read_stored(Config, old) == config
    assert with_new_names(with_new_names(old)) == with_new_names(old)


def test_a_configuration_that_was_written_before_the_renames_is_read_whole():
    """One of commit 5687f06: a name that is missing in RENAMED is an unknown field."""
    old = json.loads(Path(__file__).with_name("farm_of_before.json").read_text())
    found = Config.model_validate(old)
    assert found.dataset.train == old["source"]["train"] == 96
    assert found.masking.no_audio_input_prob == old["masking"]["unheard"]
    assert found.masking.whole_input == old["masking"]["whole_source"]
    assert found.masking.other_input_prob == old["masking"]["other_given"]
    assert found.masking.num_inputs_weights == tuple(old["masking"]["sources"])
    assert found.evaluate.classifier_steps == old["evaluate"]["judge_steps"] == 5
    assert found.tokenizers["sound"].augmentations == old["tokenizers"]["sound"]["views"]


def test_what_is_stored_is_not_changed_by_reading_it():
    old = with_old_names(PRESETS["farm"].model_dump(mode="json"))
    again = with_old_names(PRESETS["farm"].model_dump(mode="json"))
    with_new_names(old)
    read_stored(Config, old)
    assert old == again


def test_a_new_name_that_is_there_wins():
    found = with_new_names({"train": {"device": "cuda"}, "device": "cpu", "seed": 3})
    assert found == {"train": {}, "device": "cpu", "seed": 3}


def test_fields_that_are_not_known_are_left_out_at_any_depth():
    config = PRESETS["farm"]
    later = config.model_dump(mode="json")
    later["colour"] = "blue"
    later["train"]["momentum"] = 0.9
    later["tokenizers"]["rgb"]["loops"] = 3
    later["dataset"]["weather"] = "rain"
    assert read_stored(Config, later) == config
    section = MelVQ().model_dump() | {"views": 8, "unknown": 1}
    del section["augmentations"]
    assert read_section(MelVQ, section).augmentations == 8
    assert read_stored(ModelConfig, {"dim": 64, "head_dim": 32, "new": 1}).dim == 64


def test_a_wrong_value_is_still_an_error():
    wrong = PRESETS["farm"].model_dump(mode="json")
    wrong["train"] |= {"steps": -3, "unknown": 1}
    with pytest.raises(ValueError, match="steps"):
        read_stored(Config, wrong)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--source.train", "--dataset.train"),
        ("--source.picture-size", "--dataset.picture-size"),
        ("--clips.loudness-db", "--clips.target-rms-db"),
        ("--tokenizers.sound.views", "--tokenizers.sound.augmentations"),
        ("--masking.sources", "--masking.num-inputs-weights"),
        ("--train.codes", "--train.init-from-codebook"),
        ("--train.no-codes", "--train.no-init-from-codebook"),
        ("--train.device", "--device"),
        ("--evaluate.judge-steps", "--evaluate.classifier-steps"),
    ],
)
def test_an_old_option_is_refused_with_its_new_name(old, new, capsys):
    assert renamed_option(old) == new
    for words in ([old, "3"], [f"{old}=3"]):
        with pytest.raises(SystemExit) as stop:
            main(["run", "farm", *words])
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"nano4m: {old} is {new} now\n"


@pytest.mark.parametrize("option", ["--train.steps", "--dataset.train", "--device", "--sourced.x"])
def test_an_option_of_now_is_no_old_one(option):
    assert renamed_option(option) is None
