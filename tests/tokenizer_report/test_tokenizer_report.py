"""The command on a tiny run of the farm: page, JSON, table, the chain, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nano4m.cli import main
from nano4m.config.presets import FARM
from nano4m.errors import UserError
from nano4m.tokenizer_report.candidates import parse_spec, section_of
from nano4m.tokenizer_report.command import run_command
from nano4m.tokenizer_report.console import as_markdown
from nano4m.tokenizer_report.options import parse_options
from tiny_run import TINY

FEW = [
    "--judge", "22", "--train", "44", "--decode", "8", "--listen", "2", "--classifier-steps", "2",
    "--device", "cpu",
]  # fmt: skip
WITHOUT = ["--without", "depth,normals"]
SOME = [
    word
    for pair in zip(TINY[::2], TINY[1::2], strict=True)
    for word in pair
    if not pair[0].startswith(("--tokenizers.depth", "--tokenizers.normals"))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose training is finished."""
    out = tmp_path_factory.mktemp("run") / "run"
    for stage in ("clips", "tokenizers", "table", "train"):
        main([stage, "farm", "--out", str(out), *WITHOUT, *SOME])
    return out


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory) -> Path:
    """The folder of a comparison of three tokenizers, with the chain."""
    folder = tmp_path_factory.mktemp("compared")
    run_command(parse_options([
        str(run), "--run", str(run), "--tokenizer", "two=mel_vq:codebooks=2,vocab=16",
        "--tokenizer", "mel_vq", "--dir", str(folder), *FEW,
    ]))  # fmt: skip
    return folder


def test_the_report_has_every_figure_of_every_tokenizer(compared, run):
    report = json.loads((compared / "report.json").read_text())
    names = [entry["name"] for entry in report["tokenizers"]]
    assert names == ["two", "mel_vq", "run/tokenizers/sound"]
    for entry in report["tokenizers"]:
        numbers = [*entry["fidelity"].values(), *entry["speed"].values()]
        assert all(np.isfinite(numbers)) and min(entry["speed"].values()) > 0
        assert entry["verdict"] in ("fine", "broken")
        assert set(entry["content"]) == {"bag of ids", "mean code vectors", "code vectors in parts"}
        for scores in entry["content"].values():
            assert all(0 <= own["accuracy"] <= 1 for own in scores.values())
    two, one = report["tokenizers"][:2]
    assert len(two["levels"]) == 2 and two["levels"][0]["vocab"] == 16
    # The settings that are not named are those of the run: the same bits, 2 x 4 and 1 x 5.
    assert two["settings"]["hop"] == FARM.tokenizers["sound"].hop and two["settings"]["width"] == 8
    assert two["bits_a_second"] == pytest.approx(one["bits_a_second"] * 8 / 5)
    assert report["judged"] == 22 and report["recordings"] == 22 and report["decoded"] == 8


def test_the_chain_goes_from_media_over_tokens_to_the_model(compared):
    chain = json.loads((compared / "report.json").read_text())["chain"]
    assert chain["tokenizer"] == "run/tokenizers/sound" and not chain["left_out"]
    found = [(own["link"], own["how"]) for own in chain["links"]]
    assert found[0] == ("media", "linear probe") and found[2][0] == "round trip"
    assert [how for link, how in found if link == "model"] == [
        "likeliest caption, posterior", "likeliest caption, mutual information",
    ]  # fmt: skip
    assert all(own["low"] <= own["accuracy"] <= own["high"] for own in chain["links"])


def test_the_page_shows_and_plays_originals_and_round_trips(compared):
    page = (compared / "index.html").read_text()
    assert page.count("<audio") == 2 * (1 + 3)
    for text in ("Where the class gets lost", "likeliest caption", "SI-SDR", "two", "perplexity"):
        assert text in page
    markdown = as_markdown(json.loads((compared / "report.json").read_text()))
    assert "| two | " in markdown and markdown.count("\n| ---") == 4


