"""The data of a run: moved, touched and copied they are the same; what is not the same is said."""

import csv
import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from conftest import SHARED
from media_files import picture, tone
from nano4m.config.clips import ClipsConfig
from nano4m.config.presets import PRESETS
from nano4m.data import build
from nano4m.errors import UserError
from nano4m.media.sound import SUFFIXES as SOUNDS
from nano4m.pipeline.run import run_one_stage
from nano4m.pipeline.source_data import remembered_data
from nano4m.pipeline.stages import Run, settings_of

LONG_AGO = (10**18, 10**18)


def classes(root: Path) -> Path:
    for k, label in enumerate(("cat", "dog")):
        for number in range(10):
            tone(root / label / f"{number}.wav", hertz=200 + 90 * number + 45 * k)
            picture(root / label / f"{number}.png", (20 * number, 90 * k, 9))
    return root


def with_labels(root: Path) -> Path:
    rows = ["file,label,caption"]
    for path in sorted(classes(root).rglob("*.*")):
        name = path.relative_to(root).as_posix()
        rows.append(f"{name},{name[:3]},a {name[:3]}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


def with_pairs(root: Path) -> Path:
    rows = ["audio_id,class,audio,images,caption"]
    more = ["id,class,kind,file,recording_group,license_note"]
    for path in sorted(classes(root).rglob("*.wav")):
        name = path.relative_to(root).as_posix()
        image = name.replace(".wav", ".png")
        rows.append(f"{name},{name[:3]},{name},{image},a {name[:3]}")
        more += [f"{name},{name[:3]},audio,{name},{name},CC0"]
    (root / "pairs.csv").write_text("\n".join(rows))
    (root / "metadata.csv").write_text("\n".join(more))
    return root


def digits(root: Path) -> Path:
    """Real spoken digits: takes 5 to 9 are for validation."""
    files = sorted((SHARED / "spoken_digits" / "recordings").glob("[0-2]_theo_*.wav"))
    (root / "recordings").mkdir(parents=True)
    for path in files:
        shutil.copy2(path, root / "recordings")
    return root


def animals(root: Path) -> Path:
    """Ducks and pigs of the real animals, with their rows of both lists."""
    source = SHARED / "animals"
    for name, kept in (("pairs.csv", "class"), ("metadata.csv", "class")):
        root.mkdir(parents=True, exist_ok=True)
        with (source / name).open(newline="") as file, (root / name).open("w", newline="") as own:
            rows = csv.DictReader(file)
            writer = csv.DictWriter(own, rows.fieldnames)
            writer.writeheader()
            writer.writerows(row for row in rows if row[kept] in ("duck", "pig"))
    for folder in ("audio/duck", "audio/pig", "images/duck", "images/pig"):
        shutil.copytree(source / folder, root / folder)
    return root


FORMS = {
    "class folders": ("animals", classes),
    "labels.csv": ("animals", with_labels),
    "pairs.csv": ("animals", with_pairs),
    "digits": ("digits", digits),
    "animals": ("animals", animals),
}
real = pytest.mark.skipif(
    not (SHARED / "animals").is_dir() or not (SHARED / "spoken_digits").is_dir(),
    reason="needs the data of ../shared: animals, spoken_digits",
)
forms = pytest.mark.parametrize(
    "form", [pytest.param(f, marks=real) if f in ("digits", "animals") else f for f in FORMS]
)


def a_run(tmp_path: Path, form: str = "class folders", **clips) -> Run:
    preset, make = FORMS[form]
    data = make(tmp_path / "data")
    small = ClipsConfig(
        **{"window_seconds": 0.25, "picture_size": 16, "workers": 0, "require": ()} | clips
    )
    config = PRESETS[preset].model_copy(update={"clips": small})
    return Run(config, tmp_path / "run", data)


def again(run: Run, **changed) -> dict:
    """Run the clips of a later command."""
    return run_one_stage(dataclasses.replace(run, **changed), "clips")


def touch(data: Path, when: tuple[int, int] = LONG_AGO) -> None:
    for path in data.rglob("*"):
        os.utime(path, ns=when)


def train(run: Run) -> Path:
    """Leave something that looks like a training."""
    (run.out / "train").mkdir(parents=True)
    (run.out / "train" / "step-100").write_text("hours of work")
    return run.out / "train"


@pytest.fixture
def no_work(monkeypatch):
    """From its second call on, building clips is an error."""
    calls = []
    made = build.build_clips

    def once(*args):
        assert not calls, "clips are built again"
        calls.append(1)
        return made(*args)

    monkeypatch.setattr(build, "build_clips", once)


# -- the same data -----------------------------------------------------------------------------


@forms
def test_touched_moved_and_copied_data_are_the_same(tmp_path, form, no_work, capsys):
    run = a_run(tmp_path, form)
    first = again(run)
    said = capsys.readouterr().err
    touch(run.data)
    assert again(run) == first
    said = capsys.readouterr().err.replace("\n", " ")
    assert "files have another time and the same contents" in said
    # Compared once: then the new times are known.
    assert again(run) == first
    assert "another time" not in capsys.readouterr().err
    moved = tmp_path / "other disk" / "data"
    moved.parent.mkdir()
    run.data.rename(moved)
    assert again(run, data=moved) == first
    assert remembered_data(run.out) == moved.resolve()
    shutil.copytree(moved, tmp_path / "copy", copy_function=shutil.copy)
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path / "copy")
    for data in (tmp_path / "copy", linked):
        assert again(run, data=data) == first
    assert settings_of(dataclasses.replace(run, data=linked), "report") | {"data": 0} == (
        settings_of(dataclasses.replace(run, data=moved), "report") | {"data": 0}
    )


