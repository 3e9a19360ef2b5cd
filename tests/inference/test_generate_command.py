"""``nano4m generate`` on a tiny run made by the real stages: media in, media out, mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from nano4m.cli import main
from nano4m.config.generation import GenerateConfig
from nano4m.config.presets import FARM
from nano4m.data.clip_table import open_clips
from nano4m.inference.inputs import read_files
from nano4m.inference.loaded_run import DRAWS, open_run, times_unconditional
from nano4m.inference.plan import merge_settings
from nano4m.masking import STRATEGIES
from nano4m.modalities import MODALITIES
from nano4m.tokenizers import load_tokenizer
from nano4m.tokens.table import open_table

GRIDS = [name for name in FARM.tokenizers if MODALITIES[name].layout == "grid"]
FITTED = [name for name in FARM.tokenizers if MODALITIES[name].layout != "text"]
TINY = f"""
  --dataset.train 22 --dataset.val 11 --dataset.test 11 --dataset.picture-size 32
  --dataset.seconds 0.4
  --clips.window-seconds 0.4 --clips.picture-size 32 --clips.workers 0
  {" ".join(f"--tokenizers.{name}.grid 4" for name in GRIDS)}
  {" ".join(f"--tokenizers.{name}.{option}" for name in FITTED
            for option in ("vocab 32", "width 8", "steps 2", "batch-size 8"))}
  --broken-tokenizers accept --tokenizers.sound.griffin-lim 1 --tokenizers.sound.codebooks 2
  --masking.group-size 8
  --model.encoder-depth 1 --model.decoder-depth 1 --model.dim 16 --model.head-dim 8
  --train.batch-size 16 --train.steps 2 --train.warmup 1 --train.val-samples 16
  --generate.steps 3 --generate.modalities sound.temperature=1 sound.noise=2
""".split()  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose training is finished, and nothing after it."""
    out = tmp_path_factory.mktemp("run") / "run"
    for stage in ("clips", "tokenizers", "table", "train"):
        main([stage, "farm", "--out", str(out), *TINY])
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Media of a user."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(folder / "dog.wav", np.stack([tone, tone], 1), 44100)
    soundfile.write(folder / "short.wav", tone[:4410], 44100)
    soundfile.write(folder / "silent.wav", 0 * tone, 44100)
    (folder / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(folder / "cat.png")
    np.save(folder / "far.npy", np.linspace(1, 9, 1600, dtype=np.float32).reshape(40, 40))
    np.save(folder / "flat.npy", np.ones(7, np.float32))
    return folder


@pytest.fixture
def make(run, tmp_path):
    """Call the command; return its folder and record."""

    def call(*arguments: str, folder: str = "made") -> tuple[Path, dict]:
        out = tmp_path / folder
        main(["generate", "--run", str(run), "--dir", str(out), *arguments])
        return out, json.loads((out / "generate.json").read_text())

    return call


@pytest.fixture
def fails(run, tmp_path, capsys):
    """Call the command as a user who is wrong: exit 2, one message, nothing written."""

    def call(*arguments: str, run: Path = run) -> str:
        out = tmp_path / "wrong"
        with pytest.raises(SystemExit) as stop:
            main(["generate", "--run", str(run), "--dir", str(out), *arguments])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in said
        assert not out.exists(), "a command that is refused writes nothing"
        return re.sub(r"[^ -~]+", " ", said.replace("\n", " "))

    return call


def ids_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "ids.npz") as archive:
        return dict(archive)


# -- from files --------------------------------------------------------------------------------