def test_fitted_tokenizers_are_kept_and_the_same_figures_come_again(compared, run, capsys):
    before = json.loads((compared / "report.json").read_text())
    times = {p: p.stat().st_mtime_ns for p in (compared / "tokenizers").rglob("*.safetensors")}
    assert len(times) == 2
    main([
        "tokenizer-report", str(run), "--tokenizer", "two=mel_vq:codebooks=2,vocab=16",
        "--dir", str(compared), "--json", *FEW,
    ])  # fmt: skip
    again = json.loads(capsys.readouterr().out)
    assert times == {p: p.stat().st_mtime_ns for p in times}
    for key in ("fidelity", "content", "levels", "classifier", "fingerprint"):
        assert again["tokenizers"][0][key] == before["tokenizers"][0][key], key


def test_pictures_are_compared_too(run, tmp_path, capsys):
    main(["tokenizer-report", str(run), "--media", "picture", "--dir", str(tmp_path), *FEW])
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    (entry,) = report["tokenizers"]
    assert {"psnr_db", "ssim"} == set(entry["fidelity"]) and "psnr_db" in said
    assert (tmp_path / "index.html").read_text().count("<img") == 4 and report["seconds"] is None


def test_a_broken_tokenizer_is_named(run, tmp_path, monkeypatch):
    from nano4m.tokenizers.mel_vq import MelVQTokenizer

    def silence(self, ids):
        return torch.zeros(len(ids), self.samples)

    monkeypatch.setattr(MelVQTokenizer, "decode", silence)
    said = run_command(parse_options([str(run), "--dir", str(tmp_path), *FEW]))
    assert "is broken: " in said and "come back as silence" in said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--tokenizer", "mel_vk"], "no folder, and no kind; did you mean 'mel_vq'"),
        (["--tokenizer", "mel_vq:vocabulary=4"], "no field 'vocabulary'; did you mean 'vocab'"),
        (["--tokenizer", "mel_vq:vocab=few"], "vocab"),
        (["--tokenizer", "mel_vq:hop=30"], "n_fft"),
        (["--tokenizer", "mel_vq:vocab"], "no FIELD=VALUE"),
        (["--tokenizer", "image_vq"], "makes no tokens of sound"),
        (["--tokenizer", "mel_vq", "--tokenizer", "mel_vq"], "two tokenizers have the name"),
        (["--tokenizer", "./nowhere"], "no tokenizer in"),
        (["--media", "smell"], "--media smell"),
        (["--media", "caption"], "--media caption"),
        (["--judge", "1"], "judge"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_fitted(
    run, tmp_path, arguments, said
):
    with pytest.raises(UserError, match=said):
        run_command(parse_options([str(run), "--dir", str(tmp_path / "x"), *FEW, *arguments]))


def test_a_tokenizer_of_other_clips_is_refused(run, tmp_path):
    other = tmp_path / "sound"
    shutil.copytree(run / "tokenizers" / "sound", other)
    from nano4m.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(other)
    settings, tensors = tokenizer.state()
    longer = type(tokenizer).from_state(settings | {"samples": settings["samples"] + 1}, tensors)
    longer.save(other)
    with pytest.raises(UserError, match="and these clips have sound of size"):
        run_command(
            parse_options([str(run), "--tokenizer", str(other), "--dir", str(tmp_path), *FEW])
        )
    with pytest.raises(UserError, match="no folder of a run"):
        run_command(parse_options([str(tmp_path), "--dir", str(tmp_path / "y"), *FEW]))


def test_names_and_settings_of_a_specification():
    spec = parse_spec("fast=wave_vq:strides=256;4,steps=30")
    assert (spec.name, spec.kind) == ("fast", "wave_vq")
    section = section_of(spec, FARM, "sound")
    assert section.strides == (256, 4) and section.steps == 30
    choice = section_of(parse_spec("mel_vq:downsample=8,lr=0.001,hop=128"), FARM, "sound")
    assert (choice.downsample, choice.lr, choice.hop) == (8, 0.001, 128)
    assert section_of(parse_spec("image_vq:quantizer=fsq"), FARM, "picture").quantizer == "fsq"
    assert parse_spec("mel_vq:vocab=16").name == "mel_vq:vocab=16"
    weights = parse_spec("dac:weights=descript/dac_44khz,codec_rate=44100")
    assert weights.folder is None and weights.settings["weights"] == "descript/dac_44khz"
    assert weights.name == "dac:weights=dac_44khz,codec_rate=44100"
    folder = parse_spec("mine=runs/farm/tokenizers/sound")
    assert folder.folder == Path("runs/farm/tokenizers/sound") and folder.name == "mine"
