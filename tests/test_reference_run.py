"""The preset ``reference`` from a folder of small random weights of EnCodec, end to end."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from media_files import tone
from nano4m.cli import main
from nano4m.config.presets import PRESETS
from nano4m.evaluate.results import Results
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import load_tokenizer
from nano4m.tokens.table import open_table
from refusals import refused

sys.path.append(str(Path(__file__).parent / "tokenizers"))
from small_codecs import encodec  # noqa: E402

sys.path.pop()

SMALL = """
  --without depth,normals
  --clips.picture-size 28 --clips.frames 2 --clips.workers 0 --evaluate.workers 0
  --tokenizers.rgb.vocab 64 --tokenizers.rgb.width 8 --tokenizers.rgb.steps 2
  --tokenizers.rgb.batch-size 8 --tokenizers.caption.vocab 300
  --model.encoder-depth 1 --model.decoder-depth 1 --model.dim 16 --model.head-dim 8
  --masking.group-size 8 --train.batch-size 8 --train.steps 4 --train.warmup 1
  --train.val-samples 8 --train.val-every 2 --train.save-every 4
  --generate.steps 2 --evaluate.split val --evaluate.clips 8 --evaluate.classifier-steps 1
  --report.samples 2 --broken-tokenizers accept
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two classes of tones and noisy pictures."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for label, hertz in (("cat", 500), ("dog", 200)):
        for i in range(12):
            tone(root / label / f"{label}{i}.wav", 3.6, 16_000, hertz + 7 * i)
            pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{label}{i}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """EnCodec of the published rate, hop and codebooks, with few channels."""
    folder = tmp_path_factory.mktemp("encodec")
    encodec(folder, upsampling_ratios=[8, 5, 4, 2], codebook_size=1024, num_filters=2)
    return folder


def test_its_sound_is_encodec_at_one_and_a_half_kilobits():
    config = PRESETS["reference"]
    form = config.tokenizers["sound"].token_shape(config.clips)
    assert form.shape == (256, 2) and form.vocab_sizes == (1024, 1024)
    seconds = config.clips.window_seconds
    assert 256 * 2 * 10 / seconds == pytest.approx(1500)


def test_the_reference_runs_from_a_folder_of_weights(data, weights, tmp_path):
    out = tmp_path / "run"
    main(["run", "reference", "--data", str(data), "--out", str(out), *SMALL,
          "--tokenizers.sound.weights", str(weights)])  # fmt: skip
    table = open_table(out / "table")
    ids = table.ids["sound"].reshape(-1, 256, 2).astype(int)
    assert (ids[..., 0] < 1024).all() and (ids[..., 1] // 1024 == 1).all()
    assert len(np.unique(ids)) > 50
    saved = load_tokenizer(out / "tokenizers" / "sound")
    assert table.token_spec.tokenizers["sound"] == saved.fingerprint
    told = read_json(out / "tokenizers" / "sound" / "weights.json")
    assert told["weights"] == str(weights) and "non-commercial" in told["licence"]
    with safe_open(out / "tokenizers" / "sound" / "tokenizer.safetensors", "pt") as file:
        assert not list(file.keys()), "weights were copied into the run"
    results = Results.model_validate_json((out / "results.json").read_text())
    assert any(cell.target == "sound" for cell in results.matrix)
    assert (out / "report" / "index.html").is_file()


def test_without_weights_it_says_so_before_it_cuts_clips(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(nowhere))
    out = tmp_path / "run"
    said = refused(capsys, "run", "reference", "--data", str(data), "--out", str(out), *SMALL)
    for part in ("facebook/encodec_24khz", "hf download", "--tokenizers.sound.weights FOLDER",
                 "--tokenizers.sound.kind mel_vq"):  # fmt: skip
        assert part in said
    assert not (out / "clips").exists() and not nowhere.exists()


def test_what_it_offers_instead_is_accepted(capsys):
    """The options of the message make a valid configuration."""
    from nano4m.config.presets import preset, with_tokenizer_kind
    from nano4m.tokenizers import TOKENIZERS

    for kind in ("mel_vq", "wave_vq"):
        config = with_tokenizer_kind(preset("reference"), "sound", kind)
        section = config.tokenizers["sound"]
        section.check_clips(config.clips)
        TOKENIZERS[kind].load().check(section, "sound", config.clips)
        assert section.token_shape(config.clips).shape[0] > 0


def test_the_registry_tells_every_licence(capsys):
    main(["info", "tokenizers", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert "non-commercial" in told["encodec_24khz"]["licence"]
    assert told["dac"]["licence"] == "MIT" and told["mimi"]["licence"] == "CC BY 4.0"
    assert "none" in told["xcodec"]["licence"]