def test_files_to_every_kind_of_media(make, files, run, capsys):
    out, record = make(
        "--in", str(files / "dog.wav"), "--out", ",".join(["caption", *GRIDS]), "--n", "2",
        "--steps", "12", "--guidance", "3", "--sheet",
    )  # fmt: skip
    said = capsys.readouterr().err
    assert "dog.wav: sound; 1.00 s, longer than the window of 0.4 s" in said
    assert "diversity of rgb (real clips): distinct" in said
    names = ["dog-00", "dog-01"]
    endings = [f"{m}.png" for m in GRIDS] + ["caption.txt"]
    wanted = {f"{name}.{ending}" for name in names for ending in endings}
    wanted |= {"ids.npz", "sheet.png", "sounds.png"}
    assert set(record["files"]) == wanted and record["samples"] == names
    assert {p.name for p in out.iterdir()} == wanted | {"generate.json"}
    ids = ids_of(out)
    for name in GRIDS:  # a file holds what the tokenizer makes of the ids
        tokenizer = load_tokenizer(run / "tokenizers" / name)
        media = tokenizer.decode(torch.from_numpy(ids[name].astype(np.int64)).view(-1, 4, 4))
        with Image.open(out / f"dog-01.{name}.png") as image:
            assert image.size == (32, 32)
            assert (image.mode == "RGB") == (media.shape[1] == 3)
            if name == "rgb":
                expected = (media[1].clamp(0, 1).movedim(0, -1) * 255).round()
                assert np.abs(np.asarray(image, float) - expected.numpy()).max() <= 1
            if image.mode != "RGB":
                found = np.asarray(image, float) / 65535
                assert np.abs(found - media[1, 0].clamp(0, 1).numpy()).max() < 1e-4
    settings = {s["target"]: s["settings"] for chain in record["chains"] for s in chain}
    assert all(s["steps"] == 12 and s["guidance"] == 3 for s in settings.values())
    assert record["fingerprints"]["tokenizers"] == open_table(run / "table").token_spec.tokenizers
    assert record["provenance"]["versions"]["torch"] and len(record["inputs"][0]["given"]) == 1
    assert record["diversity"]["rgb"]["generated"]["distinct_sequences"] in (0.5, 1.0)


def test_a_file_takes_the_road_of_the_clips_stage(run, tmp_path):
    clips = open_clips(run / "clips")
    picture = clips.media("picture", [40], frame=0)[0]
    sound = clips.media("sound", [40])[0].numpy()
    soundfile.write(tmp_path / "same.wav", sound, clips.sample_rate, subtype="PCM_16")
    pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "same.png")
    opened = open_run(run, "cpu")
    given = read_files(
        [str(tmp_path / "same.wav"), str(tmp_path / "same.png")], None, opened, lambda text: None
    )
    table = open_table(run / "table")
    ids, _ = table.gather(np.array([40]), None)
    assert given.inputs_L.sum() == 16 + opened.by_name["sound"].length
    same = given.ids_L[given.inputs_L] == torch.from_numpy(ids[0])[given.inputs_L]
    assert same.float().mean() > 0.9, "a JPEG of a JPEG may move a token, no more"
    assert same[16:].all(), "a sound of the window's length is kept to the bit"


def test_depth_and_normals_come_back_in(make, files, capsys):
    first, _ = make("--in", str(files / "cat.png"), "--in", str(files / "far.npy"),
                    "--out", "normals,sound", folder="first")  # fmt: skip
    sound, rate = soundfile.read(first / "cat-00.sound.wav")
    assert rate == 24000 and len(sound) == 9600
    assert (first / "cat-00.normals.png").exists()
    normals = f"normals={first / 'cat-00.normals.png'}"
    out, record = make("--in", normals, "--caption", "a dog", "--out", "depth", folder="second")
    assert [g.get("modalities") for g in record["inputs"][0]["given"]] == [["normals"], ["caption"]]
    assert "cat.png: rgb; 70 x 50 pixels, the square in its centre" in capsys.readouterr().err
    depth = str(out / "cat-00.normals-00.depth.png")
    again, _ = make("--in", depth, "--out", "rgb", folder="third")
    assert list(ids_of(again)) == ["sample_names", "rgb"]


def test_the_same_seed_gives_the_same_and_n_does_not_change_a_sample(make, files):
    given = ["--in", str(files / "dog.wav"), "--out", "rgb"]
    two, _ = make(*given, "--n", "2", folder="two")
    four, _ = make(*given, "--n", "4", "--batch-size", "3", folder="four")
    other, _ = make(*given, "--n", "4", "--seed", "1", folder="other")
    a, b, c = (ids_of(folder)["rgb"] for folder in (two, four, other))
    assert (a == b[:2]).all() and (b != c).any()
    assert len({tuple(row) for row in b.tolist()}) > 1


# -- from clips, chains, parts -----------------------------------------------------------------


def test_clips_of_the_run_and_a_chain(make, run):
    out, record = make("--split", "test", "--rows", "0:3", "--input-modalities", "sound", "--chain",
                       "caption,rgb,depth", "--conditions", "sound=2", "--n", "2")  # fmt: skip
    clips = open_table(run / "table").clip_ids[open_table(run / "table").rows("test")[:3]]
    assert [i["clip_id"] for i in record["inputs"]] == clips.tolist()
    assert record["samples"] == [f"{clip}-0{k}" for clip in clips for k in range(2)]
    (chain,) = record["chains"]
    joined = [[(c["sources"], c["weight"]) for c in step["conditions"]] for step in chain]
    assert joined[0] == [(["sound"], 2.0)]
    assert joined[2] == [(["sound"], 2.0), (["caption"], 3.0), (["rgb"], 3.0)]
    named, _ = make("--clips", str(clips[1]), "--input-modalities", "sound", "--chain",
                    "caption,rgb,depth", "--conditions", "sound=2", folder="one")  # fmt: skip
    assert (ids_of(named)["depth"][0] == ids_of(out)["depth"][2]).all()


