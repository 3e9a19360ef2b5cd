"""Where the weights of a codec come from, and what is said where they are not."""

import json
import shutil
import socket
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_codecs import SIZES, save_codec

from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import SECTIONS, Dac, Encodec24
from nano4m.errors import UserError
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import TOKENIZERS, load_tokenizer, pretrained_weights
from nano4m.tokenizers.base import Material
from nano4m.tokenizers.dac import DacTokenizer
from nano4m.tokenizers.encodec import Encodec24Tokenizer
from nano4m.tokenizers.pretrained_weights import Source, locate

CLIPS = ClipsConfig(window_seconds=0.2, sample_rate=24_000)
COMMIT = "c" * 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Small random weights of EnCodec."""
    return save_codec("encodec_24khz", tmp_path_factory.mktemp("encodec"))


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(saved, tmp_path / "given"))


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache of the hub, and no network."""

    def refuse(*args, **kwargs):
        raise OSError("Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "create_connection", refuse)
    return tmp_path / "hub"


def put(cache: Path, repository: str, folder: Path, commit: str = COMMIT) -> None:
    """Put weights into the cache as a download of the branch main does."""
    top = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, top / "snapshots" / commit)
    (top / "refs").mkdir(exist_ok=True)
    (top / "refs" / "main").write_text(commit)


def prepare(weights: str, kind=Encodec24Tokenizer, **changes):
    sound = 0.1 * torch.randn(3, 4800, generator=torch.Generator().manual_seed(0))
    section = SECTIONS[kind.key](weights=weights, **SIZES | changes)
    return kind.prepare(section, Material("sound", sound, sound, 3, 24_000, []), 0, CPU), sound


def test_without_a_network_one_sentence_says_what_to_do(cache):
    for kind, entry in TOKENIZERS.items():
        if not hasattr(SECTIONS[kind], "copy_weights") and "weights" not in (
            SECTIONS[kind].model_fields
        ):
            continue
        section = SECTIONS[kind]()
        with pytest.raises(UserError) as error:
            entry.load().check(section, "sound", CLIPS)
        said = str(error.value)
        assert "\n" not in said and "no connection to huggingface.co" in said
        for part in (
            section.weights,
            "hf download",
            "--local-dir FOLDER",
            "--tokenizers.sound.weights FOLDER",
            "--tokenizers.sound.kind mel_vq",
        ):
            assert part in said, (part, said)  # fmt: skip


def test_offline_by_a_variable_asks_nobody(cache, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *a: pytest.fail("asked the network"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        Encodec24Tokenizer.check(Encodec24(), "sound", CLIPS)


def test_a_folder_without_the_files(tmp_path):
    for weights in ("./nowhere", str(tmp_path), "name"):
        with pytest.raises(UserError) as error:
            Encodec24Tokenizer.check(Encodec24(weights=weights), "sound", CLIPS)
        assert "config.json and model.safetensors" in str(error.value)
        assert "--tokenizers.sound.kind mel_vq" in str(error.value)


def test_without_the_package(monkeypatch, folder):
    monkeypatch.setattr(pretrained_weights, "find_spec", lambda name: None)
    section = Encodec24(weights=str(folder), **SIZES)
    with pytest.raises(UserError, match=r"nano4m-audio\[pretrained\].*kind mel_vq"):
        Encodec24Tokenizer.check(section, "sound", CLIPS)


def test_a_check_reads_no_network(folder):
    before = set(sys.modules)
    Encodec24Tokenizer.check(Encodec24(weights=str(folder), **SIZES), "sound", CLIPS)
    assert not any(name.startswith("transformers.models.encodec") for name in
                   set(sys.modules) - before)  # fmt: skip


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"codec_hop": 320}, "--tokenizers.NAME.codec-hop 64"),
        ({"codec_rate": 16_000}, "--tokenizers.NAME.codec-rate 24000"),
        ({"codec_vocab": 64}, "--tokenizers.NAME.codec-vocab 32"),
        ({"codebooks": 5}, "--tokenizers.NAME.codebooks 4 or fewer"),
    ],
)
def test_weights_of_other_sizes(folder, changes, said):
    section = Encodec24(weights=str(folder), **SIZES | changes)
    with pytest.raises(UserError, match=said):
        Encodec24Tokenizer.check(section, "sound", CLIPS)


def test_weights_of_another_codec(folder):
    for kind in ("encodec_48khz", "dac", "mimi", "xcodec"):
        section = SECTIONS[kind](weights=str(folder), **SIZES)
        with pytest.raises(UserError, match=r"channels|encodec"):
            TOKENIZERS[kind].load().check(section, "sound", CLIPS)


