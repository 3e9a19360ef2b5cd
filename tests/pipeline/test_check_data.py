"""check-data over folders of many forms: what it counts is what the clips of a run are."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from media_files import picture, tone, video
from nano4m.cli import main
from nano4m.config.clips import ClipsConfig
from nano4m.config.presets import PRESETS
from nano4m.config.run import Config
from nano4m.data.build import build_clips
from nano4m.data.clip_table import open_clips
from nano4m.errors import UserError
from nano4m.pipeline.check_data.command import check_data
from nano4m.pipeline.check_data.facts import FORMAT, FolderCheck
from nano4m.tokenizers.fit import fit_tokenizers
from refusals import refused


def config(**changes) -> Config:
    base = PRESETS["animals"]
    clips = ClipsConfig(**base.clips.model_dump() | {"workers": 0} | changes)
    dataset = base.dataset.model_copy(update={"min_per_class": 2})
    return base.model_copy(update={"clips": clips, "dataset": dataset})


def media(
    root: Path, where="{kind}/{label}", labels=("cat", "dog"), count=6, first=0
) -> list[tuple]:
    """Write sounds and pictures of each class, all different; return (sound, label, pictures)."""
    rows = []
    for n, label in enumerate(labels):
        for i in range(count):
            number = first + n * count + i
            at = root / where.format(kind="audio", label=label)
            sound = tone(at / f"s{number}.wav", 0.5 + 0.1 * i, hertz=300 + 90 * number)
            at = root / where.format(kind="images", label=label)
            image = picture(at / f"p{number}.png", (number * 19 % 256, 255 - number * 7, n * 80))
            rows.append((sound.relative_to(root), label, image.relative_to(root)))
    return rows


def table(path: Path, head: str, rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head.split(","), *rows])


def classes(root: Path) -> None:
    media(root)
    (root / "audio/cat/notes.txt").write_text("no medium")
    (root / "images/dog/broken.png").write_bytes(b"no picture")


def packed(root: Path) -> None:
    for split, count, first in (("train", 5, 0), ("valid", 3, 10), ("test", 3, 20)):
        media(root / split, "{label}", count=count, first=first)


def labels(root: Path) -> None:
    rows = [
        [s, label, f"a {label} {i}", f"g{i // 2}"] for i, (s, label, _) in enumerate(media(root))
    ]
    tone(root / "other.wav")
    table(root / "labels.csv", "file,label,caption,group", [*rows, ["gone.wav", "cat", "", ""]])


def pairs(root: Path) -> None:
    rows = [
        [f"id{i}", label, f"./{sound}", image, "one caption for all"]
        for i, (sound, label, image) in enumerate(media(root))
    ]
    table(root / "pairs.csv", "audio_id,class,audio,images,caption", rows)


def pairs_with_metadata(root: Path) -> None:
    pairs(root)
    rows = [[f"id{i}", s, f"g{i // 3}"] for i, (s, _, _) in enumerate(media(root))]
    table(root / "metadata.csv", "id,file,recording_group", rows)


def copies(root: Path) -> None:
    media(root)
    for i in range(3):
        shutil.copy(root / "audio/cat/s0.wav", root / f"audio/cat/copy{i}.wav")


def damaged(root: Path) -> None:
    media(root, count=8)
    (root / "audio/cat/s1.wav").write_bytes(b"")
    (root / "audio/dog/s9.wav").write_bytes(b"<html>404</html>")
    (root / "audio/dog/s10.wav").unlink()
    (root / "audio/dog/s10.wav").symlink_to("nowhere.wav")
    cut = root / "audio/dog/s11.wav"
    cut.write_bytes(cut.read_bytes()[:-3000])


def films(root: Path) -> None:
    media(root, "{label}")
    for label in ("cat", "dog"):
        for i in range(2):
            video(root / label / f"film{i}.mkv", has_sound=i > 0)


def loose(root: Path) -> None:
    for i in range(12):
        tone(root / f"s{i}.wav", 1.0, hertz=200 + 40 * i)
        picture(root / f"p{i}.png", (i * 20, 40, 90))


FORMS = (classes, packed, labels, pairs, pairs_with_metadata, copies, damaged, films, loose)


def planned(rows: dict) -> dict:
    return {key: plan for key, (_, plan) in rows.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("require", [(), ("picture", "sound")])
def test_a_check_counts_what_the_clips_of_a_run_are(tmp_path, form, require):
    form(tmp_path / "data")
    chosen = config(require=require)
    check = check_data(chosen, tmp_path / "data")
    made = build_clips(chosen, tmp_path / "data", tmp_path / "clips")
    if form is loose:  # without class or list there is no caption
        with pytest.raises(UserError, match="have no caption"):
            fit_tokenizers(chosen, open_clips(tmp_path / "clips"), tmp_path / "tokenizers")
        assert "no train clip has caption" in check.reason and "--without caption" in check.reason
    else:
        assert check.ok, check.reason
    assert planned(check.splits) == planned(made["by_split"])
    by_both = {
        f"{label}, {split}": n
        for label, own in check.classes.items()
        for split, n in own["clips"].items()
        if n
    }
    assert by_both == planned(made["by_label_and_split"])
    lost = {own["reason"]: own["count"] for own in check.left_out if own["what"] == "clips"}
    # Headers tell of all that is wrong in these folders, but for media that are decoded.
    assert lost == made["reasons"]
    assert {k: v[0] for k, v in check.splits.items()} == {
        k: v[0] for k, v in made["by_split"].items()
    }
    unread = {own["reason"]: own["count"] for own in check.left_out if own["what"] == "files"}
    assert unread == {why: sum(by.values()) for why, by in made["files_not_read"].items()}
    assert all(own["first"] for own in check.left_out)


def test_nothing_is_decoded_and_nothing_written(tmp_path, monkeypatch):
    data = tmp_path / "data"
    films(data)
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    decoders = (
        "soundfile.SoundFile.read",
        "nano4m.media.tracks.samples_of",
        "nano4m.media.film.Film.frames",
        "PIL.ImageFile.ImageFile.load",
    )
    for place in decoders:
        monkeypatch.setattr(place, lambda *given, **more: pytest.fail("decoded"))
    monkeypatch.chdir(tmp_path)
    assert check_data(config(), data).ok
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_groups_lengths_and_rates_are_those_of_the_files(tmp_path):
    labels(tmp_path)
    tone(tmp_path / "audio/cat/s0.wav", seconds=3.0, rate=16000)
    check = check_data(config(), tmp_path)
    assert check.groups["groups"] == 7 and check.groups["largest"] == 2
    assert check.groups["in_two_splits"] == 0 and len(check.groups["example"]) == 2
    assert check.durations["longest"] == 3.0 and check.durations["shortest"] == 0.5
    assert check.sample_rates == {"8000": 11, "16000": 1}
    assert check.classes["cat"]["seconds"] == pytest.approx(
        3.0 + 0.6 + 0.7 + 0.8 + 0.9 + 1.0, abs=0.1
    )
    assert check.picture_sizes["median"] == [64, 64] and check.picture_sizes["pictures"] == 12
    assert check.captions["different"] == 12 and check.form == "as its labels.csv says"
    rgb, sound = (check.tokens["modalities"][name] for name in ("rgb", "sound"))
    assert (rgb["tokens"], rgb["views"], sound["tokens"], sound["views"]) == (64, 4, 32, 8)
    assert sound["in_all"] == 12 * 32 * 8
    least, most = check.time["seconds"]
    assert 0 < least < sum(check.time["stages"].values()) < most


@pytest.mark.parametrize("given", ["missing", "file", "empty", "unread", "other"])
def test_a_wrong_folder_is_answered_with_one_sentence(tmp_path, capsys, monkeypatch, given):
    at = tmp_path / given
    if given == "file":
        at.write_text("x")
    elif given != "missing":
        at.mkdir()
    if given == "unread":
        scandir = os.scandir

        def denied(path):
            if Path(path) == at:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)
    if given == "other":
        (at / "notes.txt").write_text("no medium")
    said = refused(capsys, "check-data", str(at))
    words = {
        "missing": "there is no folder", "file": "is a file", "empty": "is empty",
        "unread": "no permission to read it", "other": "no sound, no video and no picture",
    }  # fmt: skip
    assert words[given] in said and str(at) in said
    assert given == "other" or "\n" not in said


def test_a_folder_that_would_not_do_ends_with_two_and_the_reason(tmp_path, capsys):
    media(tmp_path / "one", labels=("cat",), count=2)
    said = refused(capsys, "check-data", str(tmp_path / "one"))
    assert "a run would not work: no class has 5 recordings" in said
    media(tmp_path / "two", count=6)
    for path in (tmp_path / "two/audio").rglob("*.wav"):
        path.write_bytes(b"nonsense")
    assert "12 unreadable file" in refused(capsys, "check-data", str(tmp_path / "two"))
    for i in range(16):
        tone(tmp_path / "three" / "cat" / f"{i}.wav", hertz=300 + 50 * i)
    said = refused(capsys, "check-data", str(tmp_path / "three"))
    assert "no train clip has picture" in said and "--without rgb" in said
    main(["check-data", str(tmp_path / "three"), "--without", "rgb"])
    assert "a run would work, on 16 clips of 1 class" in capsys.readouterr().out


def test_the_reason_is_in_the_json_too(tmp_path, capsys):
    media(tmp_path, labels=("cat",), count=2)
    with pytest.raises(SystemExit) as stop:
        main(["check-data", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert stop.value.code == 2 and not told["ok"] and "no class has 5" in told["reason"]
    assert told["format"] == FORMAT and told["classes"]["cat"]["sounds"] == 2


def test_options_are_those_of_a_run(tmp_path, capsys):
    media(tmp_path, labels=("cat", "dog"), count=8)
    tone(tmp_path / "audio/owl/a.wav")
    line = ["check-data", str(tmp_path), "--json"]
    main([*line, "--dataset.val-share", "0.5", "--clips.frames", "2"])
    told = json.loads(capsys.readouterr().out)
    assert told["splits"]["val"] == [8, 8] and told["tokens"]["modalities"]["rgb"]["views"] == 2
    assert "train" in told["time"]["stages"]
    assert "check-data looks at a folder as animals or reference" in refused(
        capsys, *line, "--preset", "farm"
    )
    assert "--without depth,normals" in refused(capsys, *line, "--preset", "reference")
    assert "the folder comes first" in refused(capsys, "check-data", "--json")


@pytest.mark.parametrize("number", range(3))
def test_a_check_of_a_plan_that_drops_classes_is_caught(tmp_path, number, monkeypatch):
    """A planted fault: counts that are not those of the plan differ from the manifest."""
    FORMS[number](tmp_path / "data")
    from nano4m.pipeline.check_data import planned as module

    whole = module.plan_contents

    def without_last(*given):
        plans = whole(*given)
        plans.pop()
        return plans

    monkeypatch.setattr(module, "plan_contents", without_last)
    check = check_data(config(), tmp_path / "data")
    made = build_clips(config(), tmp_path / "data", tmp_path / "clips")
    assert planned(check.splits) != planned(made["by_split"])


def test_fields_of_a_check_are_the_documented_ones():
    documented = FolderCheck.__doc__ or ""
    fields = FolderCheck(folder="", preset="").as_json().keys() - {"format"}
    assert all(f"        {name}: " in documented for name in fields)
    page = (Path(__file__).resolve().parents[2] / "docs" / "CHECK_DATA.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*fields, "format"))


def test_the_same_folder_elsewhere_gives_the_same_check(tmp_path):
    pairs_with_metadata(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (check_data(config(), tmp_path / name).as_json() for name in ("a", "b"))
    for own in (first, second):
        del own["folder"], own["time"]
    assert first == second