def test_what_is_kept_stays(make, run, files):
    table = open_table(run / "table")
    row = table.rows("test")[0]
    out, record = make("--clips", str(table.clip_ids[row]), "--out", "sound,rgb", "--keep",
                       "sound=0:5", "rgb=2:4", "--input-modalities", "depth", "--n",
                       "3")  # fmt: skip
    ids = ids_of(out)
    assert (ids["sound"][:, :10] == table.ids["sound"][row, 0, :10]).all()
    assert (ids["rgb"][:, 8:] == table.ids["rgb"][row, 0, 8:]).all()
    assert len({tuple(r) for r in ids["sound"][:, 10:].tolist()}) == 3
    assert (ids["sound"][:, 0::2] < 32).all() and (ids["sound"][:, 1::2] >= 32).all()
    assert record["keep"] == {"sound": [0, 5], "rgb": [2, 4]}


def test_something_from_nothing(make):
    out, record = make("--out", "depth", "--n", "2")
    assert record["inputs"][0]["name"] == "nothing" and (out / "nothing-01.depth.png").exists()


def test_a_folder_in_use_is_replaced_only_on_demand(make, run, tmp_path, capsys):
    out, _ = make("--caption", "a dog", "--out", "rgb", "--n", "3")
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        make("--caption", "a dog", "--out", "rgb")
    assert "is not empty; choose another folder, or add --overwrite" in capsys.readouterr().err
    assert (out / "caption-02.rgb.png").exists()
    make("--caption", "a dog", "--out", "depth", "--overwrite")
    assert {p.name for p in out.iterdir()} == {
        "mine.txt", "caption-00.depth.png", "ids.npz", "generate.json",
    }  # fmt: skip


# -- settings ----------------------------------------------------------------------------------


def test_the_nearest_setting_wins(run):
    config = GenerateConfig(temperature=0.5, modalities={"sound": {"temperature": 1, "noise": 2}})
    found = merge_settings(config, {"temperature": 0.9, "modalities": {"rgb": {"steps": "4"}}})
    assert found.for_modality("sound").temperature == found.temperature == 0.9
    assert found.for_modality("sound").noise == 2 and found.for_modality("rgb").steps == 4
    own = open_run(run, "cpu").config.generate
    assert own.for_modality("sound").noise == 2 and own.steps == 3