def test_a_repository_is_found_in_the_cache_and_pinned(cache, folder):
    put(cache, "facebook/encodec_24khz", folder)
    tokenizer, sound = prepare("facebook/encodec_24khz")
    tokenizer.save(cache / "saved")
    told = read_json(cache / "saved" / "weights.json")
    assert told["weights"] == "facebook/encodec_24khz" and told["revision"] == COMMIT
    assert told["licence"] == tokenizer.licence
    # The same files from a folder are the same tokenizer, and the branch may move on.
    assert prepare(str(folder))[0].fingerprint == tokenizer.fingerprint
    other = save_codec("encodec_24khz", cache.parent / "other", seed=1)
    put(cache, "facebook/encodec_24khz", other, "d" * 40)
    assert prepare("facebook/encodec_24khz")[0].fingerprint != tokenizer.fingerprint
    assert torch.equal(load_tokenizer(cache / "saved").encode(sound), tokenizer.encode(sound))


def test_a_subfolder_of_a_repository(cache):
    given = save_codec("speechtokenizer", cache.parent / "top" / "speechtokenizer_hubert_avg")
    put(cache, "fnlp/SpeechTokenizer", given.parent)
    source = Source("fnlp/SpeechTokenizer", "main", ("config.json",), given.name)
    assert locate(source).commit == COMMIT
    kind = TOKENIZERS["speechtokenizer"].load()
    in_cache = prepare("fnlp/SpeechTokenizer", kind)[0].fingerprint
    assert in_cache == prepare(str(given), kind)[0].fingerprint
    assert in_cache == prepare(str(given.parent), kind)[0].fingerprint


def test_a_run_has_no_weights_and_says_so_when_they_are_gone(folder, tmp_path):
    tokenizer, sound = prepare(str(folder))
    tokenizer.save(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("model.safetensors"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path / "saved")
    said = str(error.value)
    assert str(folder) in said and str(tmp_path / "saved" / "weights") in said and "\n" not in said
    shutil.copytree(tmp_path / "moved", tmp_path / "saved" / "weights")
    loaded = load_tokenizer(tmp_path / "saved")
    assert torch.equal(loaded.encode(sound), tokenizer.encode(sound))


@pytest.mark.parametrize("content", [None, "{", '{"format": 1}'])
def test_a_folder_that_lost_where_its_weights_were(folder, tmp_path, content):
    prepare(str(folder))[0].save(tmp_path / "saved")
    path = tmp_path / "saved" / "weights.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match="weights.json"):
        load_tokenizer(tmp_path / "saved")


def test_weights_that_changed_are_refused(folder, tmp_path):
    prepare(str(folder))[0].save(tmp_path / "saved")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("embed"))
    tensors[name] = tensors[name] + 0.5
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"model.safetensors is not what made the tokens"):
        load_tokenizer(tmp_path / "saved")


def test_weights_are_copied_only_where_the_licence_lets_one(folder, tmp_path):
    section = Encodec24(weights=str(folder), copy_weights=True, **SIZES)
    with pytest.raises(UserError, match=r"copy-weights: the licence .* non-commercial"):
        Encodec24Tokenizer.check(section, "sound", CLIPS)
    given = save_codec("dac", tmp_path / "dac")
    DacTokenizer.check(Dac(weights=str(given), copy_weights=True, **SIZES), "sound", CLIPS)
    tokenizer, sound = prepare(str(given), DacTokenizer, copy_weights=True)
    tokenizer.save(tmp_path / "saved")
    shutil.rmtree(given)
    loaded = load_tokenizer(tmp_path / "saved")
    assert torch.equal(loaded.encode(sound), tokenizer.encode(sound))
    assert loaded.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("damage", ["cut", "nan", "missing tensor", "no json"])
def test_damaged_weights_are_a_sentence(folder, damage):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "conv" in n and n.startswith("encoder"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "nan":
        tensors[name] = tensors[name] * float("nan")
        save_file(tensors, file, {"format": "pt"})
    elif damage == "missing tensor":
        del tensors[name]
        save_file(tensors, file, {"format": "pt"})
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(UserError) as error:
        prepare(str(folder))
    assert str(folder) in str(error.value)


def test_a_checkpoint_of_pickled_code_is_not_run(tmp_path):
    given = save_codec("speechtokenizer", tmp_path / "given")

    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was run",))

    torch.save({"encoder.model.0": Runs()}, given / "SpeechTokenizer.pt")
    with pytest.raises(UserError, match="no checkpoint of SpeechTokenizer"):
        prepare(str(given), TOKENIZERS["speechtokenizer"].load())
    assert not (tmp_path / "was run").exists()


def test_a_config_of_another_speech_codec(tmp_path):
    given = save_codec("speechtokenizer", tmp_path / "given")
    config = read_json(given / "config.json")
    for changed, said in (({"activation": "Snake"}, "Snake"), ({"strides": None}, "strides")):
        kept = {k: v for k, v in (config | changed).items() if v is not None}
        (given / "config.json").write_text(json.dumps(kept))
        with pytest.raises(UserError, match=said):
            prepare(str(given), TOKENIZERS["speechtokenizer"].load())
