"""How a model is computed and stored: precision, activation checkpoints, weights in a folder."""

import json

import pytest
import torch
from model_variants import MODALITIES, SIZE, VARIANTS, batch_of, build, each_variant

from nano4m.checkpoints.folder import load_model, save_model
from nano4m.config.model import ModelConfig
from nano4m.config.presets import preset
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.model.layers import Mlp, SwiGlu
from nano4m.pipeline.stages import Run, settings_of
from nano4m.tokens.table import TokenSpec

# -- precision and memory ----------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(name, dtype):
    model, batch = build(name), batch_of()
    with torch.no_grad():
        expected = model(batch)
        with torch.autocast("cpu", dtype):
            mixed = model(batch)
        states = model.to(dtype)(batch)
        assert states.dtype == dtype and model.logits(states, 0).isfinite().all()
    step = torch.finfo(dtype).eps
    for got in (mixed, states):
        assert float((got.float() - expected).abs().max()) < 20 * step


def test_positions_are_computed_in_float32_and_cast_afterwards():
    for name in ("default", "sincos1d"):
        model = build(name)
        place = torch.tensor([[0]]), torch.tensor([[[1, 1]]])
        exact = model.positions.added(*place, torch.float32)
        half = build(name).bfloat16().positions.added(*place, torch.bfloat16)
        assert torch.equal(half, exact.bfloat16())
    rotation = build("rope2d").bfloat16().positions.rotation(*place)
    assert rotation is not None and rotation.cos.dtype == torch.float32


def test_checkpointing_gives_the_same_gradients_from_fewer_activations(monkeypatch):
    batch = batch_of()
    gradients, calls = [], []
    for on in (False, True):
        model = FourM(
            ModelConfig(**(SIZE | VARIANTS["modern"]), checkpointing=on), MODALITIES, dropout=0.3
        )
        model.load_state_dict(build("modern").state_dict())
        count = [0]
        forward = Mlp.forward if model.config.mlp == "gelu" else SwiGlu.forward

        def counted(self, x, count=count, forward=forward):
            count[0] += 1
            return forward(self, x)

        with monkeypatch.context() as patch:
            patch.setattr(SwiGlu, "forward", counted)
            torch.manual_seed(5)
            (model.train()(batch) ** 2).sum().backward()
        gradients.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
        calls.append(count[0])
        with torch.no_grad():
            model.eval()(batch)
    assert calls == [4, 8]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for key, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][key]), key


# -- folders of weights ------------------------------------------------------------------------


def test_how_blocks_are_computed_is_no_part_of_a_checkpoint_or_a_setting(tmp_path):
    token_spec = TokenSpec(MODALITIES, {m.name: "print" for m in MODALITIES})
    for on in (False, True):
        model = build("rope1d", checkpointing=on)
        save_model(model, token_spec, tmp_path / "model")
        loaded, _ = load_model(tmp_path / "model")
        assert "checkpointing" not in json.loads((tmp_path / "model" / "config.json").read_text())
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    farm = preset("farm")
    computed = farm.model.model_copy(update={"checkpointing": True})
    other = farm.model.model_copy(update={"qk_norm": True})
    settings = [
        settings_of(Run(farm.model_copy(update={"model": m}), tmp_path, None), "train")
        for m in (farm.model, computed, other)
    ]
    assert settings[0] == settings[1] != settings[2]


def test_a_checkpoint_from_before_the_choices_is_one_of_the_defaults(tmp_path):
    token_spec = TokenSpec(MODALITIES, {m.name: "print" for m in MODALITIES})
    save_model(build("default"), token_spec, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(SIZE))
    assert load_model(tmp_path / "model")[0].config == ModelConfig(**SIZE)


def test_positions_in_one_dimension_travel_with_the_weights(tmp_path):
    token_spec = TokenSpec(MODALITIES, {m.name: "print" for m in MODALITIES})
    model = build("sincos1d")
    model.positions.table.add_(1.0)
    save_model(model, token_spec, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")[0].positions.table, model.positions.table)


@pytest.mark.parametrize("change", ["architecture", "modalities"])
def test_weights_of_something_else_are_refused_by_name(tmp_path, change):
    token_spec = TokenSpec(MODALITIES, {m.name: "print" for m in MODALITIES})
    save_model(build("default"), token_spec, tmp_path / "model")
    if change == "architecture":
        path, value = "config.json", SIZE | {"qk_norm": True, "mlp": "swiglu"}
        message = r"20 tensors differ, decoder\.0\.attention\.norm_k\.weight absent for \(8,\)"
    else:
        fewer = TokenSpec(MODALITIES[:4], {m.name: "print" for m in MODALITIES[:4]})
        path, value = "modalities.json", fewer.to_json()
        message = r"4 tensors differ, .*heads\.4\.weight \(13, 16\) for none"
    (tmp_path / "model" / path).write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "model")
