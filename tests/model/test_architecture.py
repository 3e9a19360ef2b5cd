"""Every choice of the model against loops in numpy, its counts, its precision, its mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from conftest import tiny_modalities
from naive_model import NaiveModel
from nano4m.checkpoints.folder import load_model, save_model
from nano4m.config.presets import PRESETS, SIZES, preset, with_size
from nano4m.config.run import Config, ModelConfig
from nano4m.errors import UserError
from nano4m.model.fourm import Context, FourM
from nano4m.model.layers import CrossAttention, Mlp, SwiGlu
from nano4m.pipeline.info import describe_preset, info
from nano4m.pipeline.run import Run, settings_of
from nano4m.tokens.batch import MaskedBatch
from nano4m.tokens.table import TokenSpec
from nano4m.training.loss import count_targets, modality_weights, token_cross_entropy

MODALITIES = tiny_modalities()
SIZE = {"encoder_depth": 2, "decoder_depth": 2, "dim": 16, "head_dim": 8, "mlp_ratio": 3.0}
PUBLISHED = {
    "positions": "sincos1d", "tables": "shared", "register_token": False, "context": "positioned",
    "init": "normal",
}  # fmt: skip
VARIANTS: dict[str, dict] = {
    "default": {},
    "sincos1d": {"positions": "sincos1d"},
    "rope1d": {"positions": "rope1d"},
    "rope2d": {"positions": "rope2d"},
    "swiglu": {"mlp": "swiglu"},
    "qk_norm": {"qk_norm": True},
    "soft_cap": {"logit_soft_cap": 4.0},
    "shared": {"tables": "shared"},
    "tied": {"tied": True},
    "tied_shared": {"tied": True, "tables": "shared"},
    "positioned": {"context": "positioned"},
    "no_register": {"register_token": False},
    "published": PUBLISHED,
    "modern": {"positions": "rope2d", "mlp": "swiglu", "qk_norm": True, "logit_soft_cap": 20.0},
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


def build(name: str, seed: int = 0, **more) -> FourM:
    """A model whose gains, biases and heads are not what they start from."""
    model = FourM(ModelConfig(**(SIZE | VARIANTS[name] | more)), MODALITIES)
    draw = torch.Generator().manual_seed(seed)
    model.init_weights(draw)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.startswith("heads.") or key.endswith("bias"):
                weight.normal_(0, 0.3, generator=draw)
            elif "norm" in key:
                weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.2)
    return model.eval()


def batch_of(rows: int = 2, given: int = 7, asked: int = 5, seed: int = 0) -> MaskedBatch:
    """Random tokens of random modalities."""
    draw = torch.Generator().manual_seed(seed)

    def side(count: int) -> list[torch.Tensor]:
        modality = torch.randint(len(MODALITIES), (rows, count), generator=draw)
        ids, coords = torch.zeros_like(modality), torch.zeros(rows, count, 2, dtype=torch.long)
        for place in np.ndindex(rows, count):
            entry = MODALITIES[modality[place]]
            ids[place] = torch.randint(entry.vocab_size, (), generator=draw)
            slot = int(torch.randint(entry.length, (), generator=draw))
            coords[place] = torch.tensor(entry.coordinates()[slot])
        return [ids, modality, coords]

    return MaskedBatch(*side(given), *side(asked))


def naive_states(model: FourM, batch: MaskedBatch) -> np.ndarray:
    """States of a batch by loops, (B, M, D)."""
    weights = {k: v.detach().double().numpy() for k, v in model.state_dict().items()}
    naive = NaiveModel(model.config, MODALITIES, weights)
    ids, modality, coords, _, asked_modality, asked_coords = (t.tolist() for t in batch)
    return np.stack(
        [
            naive.states(
                [(i, c, tuple(p)) for i, c, p in zip(ids[b], modality[b], coords[b], strict=True)],
                [(c, tuple(p)) for c, p in zip(asked_modality[b], asked_coords[b], strict=True)],
            )
            for b in range(len(ids))
        ]
    )


# Positions are float32 in a float64 model too.
CLOSE = {"atol": 2e-5, "rtol": 0}


@each_variant
def test_states_and_logits_equal_loops_in_numpy(name):
    model, batch = build(name).double(), batch_of()
    with torch.no_grad():
        states = model(batch)
        expected = naive_states(model, batch)
        np.testing.assert_allclose(states.numpy(), expected, **CLOSE)
        weights = {k: v.numpy() for k, v in model.state_dict().items()}
        naive = NaiveModel(model.config, MODALITIES, weights)
        for c in range(len(MODALITIES)):
            got = model.logits(states[0, 0], c).numpy()
            assert got.shape == (MODALITIES[c].vocab_size,)
            np.testing.assert_allclose(got, naive.logits(expected[0, 0], c), **CLOSE)


@pytest.mark.parametrize("name", ["rope1d", "rope2d"])
def test_keys_that_turn_by_the_queries_places_are_caught(name, monkeypatch):
    model, batch = build(name, register_token=False).double(), batch_of(given=5, asked=5)
    right = CrossAttention.forward

    def wrong(self, x, context, target, source, segments=None):
        return right(self, x, context, target, target)

    monkeypatch.setattr(CrossAttention, "forward", wrong)
    with torch.no_grad():
        assert np.abs(model(batch).numpy() - naive_states(model, batch)).max() > 0.01


@each_variant
def test_order_of_given_tokens_and_company_change_nothing(name):
    model, batch = build(name).double(), batch_of(rows=3)
    with torch.no_grad():
        states = model(batch)
        turn = torch.randperm(7, generator=torch.Generator().manual_seed(1))
        turned = batch._replace(
            **{k: getattr(batch, k)[:, turn] for k in batch._fields if k.startswith("enc")}
        )
        torch.testing.assert_close(model(turned), states, atol=1e-12, rtol=0)
        alone = torch.cat([model(MaskedBatch(*(t[b : b + 1] for t in batch))) for b in range(3)])
        torch.testing.assert_close(alone, states, atol=1e-12, rtol=0)


@each_variant
def test_queries_of_one_modality_differ_by_where_they_ask(name):
    model = build(name)
    batch = batch_of(rows=1)
    context = model.encode(batch.input_ids_BN, batch.input_modality_BN, batch.input_coords_BN2)
    coords = torch.tensor([MODALITIES[2].coordinates()])
    states = model.decode(context, torch.full(coords.shape[:2], 2), coords)[0]
    distance = torch.cdist(states, states) + torch.eye(len(states))
    assert distance.min() > 1e-3


@each_variant
def test_overfits_one_batch(name):
    model = FourM(ModelConfig(**(SIZE | VARIANTS[name])), MODALITIES).train()
    model.init_weights(torch.Generator().manual_seed(0))
    batch = batch_of(rows=4, given=6, asked=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    weights = modality_weights(count_targets([batch], len(MODALITIES)))
    for _ in range(120):
        loss = (token_cross_entropy(model, model(batch), batch) * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


# -- the default has not changed ---------------------------------------------------------------


@pytest.fixture
def golden() -> dict[str, torch.Tensor]:
    """Weights, ids and logits of the default model before it had any other choice."""
    return load_file(Path(__file__).parent / "golden" / "model.safetensors")


def test_the_default_model_draws_the_weights_that_it_always_drew(golden):
    codes = {"rgb": torch.randn(11, 4, generator=torch.Generator().manual_seed(7))}
    model = FourM(ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), MODALITIES)
    model.init_weights(torch.Generator().manual_seed(0), codes)
    there = {k[8:]: v for k, v in golden.items() if k.startswith("weights.")}
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in there.items()
    }
    for key, weight in model.state_dict().items():
        if not key.startswith("heads."):
            # Bitwise on the machine that wrote them; another one may round a logarithm otherwise.
            torch.testing.assert_close(weight, there[key], atol=1e-6, rtol=0, msg=key)


def test_the_default_model_predicts_what_it_always_predicted(golden):
    model = FourM(ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), MODALITIES)
    model.load_state_dict({k[8:]: v for k, v in golden.items() if k.startswith("weights.")})
    names = ("ids", "modality", "coords", "asked_modality", "asked_coords")
    ids, modality, coords, asked, asked_coords = (golden[n].long() for n in names)
    with torch.no_grad():
        states = model.eval().decode(model.encode(ids, modality, coords), asked, asked_coords)
        torch.testing.assert_close(states, golden["states"], atol=5e-6, rtol=0)
        for c in range(len(MODALITIES)):
            got = model.logits(states, c)
            torch.testing.assert_close(got, golden[f"logits.{c}"], atol=5e-6, rtol=0)


# -- heads and tables --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shared", "tied_shared", "published"])
def test_full_scores_are_over_all_ids_and_begin_with_those_of_a_modality(name):
    model = build(name)
    states = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(2))
    full = model.logits(states, 1, full=True)
    assert full.shape == (3, 4, max(m.vocab_size for m in MODALITIES))
    assert torch.equal(full, model.logits(states, 2, full=True))
    torch.testing.assert_close(full[..., :7], model.logits(states, 1))
    assert model.logits(states, 1).shape == (3, 4, 7)


@pytest.mark.parametrize("name", ["default", "tied"])
def test_full_scores_of_heads_of_their_own_are_refused(name):
    with pytest.raises(ValueError, match="tables 'shared'"):
        build(name).logits(torch.zeros(1, 16), 0, full=True)


def test_equal_ids_share_a_row_only_in_a_shared_table():
    place = torch.zeros(1, 1, 2).long()
    for name, same in (("default", False), ("shared", True)):
        model = build(name)
        model.encoder_modality.weight.data.zero_()
        a, b = (
            model.encode(torch.tensor([[3]]), torch.tensor([[c]]), place).states_BND for c in (0, 1)
        )
        assert torch.equal(a, b) == same


def test_a_tied_head_is_the_table():
    model = build("tied")
    assert not [k for k, _ in model.named_parameters() if k.startswith("heads")]
    states = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    model.logits(states, 1).sum().backward()
    moved = model.table.weight.grad.abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == list(range(11, 18))


def test_capped_scores_stay_below_the_cap_in_order():
    model = build("soft_cap")
    for head in model.heads:
        head.weight.data.mul_(100)
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    scores = model.logits(states, 0)
    assert 3.9 < scores.abs().max() <= 4.0
    torch.testing.assert_close(scores, 4 * torch.tanh(model.heads[0](states) / 4))
    assert model.bfloat16().logits(states.bfloat16(), 0).dtype == torch.float32


def test_weights_of_the_normal_start():
    model = FourM(ModelConfig(dim=64, head_dim=16, **PUBLISHED), MODALITIES)
    model.init_weights(torch.Generator().manual_seed(0))
    for key, weight in model.named_parameters():
        if key.startswith("heads.") or key.endswith("bias"):
            assert not weight.any(), key
        elif weight.ndim == 1:
            assert bool((weight == 1).all()), key
        elif weight.numel() > 1000:
            assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1), key


def test_codes_keep_the_scale_of_a_table_and_are_refused_for_a_shared_one():
    codes = {"rgb": torch.randn(11, 6, generator=torch.Generator().manual_seed(3))}
    for start, scale in (("scaled", 1.0), ("normal", 0.02)):
        model = FourM(ModelConfig(dim=64, head_dim=16, init=start), MODALITIES)
        model.init_weights(torch.Generator().manual_seed(0), codes)
        assert float(model.table.weight[:11].detach().std()) == pytest.approx(scale, rel=0.3)
    shared = FourM(ModelConfig(**SIZE, tables="shared"), MODALITIES)
    with pytest.raises(ValueError, match="this one is shared"):
        shared.init_weights(torch.Generator().manual_seed(0), codes)


# -- counts ------------------------------------------------------------------------------------


def test_parameters_by_hand():
    d, k, sizes = 16, 8, [m.vocab_size for m in MODALITIES]
    mlp = 2 * d * 48
    trunk = 2 * (4 * d * d + mlp + 2 * d) + 2 * (8 * d * d + mlp + 4 * d) + d * d + 2 * d
    ends = 2 * sum(sizes) * d + 2 * 5 * d + d
    # 2/3 of 48 is 32, a multiple of 8; every attention has two norms of a head's width.
    changes = {
        "default": 0, "sincos1d": 0, "rope1d": 0, "rope2d": 0, "swiglu": 0, "soft_cap": 0,
        "qk_norm": (2 + 2 * 2) * 2 * k, "tied": -sum(sizes) * d, "no_register": -d,
        "positioned": d, "shared": 2 * (max(sizes) - sum(sizes)) * d,
        "tied_shared": (max(sizes) - 2 * sum(sizes)) * d,
        "published": 2 * (max(sizes) - sum(sizes)) * d, "modern": (2 + 2 * 2) * 2 * k,
    }  # fmt: skip
    assert changes.keys() == VARIANTS.keys()
    for name, change in changes.items():
        model = build(name)
        assert model.num_parameters == trunk + ends + change, name
        if name in ("default", "shared", "tied", "no_register"):
            assert model.trunk_parameters == trunk, name


@pytest.mark.parametrize("dim, ratio", [(192, 4.0), (512, 4.0), (640, 4.0), (768, 3.5)])
def test_the_gated_mlp_has_about_as_many_parameters(dim, ratio):
    gated, plain = (
        sum(p.numel() for p in kind(dim, int(dim * ratio)).parameters()) for kind in (SwiGlu, Mlp)
    )
    assert 1 <= gated / plain < 1.01


def test_the_reference_has_the_published_number_of_parameters():
    told = json.loads(info("reference", as_json=True))
    assert told["parameters"] == 95_838_720
    assert told["trunk_parameters"] == 6 * 3_146_752 + 6 * 4_196_352 + 512 * 512 + 512 + 2 * 512
    assert {n: (m["shape"], m["vocabulary"]) for n, m in told["modalities"].items()} == {
        "rgb": ([14, 14], 16384),
        "sound": ([256, 2], 2048),
        "depth": ([14, 14], 8192),
        "normals": ([14, 14], 8192),
        "caption": ([64], 50304),
    }


def test_sizes_have_the_trunks_of_their_papers():
    told = json.loads(info("sizes", as_json=True))
    assert told.keys() == SIZES.keys()
    for name, size in told.items():
        d = size["dim"]
        blocks = size["encoder_depth"] * (12 * d + 2) + size["decoder_depth"] * (16 * d + 4)
        assert size["trunk"] == d * (blocks + d + 2), name
    # Ti, S and B of 4M in millions.
    assert [told[n]["trunk"] // 10**6 for n in ("4m-ti", "4m-s", "4m-b")] == [24, 59, 198]


def test_a_size_replaces_the_size_alone():
    config = with_size(preset("reference"), "d8-w640")
    assert (config.model.encoder_depth, config.model.dim, config.model.head_dim) == (8, 640, 64)
    assert config.model.tables == "shared" and config.train == preset("reference").train
    with pytest.raises(UserError, match="unknown size 'd8-w64'; did you mean 'd8-w640'"):
        with_size(preset("farm"), "d8-w64")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_every_size(name):
    for size in SIZES:
        told = describe_preset(with_size(preset(name), size))
        assert told["dim"] == SIZES[size].dim


# -- computing ---------------------------------------------------------------------------------


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


# -- nothing given -----------------------------------------------------------------------------


@each_variant
def test_prediction_from_nothing_is_finite(name):
    model, batch = build(name), batch_of()
    nothing = torch.zeros(2, 0, dtype=torch.long)
    context = model.encode(nothing, nothing, torch.zeros(2, 0, 2, dtype=torch.long))
    assert isinstance(context, Context)
    assert context.states_BND.shape == (2, int(model.config.register_token), 16)
    states = model.decode(context, batch.target_modality_BM, batch.target_coords_BM2)
    assert torch.isfinite(states).all()


def test_the_context_says_where_its_states_stand():
    batch = batch_of()
    for name, first in (("default", 1), ("no_register", 0)):
        context = build(name).encode(*batch[:3])
        assert torch.equal(context.modality_BN[:, first:], batch.input_modality_BN)
        assert torch.equal(context.coords_BN2[:, first:], batch.input_coords_BN2)
        assert not context.coords_BN2[:, :first].any()


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dim": 100, "head_dim": 32}, "dim 100 is not a multiple of head_dim 32"),
        ({"dim": 6, "head_dim": 3}, "dim 6 is not a multiple of 4"),
        (
            {"dim": 12, "head_dim": 3, "positions": "rope1d"},
            "head_dim 3 is not a multiple of 2, which positions rope1d needs",
        ),
        (
            {"dim": 12, "head_dim": 6, "positions": "rope2d"},
            "head_dim 6 is not a multiple of 4, which positions rope2d needs",
        ),
        ({"positions": "rope2d", "context": "positioned"}, "use context plain"),
        ({"positions": "learnt"}, "'sincos1d', 'sincos2d', 'rope1d' or 'rope2d'"),
        ({"logit_soft_cap": -1.0}, "greater than or equal to 0"),
        ({"tables": "both"}, "'modality' or 'shared'"),
    ],
)
def test_a_model_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(**fields)


def test_codes_for_a_shared_table_are_refused_before_anything_runs():
    farm = preset("farm").model_dump()
    with pytest.raises(ValidationError, match="--train.no-init-from-codebook"):
        Config(**(farm | {"model": {"tables": "shared"}}))
    without = farm["train"] | {"init_from_codebook": False}
    assert Config(**(farm | {"model": {"tables": "shared"}, "train": without}))


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