def test_guidance_is_refused_where_nothing_was_ever_dropped(run, tmp_path, fails, files):
    assert min(times_unconditional(open_run(run, "cpu")).values()) > 0.002 * DRAWS
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["masking"] |= dict.fromkeys(STRATEGIES, 0.0) | {"dirichlet": 1.0}
    config["generate"]["guidance"] = 1.0
    (other / "config.json").write_text(json.dumps(config))
    assert times_unconditional(open_run(other, "cpu")) == dict.fromkeys(FARM.tokenizers, 0)
    sound = ["--in", str(files / "dog.wav"), "--out", "rgb"]
    said = fails(*sound, "--guidance", "3", run=other)
    assert "guidance needs what the model says of 'rgb' when nothing is given" in said
    assert "--masking.any-to-any 0.9" in said
    assert "never asked" in fails(*sound, "--conditions", "sound=2", run=other)
    assert "making something from nothing needs" in fails(
        "--out", "rgb", "--guidance", "1", run=other
    )


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        ("--in dog.wav", "give what to make with either --out NAME,NAME"),
        ("--in dog.wav --out rgb --chain depth", "give what to make with either"),
        ("--in dog.wav --out rbg", "--out rbg: FOLDER has no 'rbg'; did you mean 'rgb'?"),
        ("--in dog.wav --out rgb,rgb", "'rgb' stands there twice"),
        ("--in dog.wav --out sound", "'sound' is given and asked for"),
        ("--in nowhere.wav --out rgb", "no file at nowhere.wav"),
        ("--in broken.wav --out rgb", "unreadable file: broken.wav"),
        ("--in silent.wav --out rgb", "silent: -200.0 dB, below silence_db"),
        ("--in notes.pdf --out rgb", "'.pdf' is not read; choose from"),
        ("--in depth=cat.png --out rgb", "cat.png is no PNG of one channel of 16 bits"),
        ("--in normals=cat.png --out rgb", "cat.png does not hold unit vectors"),
        ("--in flat.npy --out rgb", "flat.npy holds float32 (7,), not floats (H, W)"),
        ("--in sond=dog.wav --out rgb", "has no 'sond'; did you mean 'sound'?"),
        ("--in caption=notes.pdf --out rgb", "'caption' is text; give it with --caption"),
        ("--in dog.wav --in short.wav --out rgb", "'sound' is given by another file already"),
        ("--caption= --out rgb", "--caption is empty"),
        ("--caption dog --split test --out rgb", "cannot be given at once"),
        ("--clips farm_9 --out rgb", "--clips farm_9: no clip of FOLDER has this id"),
        ("--clips farm_000001,farm_000001 --out rgb", "farm_000001 stands there twice"),
        (
            "--in dog.wav --out rgb --guidance nan",
            "--guidance nan: must be a finite number from -1000",
        ),
        ("--in dog.wav --out rgb --conditions sound=inf", "MODALITY=WEIGHT, such as sound=2"),
        ("--clips farm_000001 --rows 0:1 --out rgb", "--clips names clips"),
        ("--split test --rows 5:99 --out rgb", "--rows 5:99: FIRST:LAST with 0 <= FIRST < LAST"),
        (
            "--split test --input-modalities sond --out rgb",
            "--input-modalities sond: FOLDER has no 'sond'",
        ),
        ("--in dog.wav --input-modalities sound --out rgb", "add --clips or --split"),
        ("--in dog.wav --out rgb --n 0", "--n 0: must be a whole number from 1 to 4096"),
        (
            "--in dog.wav --out rgb --seed -1",
            "--seed -1: must be a whole number from 0 to 2147483647",
        ),
        ("--split train --out rgb --n 4000", "are 88000 samples, at most 4096"),
        ("--in dog.wav --out rgb --batch-size 0", "--batch-size 0: must be a whole number from 1"),
        ("--in dog.wav --out rgb --steps 17", "--steps 17: 'rgb' has 16 tokens to fill"),
        (
            "--in dog.wav --out rgb --top-p 3",
            "--top-p 3.0: must be a finite number from 1e-06 to 1",
        ),
        ("--in dog.wav --out rgb --modalities rbg.steps=1", "did you mean 'rgb'?"),
        ("--in dog.wav --out rgb --modalities rgb.stepz=1", "did you mean 'steps'?"),
        ("--in dog.wav --out rgb --modalities rgb", "not of the form MODALITY.SETTING=VALUE"),
        ("--in dog.wav --out rgb --keep rgb=0:2", "nothing is given of it; give its file"),
        ("--in dog.wav --out rgb --keep sound=0:2", "'sound' is not made"),
        ("--in dog.wav --out sound --keep sound=0:90", "--keep sound=0:90: FIRST:LAST"),
        ("--in dog.wav --out sound --keep sound=0:", "keeps all of 'sound'"),
        ("--in dog.wav --out rgb --conditions depth=2", "'depth' is not given; given: sound"),
        ("--in dog.wav --out rgb --conditions sound=x", "MODALITY=WEIGHT, such as sound=2"),
        ("--in dog.wav --out rgb --negative depth", "it is not given; given: sound"),
        ("--in dog.wav --out rgb --negative sound --guidance 1", "add --guidance above 1"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(fails, files, run, monkeypatch, line, message):
    monkeypatch.chdir(files)
    said = re.sub(" +", " ", fails(*line.split())).replace(str(run), "FOLDER")
    assert message in said


def test_a_run_that_is_none_or_not_finished_is_refused(run, tmp_path, fails):
    said = fails("--out", "rgb", run=tmp_path / "nowhere")
    assert "is no folder of a run" in said and "nano4m run PRESET --out" in said
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / "train" / "manifest.json").unlink()
    assert "is not finished: 'train' is missing; run: nano4m run farm" in fails(
        "--out", "rgb", run=other
    )
    shutil.copytree(run, other, dirs_exist_ok=True)
    tokenizer = other / "tokenizers" / "rgb"
    shutil.rmtree(tokenizer)
    shutil.copytree(other / "tokenizers" / "depth", tokenizer)
    assert "fingerprint" in fails("--out", "rgb", run=other)
    (other / "config.json").write_text('{"preset": 3}')
    assert "config.json is damaged (preset" in fails("--out", "rgb", run=other)
