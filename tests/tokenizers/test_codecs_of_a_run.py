"""Every pretrained codec in a run, by the command line: weights from a folder, token table."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import BOOKS, KINDS, SIZES, VOCAB, save_codec

from nano4m.cli import main
from nano4m.config.presets import PRESETS
from nano4m.data.clip_table import open_clips
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import load_tokenizer
from nano4m.tokens.table import open_table
from refusals import refused

SMALL = """
  --without rgb,depth,normals
  --dataset.train 24 --dataset.val 12 --dataset.test 12 --dataset.picture-size 32
  --dataset.seconds 0.4 --clips.window-seconds 0.4 --clips.picture-size 32 --clips.workers 0
  --broken-tokenizers accept
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A run that has clips only."""
    out = tmp_path_factory.mktemp("clips") / "run"
    main(["clips", "farm", "--out", str(out), *SMALL])
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_makes_a_token_table(clips, tmp_path, kind):
    out, weights = tmp_path / "run", save_codec(kind, tmp_path / "weights")
    shutil.copytree(clips, out)
    chosen = [
        "farm", "--out", str(out), *SMALL, "--tokenizers.sound.kind", kind,
        "--tokenizers.sound.weights", str(weights), "--tokenizers.sound.augmentations", "2",
    ]  # fmt: skip
    sizes = [w for n, v in SIZES.items() for w in (f"--tokenizers.sound.{n}".replace("_", "-"), v)]
    for stage in ("tokenizers", "table"):
        main([stage, *chosen, *map(str, sizes)])
    table, tokenizer = open_table(out / "table"), load_tokenizer(out / "tokenizers" / "sound")
    entry = next(m for m in table.modalities if m.media == "sound")
    assert entry.shape == tokenizer.shape and entry.vocab_size == BOOKS * VOCAB
    ids = torch.from_numpy(table.ids[entry.name].astype(np.int64)).unflatten(2, entry.shape)
    books = torch.arange(BOOKS).expand_as(ids[0, 0])
    assert ids.shape[1] == 2 and torch.equal(ids[0, 0] // VOCAB, books)
    own = open_clips(out / "clips").media("sound", np.arange(3))
    assert torch.equal(tokenizer.encode(own), ids[:3, 0])
    assert table.codebooks[entry.name].shape[0] == BOOKS * VOCAB
    quality = read_json(out / "tokenizers" / "quality.json")[entry.name]
    assert quality["fingerprint"] == tokenizer.fingerprint and quality["parameters"] > 1000


def test_random_weights_are_broken_and_no_fit_is_to_blame(clips, tmp_path, capsys):
    out, weights = tmp_path / "run", save_codec("encodec_24khz", tmp_path / "weights")
    shutil.copytree(clips, out)
    sizes = [w for n, v in SIZES.items() for w in (f"--tokenizers.sound.{n}".replace("_", "-"), v)]
    said = refused(
        capsys, "tokenizers", "farm", "--out", str(out), *SMALL[:-2],
        "--tokenizers.sound.kind", "encodec_24khz", "--tokenizers.sound.weights", str(weights),
        *map(str, sizes),
    )  # fmt: skip
    assert "never trained" in said and "--tokenizers.sound.weights" in said
    assert "--tokenizers.sound.steps" not in said


def test_choosing_a_codec_takes_its_own_sizes_and_the_views_of_the_preset():
    from nano4m.config.presets import with_tokenizer_kind

    config = with_tokenizer_kind(PRESETS["digits"], "sound", "encodec_24khz")
    section, before = config.tokenizers["sound"], PRESETS["digits"].tokenizers["sound"]
    assert (section.codebooks, section.codec_hop) == (2, 320)
    assert section.augmentations == before.augmentations > 1
    back = with_tokenizer_kind(config, "sound", "mel_vq").tokenizers["sound"]
    assert back.hop == before.hop and back.augmentations == before.augmentations
