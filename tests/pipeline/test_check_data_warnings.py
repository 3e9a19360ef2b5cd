"""What check-data says looks like a mistake, and what it says of captions."""

import contextlib
import json
import shutil

import pytest
from test_check_data import config, media, table

from media_files import picture, tone
from nano4m.cli import main
from nano4m.pipeline.check_data.command import check_data

SUSPICIONS = {
    "no validation clip of 1 class": lambda data: [
        path.rename(path.with_name(f"aB3dE6gH9_k_{i:06d}.wav"))
        for i, path in enumerate(sorted((data / "audio/cat").iterdir()))
    ],
    "all clips of 1 class are of one recording": lambda data: [
        path.rename(path.with_name(f"aB3dE6gH9_k_{i:06d}.wav"))
        for i, path in enumerate(sorted((data / "audio/cat").iterdir()))
    ],
    "class 'dog' has 9": lambda data: [
        tone(data / f"audio/dog/more{i}.wav", hertz=2000 + i * 9) for i in range(60)
    ],
    "lower sample rate than the 24000 Hz of clips": lambda data: None,
    "shorter than a quarter of the window": lambda data: None,
    "with a side below the 64 pixels": lambda data: [
        picture(data / f"images/cat/tiny{i}.png", (i, 3, 5), (50, 80)) for i in range(3)
    ],
    "no clip at all of 1 class: owl": lambda data: tone(data / "audio/owl/one.wav"),
    "few training clips": lambda data: None,
    "sounds and no picture in 1 class: dog": lambda data: shutil.rmtree(data / "images/dog"),
}


@pytest.mark.parametrize("warning", SUSPICIONS)
def test_what_looks_like_a_mistake_is_named(tmp_path, warning):
    media(tmp_path)
    SUSPICIONS[warning](tmp_path)
    assert any(warning in line for line in check_data(config(), tmp_path).warnings)


def test_a_good_folder_has_no_warning_and_captions_that_are_equal_are_named(tmp_path):
    for i in range(130):
        for label in ("cat", "dog"):
            number = i + 500 * (label == "dog")
            tone(tmp_path / label / f"{label}{number}.wav", 1.0, 24000, 100 + 3 * number)
            picture(tmp_path / label / f"p{i}.png", (i, 2 * i % 255, 9 * (label == "dog")))
    assert check_data(config(), tmp_path).warnings == []
    rows = [[p.relative_to(tmp_path), p.parent.name, "an animal"] for p in tmp_path.rglob("*.wav")]
    table(tmp_path / "labels.csv", "file,label,caption", rows)
    said = " ".join(check_data(config(), tmp_path).warnings)
    assert "all captions are equal ('an animal')" in said


@pytest.mark.parametrize("policy", ["cut", "leave_out", "refuse"])
def test_captions_that_are_too_long_are_said_as_a_run_says_them(tmp_path, capsys, policy):
    rows = [
        [s, label, f"a {label}", f"word {i} of {label} " * 12]
        for i, (s, label, _) in enumerate(media(tmp_path))
    ]
    rows[0][3] = ""
    table(tmp_path / "labels.csv", "file,label,caption1,caption2", rows)
    line = ["check-data", str(tmp_path), "--json", "--dataset.val-share", "0.3"]
    options = ["--tokenizers.caption.max-length", "8", "--tokenizers.caption.too-long", policy]
    with pytest.raises(SystemExit) if policy == "refuse" else contextlib.nullcontext():
        main([*line, *options])
    told = json.loads(capsys.readouterr().out)
    if policy == "refuse":
        assert not told["ok"] and "11 of 23 captions have more than 8 tokens" in told["reason"]
        return
    said = {"cut": "are cut at a word", "leave_out": "are left out"}[policy]
    assert any("11 of 23 captions" in own and said in own for own in told["warnings"])
    assert any("11 of 23 captions have more than 8 tokens" in note for note in told["notes"])
    assert told["captions"]["captions"] == 23 and told["captions"]["words"]["longest"] == 48
    assert told["tokens"]["modalities"]["caption"]["views"] == 2
