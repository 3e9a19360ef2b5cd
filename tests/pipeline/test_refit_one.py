"""A tokenizer whose settings change is fitted again alone, in a run of the real stages."""

import csv
import json
import re
from pathlib import Path

import pytest

from media_files import tone
from nano4m.cli import main
from nano4m.tokens.table import open_table

LONG = "a dog barks at the old man who waits near the river and nobody hears it at night"
SETTINGS = """
  --dataset.val-share 0.3 --dataset.min-per-class 2
  --clips.window-seconds 0.4 --clips.workers 0 --without rgb
  --tokenizers.sound.vocab 32 --tokenizers.sound.width 8 --tokenizers.sound.steps 2
  --tokenizers.sound.batch-size 8 --tokenizers.sound.griffin-lim 1
  --tokenizers.sound.augmentations 2
  --broken-tokenizers accept
"""
OPTIONS = SETTINGS.split()


@pytest.fixture
def data(tmp_path) -> Path:
    """Twelve sounds of two classes; some have two captions, one a long one."""
    rows = [["file", "label", "caption"]]
    for i in range(12):
        label = ("dog", "cat")[i % 2]
        tone(tmp_path / f"data/s{i}.wav", 0.5, rate=24000, hertz=200 + 40 * i)
        rows += [[f"s{i}.wav", label, f"a {label} is heard"], [f"s{i}.wav", label, f"{label} {i}"]]
    rows.append(["s3.wav", "cat", LONG])
    with (tmp_path / "data/labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "data"


def weights(out: Path, name: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out / "tokenizers" / name).iterdir()}


def test_another_caption_length_refits_the_captions_alone(tmp_path, data, capsys):
    out = tmp_path / "run"

    def run(stage: str, *more: str) -> str:
        main([stage, "animals", "--data", str(data), "--out", str(out), *OPTIONS, *more])
        return " ".join(capsys.readouterr().err.split())

    run("clips")
    short = ("--tokenizers.caption.max-length", "8")
    said = run("tokenizers", *short)
    assert (
        "1 of 25 captions have more than 8 tokens" in said and "first that of clip s3.wav" in said
    )
    run("table", *short)
    table, sound = open_table(out / "table"), weights(out, "sound")
    assert table.ids["caption"].shape == (12, 3, 8)
    room = re.search(r"--tokenizers.caption.max_length (\d+) has room for all", said)[1]
    whole = ("--tokenizers.caption.max-length", room)
    with pytest.raises(SystemExit):
        run("tokenizers", *whole)
    assert "belongs to another configuration" in capsys.readouterr().err
    said = run("tokenizers", *whole, "--overwrite")
    assert "sound: its tokenizer is that of before" in said and "caption: its tok" not in said
    assert "more than" not in said and weights(out, "sound") == sound
    assert json.loads((out / "tokenizers/quality.json").read_text())["sound"]["fit_seconds"] > 0
    run("table", *whole)
    longer = open_table(out / "table")
    assert longer.ids["caption"].shape == (12, 3, int(room))
    assert (longer.ids["sound"] == table.ids["sound"]).all()
    # The same settings once more, with --overwrite, is everything anew.
    assert "that of before" not in run("tokenizers", *whole, "--overwrite")


def test_refused_captions_leave_what_was_fitted_for_the_next_try(tmp_path, data, capsys):
    out = tmp_path / "run"
    base = ["animals", "--data", str(data), "--out", str(out), *OPTIONS]
    short = ["--tokenizers.caption.max-length", "8"]
    main(["clips", *base, *short])
    main(["tokenizers", *base, *short])
    sound = weights(out, "sound")
    refuse = [*short, "--tokenizers.caption.too-long", "refuse", "--overwrite"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["tokenizers", *base, *refuse])
    said = " ".join(capsys.readouterr().err.split())
    assert "s3.wav" in said and "too_long cut cuts them" in said and "in their place again" in said
    assert weights(out, "sound") == sound
    main(["tokenizers", *base, *short])
    assert "up to date" in " ".join(capsys.readouterr().err.split())
