"""Published checkpoints: parity with the reference's own outputs, round trips, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import tiny_modalities
from nano4m.checkpoints.convert import convert, read_published, write_published
from nano4m.checkpoints.folder import load_model, save_model
from nano4m.checkpoints.published import published_metadata, published_name, published_tensors
from nano4m.cli import main
from nano4m.config.model import ModelConfig
from nano4m.config.presets import PUBLISHED_MODEL
from nano4m.errors import UserError
from nano4m.modalities import MODALITIES
from nano4m.model.fourm import FourM
from nano4m.tokens.table import TokenSpec

BATCHES = ("tiny", "tiny_all")


def run(model: FourM, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Everything the fixture has, sample after sample without padding, losses with gradient."""
    modalities = len(model.modalities)
    out: dict[str, list] = {k: [] for k in ("encoder_out", "decoder_out", "logits", "token_ce")}
    hook = model.encoder_norm.register_forward_hook(lambda *a: out["encoder_out"].append(a[2][0]))
    kinds = []
    columns = torch.tensor([m.columns for m in model.modalities])
    for row in range(len(batch["enc_tokens"])):
        sides = []
        for side in ("enc", "dec"):
            valid = batch[f"{side}_pad_mask"][row]
            ids, kind, position = (
                torch.from_numpy(batch[f"{side}_{k}"][row][valid])[None]
                for k in ("tokens", "modalities", "positions")
            )
            coords = torch.stack([position // columns[kind], position % columns[kind]], dim=-1)
            sides.append((ids, kind, coords))
        states = model.decode(model.encode(*sides[0]), *sides[1][1:])
        logits = model.logits(states, 0, full=True)
        out["decoder_out"].append(states[0])
        out["logits"].append(logits[0])
        out["token_ce"].append(F.cross_entropy(logits[0], sides[1][0][0], reduction="none"))
        kinds.append(sides[1][1][0])
    hook.remove()
    every, kind = torch.cat(out["token_ce"]), torch.cat(kinds)
    means = torch.stack(
        [every[kind == c].sum() / max(1, int((kind == c).sum())) for c in range(modalities)]
    )
    return {k: torch.cat(v) for k, v in out.items()} | {
        "per_modality_loss": means,
        "loss": means.sum() / modalities,
        "loss_absent_left_out": means.sum() / (means > 0).sum(),
        "loss_token_mean": every.mean(),
    }


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    "dtype, suffix, states, scores, losses",
    [
        (torch.float64, "f64", 1e-10, 1e-10, 1e-10),
        (torch.float32, "f32", 1e-5, 2e-5, 5e-6),
        (torch.float32, "f64", 1e-5, 2e-5, 5e-6),
    ],
)
def test_every_output_of_the_reference(golden, name, dtype, suffix, states, scores, losses):
    model = read_published(golden / "tiny.safetensors")[0].to(dtype)
    batch = dict(np.load(golden / f"{name}_batch.npz"))
    expected = np.load(golden / f"{name}_out.npz")
    with torch.no_grad():
        got = run(model, batch)
    slots = {"encoder_out": "enc_pad_mask"}
    for key, value in got.items():
        wanted = expected[f"{key}_{suffix}"]
        if wanted.ndim > 1:
            wanted = wanted[batch[slots.get(key, "dec_pad_mask")]]
        limit = states if key.endswith("_out") else scores if wanted.ndim > 1 else losses
        limit = losses if key == "per_modality_loss" else limit
        np.testing.assert_allclose(value.numpy(), wanted, atol=limit, rtol=0, err_msg=key)
    assert len(got) == 8


@pytest.mark.parametrize("name", BATCHES)
def test_every_gradient_of_the_reference(golden, name):
    model = read_published(golden / "tiny.safetensors")[0].double()
    run(model, dict(np.load(golden / f"{name}_batch.npz")))["loss"].backward()
    got = {published_name(k): p.grad for k, p in model.named_parameters()}
    norms = json.loads((golden / "tiny_grad_norms.json").read_text())[name]
    assert got.keys() == norms.keys()
    for key, norm in norms.items():
        assert float(got[key].norm()) == pytest.approx(norm, abs=1e-10), key
    expected = np.load(golden / f"{name}_out.npz")
    full = [k for k in expected if k.startswith("grad_f64/")]
    assert len(full) == 8
    for key in full:
        gradient = got[key.removeprefix("grad_f64/")].numpy()
        np.testing.assert_allclose(gradient, expected[key], atol=1e-10, rtol=0, err_msg=key)


@pytest.mark.parametrize("fault", ["epsilon", "gelu", "no bias", "positions once"])
def test_a_planted_fault_is_outside_the_tolerances(golden, fault):
    model = read_published(golden / "tiny.safetensors")[0].double()
    batch = dict(np.load(golden / "tiny_batch.npz"))
    expected = np.load(golden / "tiny_out.npz")["logits_f64"][batch["dec_pad_mask"]]
    if fault == "epsilon":
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5
    elif fault == "gelu":
        for block in (*model.encoder, *model.decoder):
            up, down = block.mlp.up, block.mlp.down
            block.mlp.forward = lambda x, up=up, down=down: down(F.gelu(up(x), approximate="tanh"))
    elif fault == "no bias":
        model.context.bias.data.zero_()
    else:
        model.config = model.config.model_copy(update={"context": "plain"})
    with torch.no_grad():
        got = run(model, batch)["logits"].numpy()
    assert np.abs(got - expected).max() > 2e-5


def test_the_reference_preset_has_the_published_tensors(golden):
    published = json.loads((golden / "keys_full.json").read_text())
    example = published["safetensors_metadata"]["example"]
    sizes = {
        "rgb": ((14, 14), 16384),
        "sound": ((256, 2), 2048),
        "depth": ((14, 14), 8192),
        "normals": ((14, 14), 8192),
        "caption": ((64,), 50304),
    }
    entries = tuple(MODALITIES[n].with_tokens(*s) for n, s in sizes.items())
    with torch.device("meta"):
        model = FourM(PUBLISHED_MODEL, entries)
    tensors = published_tensors(model)
    assert {k: list(t.shape) for k, t in tensors.items()} == {
        t["key"]: t["shape"] for t in published["tensors"]
    }
    trained = {published_name(k) for k, _ in model.named_parameters()}
    assert trained == {t["key"] for t in published["tensors"] if t["kind"] == "parameter"}
    assert model.num_parameters == published["num_parameters"]
    assert published_metadata(PUBLISHED_MODEL, entries) == example


def test_a_published_file_comes_back_bit_by_bit(golden, tmp_path):
    source, folder, back = (
        golden / "tiny.safetensors",
        tmp_path / "ours",
        tmp_path / "b.safetensors",
    )
    convert(source, folder)
    convert(folder, back)
    same_files(source, back)


# -- without the fixture -----------------------------------------------------------------------


def same_files(one: Path, other: Path) -> None:
    """Compare tensors by their bits, and metadata."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key].view(torch.int32), b[key].view(torch.int32)), key
    with safe_open(one, "pt") as x, safe_open(other, "pt") as y:
        assert x.metadata() == y.metadata()


SMALL = PUBLISHED_MODEL.model_copy(
    update={"encoder_depth": 1, "decoder_depth": 2, "dim": 32, "head_dim": 8}
)


def small_model(config: ModelConfig = SMALL, names=("rgb", "depth", "sound", "caption")) -> FourM:
    """A model with nothing at its start value."""
    entries = tuple(m for m in tiny_modalities() if m.name in names)
    model = FourM(config, entries)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.5, generator=draw)
    return model


@pytest.fixture
def published(tmp_path) -> Path:
    """A published file made here."""
    write_published(small_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path):
    config = SMALL.model_copy(update={"mlp_ratio": 2.5})
    model = small_model(config)
    prints = {m.name: "print" for m in model.modalities}
    save_model(model, TokenSpec(model.modalities, prints), tmp_path / "ours")
    told = convert(tmp_path / "ours", tmp_path / "file.safetensors")
    assert told["parameters"] == model.num_parameters
    convert(tmp_path / "file.safetensors", tmp_path / "again")
    again, token_spec = load_model(tmp_path / "again")
    assert again.config == config and token_spec.modalities == model.modalities
    assert token_spec.tokenizers["sound"] == "published tok_audio@8"
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    convert(tmp_path / "again", tmp_path / "file2.safetensors")
    same_files(tmp_path / "file.safetensors", tmp_path / "file2.safetensors")


def test_the_command_converts_both_ways(published, tmp_path, capsys):
    main(["convert", str(published), "--out", str(tmp_path / "ours"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["modalities"] == ["rgb", "depth", "sound", "caption"]
    main(["convert", str(tmp_path / "ours"), "--out", str(tmp_path / "back.safetensors")])
    same_files(published, tmp_path / "back.safetensors")
    main(["info", str(tmp_path / "ours"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["positions"], told["tables"]) == ("sincos1d", "shared")
    for source, out, message in (
        (tmp_path / "none", "x", "nothing is at"),
        (published, "ours", "is there already; choose another --out"),
    ):
        with pytest.raises(SystemExit):
            main(["convert", str(source), "--out", str(tmp_path / out)])
        assert message in capsys.readouterr().err


def test_a_run_stands_for_its_checkpoint(published, tmp_path):
    (tmp_path / "run" / "train").mkdir(parents=True)
    convert(published, tmp_path / "run" / "train" / "checkpoint")
    convert(tmp_path / "run", tmp_path / "back.safetensors")
    same_files(published, tmp_path / "back.safetensors")


def changed(path: Path, tensors=lambda t: t, **metadata: str | None) -> Path:
    """Write the file again with other tensors or metadata."""
    with safe_open(path, "pt") as file:
        kept = file.metadata() | metadata
    save_file(tensors(load_file(path)), path, {k: v for k, v in kept.items() if v is not None})
    return path


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"dim": None}, "describe no nano4M model: dim: Field required"),
        ({"dim": "__import__('os').getpid()"}, "dim: Input should be a valid integer"),
        ({"dim": "True"}, "dim: Input should be a valid integer"),
        ({"dim": "-32"}, "dim: Input should be greater than 0"),
        ({"dim": "9" * 5000}, "dim: Input should be"),
        ({"dim": "[" * 100_000}, "dim: Input should be"),
        ({"dim": "64"}, r"does not hold .* tensors differ, dec_context_proj.bias \(32,\) for"),
        ({"head_dim": "5"}, "dim 32 is not a multiple of head_dim 5"),
        ({"enc_depth": "1000000"}, "tensors are too few for enc_depth 1000000"),
        ({"dec_depth": "3"}, r"decoder\.blocks\.2\.\S+ absent for"),
        ({"vocab_sizes": "[11, 7, 16]"}, "have 4, 3, 4 entries"),
        ({"vocab_sizes": "[11, 7, 16, 17]"}, r"enc_tok_emb.weight \(16, 32\) for \(17, 32\)"),
        ({"modalities": "'tok_rgb@4'"}, "modalities: Input should be a valid list"),
        (
            {"modalities": "['tok_rgb@4', 'tok_dept@4', 'tok_audio@8', 'scene_desc']"},
            "unknown modality 'tok_dept@4'; did you mean 'tok_depth'",
        ),
        (
            {"modalities": "['tok_rgb@4', 'tok_rgb@4', 'tok_audio@8', 'scene_desc']"},
            "a modality stands twice",
        ),
        (
            {"modalities": "['tok_rgb@9', 'tok_depth@4', 'tok_audio@8', 'scene_desc']"},
            "'tok_rgb@9' has max_seq_lens 4",
        ),
        ({"max_seq_lens": "[5, 4, 8, 6]"}, "a grid is square"),
    ],
)
def test_metadata_of_something_else_are_refused(published, metadata, message):
    with pytest.raises(UserError, match=message):
        read_published(changed(published, **metadata))


@pytest.mark.parametrize(
    "tensors, message",
    [
        (lambda t: t | {"more": torch.zeros(1)}, r"1 tensors differ, more \(1,\) for none"),
        (
            lambda t: {k: v for k, v in t.items() if k != "to_logits.weight"},
            r"to_logits.weight absent for \(16, 32\)",
        ),
        (lambda t: t | {"enc_norm.bias": t["enc_norm.bias"] + 0.1}, "not zero: enc_norm.bias"),
        (
            lambda t: t | {"decoder.blocks.1.query_norm.bias": torch.full((32,), torch.nan)},
            "not zero: decoder.blocks.1.query_norm.bias",
        ),
        (lambda t: t | {"pos_emb": t["pos_emb"].flip(1)}, "pos_emb is up to"),
        (lambda t: t | {"pos_emb": t["pos_emb"] * torch.nan}, "pos_emb is up to nan"),
        (
            lambda t: {k: v.bfloat16() for k, v in t.items()},
            "is torch.bfloat16, not float32",
        ),
    ],
)
def test_tensors_of_something_else_are_refused(published, tensors, message):
    with pytest.raises(UserError, match=message):
        read_published(changed(published, tensors))


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_published(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="modalities: Field required"):
        read_published(tmp_path / "plain.safetensors")


def test_the_class_that_metadata_name_is_never_looked_for(published):
    read_published(changed(published, _target_="os.system", enc_tokens_read_key="rm -rf"))


def test_what_has_no_published_form_is_refused_with_every_difference():
    entries = small_model().modalities
    other = SMALL.model_copy(update={"positions": "rope2d", "tied": True})
    with pytest.raises(UserError, match=r"positions 'rope2d' \(published: 'sincos1d'\); tied True"):
        published_metadata(other, entries)
    odd = tuple(m for m in tiny_modalities() if m.name == "normals")
    with pytest.raises(UserError, match=r"normals \(2, 3\) \(published: square grids"):
        published_metadata(SMALL, odd)
