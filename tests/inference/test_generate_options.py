"""The options of ``nano4m generate``: its help, and settings of one modality in every run."""

import re

import pytest

from nano4m.cli import _parse, main
from nano4m.config.generation import GenerateConfig
from nano4m.errors import UserError


def test_settings_of_one_modality_are_an_option_of_every_run(capsys):
    config, _ = _parse(
        "run", ["farm", "--generate.modalities", "sound.noise=2", "rgb.order=halton"]
    )
    assert config.generate.modalities == {"sound": {"noise": 2.0}, "rgb": {"order": "halton"}}
    with pytest.raises(UserError, match="unknown modality 'sond'; did you mean 'sound'"):
        _parse("run", ["farm", "--generate.modalities", "sond.noise=2"])


def test_help_reads_like_documentation(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--help"])
    said = capsys.readouterr().out
    assert not stop.value.code and said.count("nano4m generate --run") >= 5
    options = {"--in", "--caption", "--clips", "--split", "--rows", "--out", "--chain", "--n"}
    options |= {"--" + name.replace("_", "-") for name in GenerateConfig.model_fields}
    assert options <= set(re.findall(r"--[a-z-]+", said))
