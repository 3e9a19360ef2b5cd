"""check-data --deep over folders with what only decoding tells; the page of a check."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_check_data import FORMS, config, damaged, films, media, planned

from conftest import SHARED
from media_files import picture, tone
from nano4m.cli import main
from nano4m.data.build import build_clips
from nano4m.errors import UserError
from nano4m.media.headers import film_header, sound_header
from nano4m.pipeline.check_data.command import check_data

ANIMALS = SHARED / "animals"


def by_both(check) -> dict[str, list[int]]:
    return {
        f"{label}, {split}": [own["kept"][split], n]
        for label, own in check.classes.items()
        for split, n in own["clips"].items()
        if n
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_deep_check_agrees_with_the_manifest_of_a_run(tmp_path, form):
    form(tmp_path / "data")
    chosen = config(require=("sound",))
    check = check_data(chosen, tmp_path / "data", deep=True)
    made = build_clips(chosen, tmp_path / "data", tmp_path / "clips")
    assert by_both(check) == made["by_label_and_split"] == check.decoded["by_class_and_split"]
    assert check.splits == made["by_split"]
    assert check.decoded["reasons"] == made["reasons"]
    assert check.decoded["files_left_out"] == made["files_left_out"]
    lost = {own["reason"]: own["count"] for own in check.left_out if own["what"] == "clips"}
    assert lost == made["reasons"]


@pytest.mark.parametrize("deep", [False, True])
def test_several_windows_of_a_recording_are_counted(tmp_path, deep):
    for i in range(12):
        tone(tmp_path / "data" / "cat" / f"s{i}.wav", 1.0 + i / 4, hertz=200 + 40 * i)
    chosen = config(windows_per_recording=3, window_seconds=0.5)
    chosen = chosen.model_copy(
        update={"tokenizers": {k: v for k, v in chosen.tokenizers.items() if k != "rgb"}}
    )
    check = check_data(chosen, tmp_path / "data", deep=deep)
    made = build_clips(chosen, tmp_path / "data", tmp_path / "clips")
    assert check.ok and made["kept"] > 30
    found = {split: kept for split, (kept, _) in check.splits.items()}
    real = {split: kept for split, (kept, _) in made["by_split"].items()}
    if deep:
        assert found == real
    # Windows that do not overlap leave room between them: headers tell how many there may be.
    assert all(real[split] <= found[split] <= 1.25 * real[split] for split in real)


def noisy(path: Path, seed: int, seconds: float = 1.0, level: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sound = level * rng.normal(size=round(16000 * seconds)).clip(-3, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound.clip(-1, 1), 16000)
    return sound


def noises(data: Path, count: int = 24) -> None:
    for i in range(count):
        noisy(data / ("cat", "dog")[i % 2] / f"s{i}.wav", i)
        picture(data / ("cat", "dog")[i % 2] / f"p{i}.png", (i * 9, 250 - i * 9, i % 2 * 99))


def test_what_only_decoding_tells_is_found(tmp_path):
    data = tmp_path / "data"
    noises(data)
    quiet = data / "cat" / "s0.wav"
    soundfile.write(quiet, np.zeros(16000), 16000)
    sound = noisy(data / "dog" / "s1.wav", 1, level=0.3)
    soundfile.write(data / "dog" / "s1.wav", (8 * sound).clip(-1, 1), 16000)
    check = check_data(config(), data)
    assert not [own for own in check.left_out if own["what"] == "clips"]
    deep = check_data(config(), data, deep=True)
    assert deep.decoded["reasons"] == {"silent": 1} and "1 silent clip" in deep.warnings
    assert deep.decoded["clipped"] == {"count": 1, "first": ["s1.wav"]}
    assert deep.decoded["level_db"]["loudest"] > -3
    assert deep.decoded["lengths"]["files"] == 24
    assert deep.decoded["lengths"]["median"] == pytest.approx(1.0)


def test_a_sound_saved_again_in_another_split_is_found(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "val"):
        noises(data / split, 12)
        for i, path in enumerate(sorted((data / split).rglob("*.wav"))):
            noisy(path.rename(path.with_name(f"{split}{i}.wav")), 100 * (split == "val") + i)
            picture(path.with_suffix(".png"), (i, 200 * (split == "val"), 3))
    for path in (data / "val").rglob("p*.png"):
        path.unlink()
    copy = data / "val" / "cat" / "val0.wav"
    original, rate = soundfile.read(data / "train" / "cat" / "train0.wav")
    soundfile.write(copy.with_suffix(".flac"), 0.7 * original, rate)
    assert not check_data(config(require=("sound",)), data).decoded
    deep = check_data(config(require=("sound",)), data, deep=True)
    assert deep.decoded["duplicates"]["count"] == 1
    assert any("sound or picture of one of another split" in line for line in deep.warnings)


def test_a_header_that_lies_about_its_length_is_named(tmp_path, monkeypatch):
    data = tmp_path / "data"
    noises(data)
    from nano4m.pipeline.check_data import planned as module

    header = module.sound_header
    monkeypatch.setattr(
        module, "sound_header", lambda path: replace(header(path), seconds=header(path).seconds * 3)
    )
    deep = check_data(config(), data, deep=True)
    assert deep.decoded["other_lengths"]["count"] == 24
    assert "1.00 s, and its header says 3.00 s" in deep.decoded["other_lengths"]["first"][0]


def test_a_deep_check_of_nothing_that_decodes_ends_with_the_reason(tmp_path):
    data = tmp_path / "data"
    media(data)
    for path in (data / "audio").rglob("*.wav"):
        soundfile.write(path, np.zeros(8000), 8000)
    assert check_data(config(), data).ok
    deep = check_data(config(), data, deep=True)
    assert not deep.ok and "12 x silent" in deep.reason
    assert (
        "manifest.csv" not in deep.reason
        and str(tmp_path.parent.parent / "nano4m") not in deep.reason
    )


# -- headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_headers_say_the_length_that_decodes(tmp_path, ending):
    for seed in range(3):
        path = tmp_path / f"s{seed}.{ending}"
        noisy(path, seed, seconds=0.7 + seed)
        header = sound_header(path)
        assert header.seconds == pytest.approx(0.7 + seed, abs=0.1) and header.rate == 16000


def test_headers_of_films_say_what_they_lack(tmp_path):
    films(tmp_path)
    silent, loud = (film_header(tmp_path / "cat" / f"film{i}.mkv") for i in range(2))
    assert silent.absent.keys() == {"sound"} and not loud.absent
    assert (
        loud.size == (64, 48) and loud.rate == 44100 and loud.seconds == pytest.approx(2, abs=0.1)
    )


# -- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
def test_the_page_shows_and_plays_clips_and_needs_nothing_else(tmp_path, deep):
    damaged(tmp_path / "data")
    (tmp_path / "data" / "audio" / "<b>cat & co").mkdir()
    page = tmp_path / "check.html"
    line = ["check-data", str(tmp_path / "data"), "--html", str(page), "--clips.workers", "0"]
    main([*line, "--deep"] if deep else line)
    text = page.read_text()
    assert text.count("<audio") >= 8 and text.count('class="pixels"') >= 8
    assert "http" not in text.replace("http://www.w3.org", "") and 'src="data:' in text
    assert "unreadable file" in text and "s9.wav" in text and "min-per-class" not in text
    assert all(
        f'id="{key}"' in text for key in ("warnings", "folder", "classes", "left-out", "clips")
    )


def test_a_page_is_not_written_where_it_must_not_be(tmp_path):
    media(tmp_path / "data")
    for page, words in (
        (tmp_path / "data" / "x.html", "lies in"),
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "x.html", "there is no folder"),
    ):
        with pytest.raises(UserError, match=words):
            check_data(config(), tmp_path / "data", page=page)
        assert not page.is_file()


def test_names_of_files_are_escaped_on_the_page(tmp_path):
    data = tmp_path / "data"
    noises(data)
    shutil.copytree(data / "cat", data / "<i>owl & co")
    for i, path in enumerate(sorted((data / "<i>owl & co").glob("*.wav"))):
        noisy(path, 900 + i)
    for i, path in enumerate(sorted((data / "<i>owl & co").glob("*.png"))):
        Image.new("RGB", (70, 70), (i, i, 255)).save(path)
    check_data(config(), data, page=tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert "<i>owl" not in text and "&lt;i&gt;owl &amp; co" in text


@pytest.mark.skipif(not ANIMALS.is_dir(), reason="needs the data of ../shared: animals")
def test_real_sounds_are_read_as_the_documents_say(capsys):
    main(["check-data", str(ANIMALS), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["splits"] == {"train": [367, 367], "val": [64, 64]}
    assert told["groups"]["groups"] == 355 and told["tokens"]["a_clip"] == 104
    page = (Path(__file__).resolve().parents[2] / "docs" / "CHECK_DATA.md").read_text()
    assert all(f"! {warning}\n" in page for warning in told["warnings"])
    assert planned(told["splits"]) == {"train": 367, "val": 64}


ODD = SHARED / "odd_files"
CASES = (
    "splits",
    "one_folder_above",
    "symlinked_class",
    "dangling_link",
    "class_names",
    "m4a_class",
)


@pytest.mark.skipif(
    not (ODD.is_dir() and ANIMALS.is_dir()),
    reason="needs the data of ../shared: odd_files, animals",
)
@pytest.mark.parametrize("case", CASES)
def test_odd_folders_are_counted_as_a_run_does(tmp_path, case):
    data = tmp_path / "data"
    subprocess.run([sys.executable, ODD / "make_folder.py", case, data], check=True)
    chosen = config()
    check = check_data(chosen, data)
    try:
        made = build_clips(chosen, data, tmp_path / "clips")
    except UserError:
        assert not check.ok
        return
    assert by_both(check) == made["by_label_and_split"]