def test_the_rest_of_an_unfinished_table_is_cut_from_touched_and_moved_data(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SHARD_CLIPS", 8)
    whole = a_run(tmp_path / "whole")
    again(whole)
    expected = [p.read_bytes() for p in sorted((whole.out / "clips").glob("*.parquet"))]
    run, made = a_run(tmp_path / "part"), build.write_batches
    shutil.rmtree(run.data)
    shutil.copytree(whole.data, run.data)

    def stopped(out, index, *args, **more):
        if index == 1:
            raise KeyboardInterrupt
        return made(out, index, *args, **more)

    monkeypatch.setattr(build, "write_batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        again(run)
    monkeypatch.setattr(build, "write_batches", made)
    touch(run.data)
    run.data.rename(tmp_path / "moved")
    again(run, data=tmp_path / "moved")
    assert [p.read_bytes() for p in sorted((run.out / "clips").glob("*.parquet"))] == expected
    touch(tmp_path / "moved", (5, 5))
    (tmp_path / "moved" / "cat" / "3.wav").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 file has other contents \(cat/3.wav\)"):
        again(run, data=tmp_path / "moved")


# -- other data --------------------------------------------------------------------------------


def change_byte(path: Path, keep_time: bool = False) -> None:
    about = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + (0 if keep_time else 1)))


@forms
def test_one_byte_of_a_file_that_was_read_is_said(tmp_path, form):
    run = a_run(tmp_path, form)
    again(run)
    sound = sorted(p for p in run.data.rglob("*") if p.suffix in SOUNDS)[3]
    touch(run.data)
    change_byte(sound)
    name = sound.relative_to(run.data).as_posix()
    with pytest.raises(UserError) as error:
        again(run)
    assert f"1 file has other contents ({name})" in str(error.value)
    assert "A list has changed" not in str(error.value)


def test_a_byte_that_changes_without_size_and_time_is_not_noticed(tmp_path):
    """As documented: what has its name, size and time is taken for the same."""
    run = a_run(tmp_path)
    first = again(run)
    change_byte(run.data / "cat" / "3.wav", keep_time=True)
    assert again(run) == first
    touch(run.data)
    with pytest.raises(UserError, match=r"1 file has other contents \(cat/3.wav\)"):
        again(run)


@pytest.mark.parametrize("change", ["added", "gone", "renamed", "grown", "many"])
def test_files_that_are_added_changed_or_gone_are_said_by_name(tmp_path, change):
    run = a_run(tmp_path)
    again(run)
    file = run.data / "dog" / "3.png"
    if change == "added":
        tone(run.data / "cat" / "late.wav", hertz=3000)
        said = r"1 file is new \(cat/late.wav\)"
    elif change == "gone":
        file.unlink()
        said = r"1 file is gone \(dog/3.png\)"
    elif change == "renamed":
        file.rename(file.with_name("other.png"))
        said = r"1 file is new \(dog/other.png\); 1 file is gone \(dog/3.png\)"
    elif change == "grown":
        about = file.stat()
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        said = r"1 file has other contents \(dog/3.png\)"
    else:
        for path in (run.data / "dog").glob("*.wav"):
            change_byte(path)
        said = r"10 files have other contents \(dog/0.wav, dog/1.wav, dog/2.wav, \.\.\.\)"
    touch(run.data)
    with pytest.raises(UserError, match=said):
        again(run)


@pytest.mark.parametrize(
    ("form", "table"),
    [("labels.csv",) * 2, ("pairs.csv",) * 2, ("pairs.csv", "metadata.csv")],
)
def test_a_changed_list_is_said_with_what_it_means(tmp_path, form, table):
    run = a_run(tmp_path, form)
    again(run)
    path = run.data / table
    path.write_text(path.read_text().replace("cat/1.wav,cat", "cat/1.wav,cow"))
    with pytest.raises(UserError) as error:
        again(run)
    assert f"1 file has other contents ({table})" in str(error.value)
    assert "A list has changed: classes, captions, groups and splits" in str(error.value)


def test_a_picture_that_no_clip_reads_counts_by_name_and_size(tmp_path):
    run = a_run(tmp_path, "labels.csv")
    tone(run.data / "extra.wav")
    first = again(run)
    change_byte(run.data / "extra.wav")
    assert again(run) == first
    (run.data / "extra.wav").unlink()
    with pytest.raises(UserError, match=r"1 file is gone \(extra.wav\)"):
        again(run)
