"""Every choice of the model against loops in numpy, its heads and tables, and the default."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model_variants import (
    MODALITIES,
    PUBLISHED,
    SIZE,
    VARIANTS,
    all_logits,
    batch_of,
    build,
    each_variant,
)
from safetensors.torch import load_file
from scipy.stats import kstest

from naive_model import NaiveModel
from nano4m.config.model import ModelConfig
from nano4m.model.fourm import Context, FourM
from nano4m.model.layers import CrossAttention
from nano4m.tokens.batch import MaskedBatch
from nano4m.training.loss import count_targets, modality_weights, token_cross_entropy


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
            got = all_logits(model, states[0, 0], c).numpy()
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


def test_the_default_model_predicts_what_it_always_predicted(golden):
    model = FourM(ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), MODALITIES)
    model.load_state_dict({k[8:]: v for k, v in golden.items() if k.startswith("weights.")})
    names = ("ids", "modality", "coords", "asked_modality", "asked_coords")
    ids, modality, coords, asked, asked_coords = (golden[n].long() for n in names)
    with torch.no_grad():
        states = model.eval().decode(model.encode(ids, modality, coords), asked, asked_coords)
        torch.testing.assert_close(states, golden["states"], atol=5e-6, rtol=0)
        for c in range(len(MODALITIES)):
            got = all_logits(model, states, c)
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


def test_weights_of_the_scaled_start_are_normal_by_fan_in():
    def drawn(seed):
        model = FourM(ModelConfig(dim=64, head_dim=16), MODALITIES)
        model.init_weights(torch.Generator().manual_seed(seed))
        return model

    model, depth = drawn(0), 2 * ModelConfig().encoder_depth + 3 * ModelConfig().decoder_depth
    tables = ("table.", "encoder_modality.", "decoder_modality.", "register")
    shares = []
    for key, weight in model.named_parameters():
        if key.startswith("heads."):
            assert not weight.any(), key
        elif key.startswith(tables):
            shares.append(kstest(weight.detach().flatten().numpy(), "norm").pvalue)
        elif weight.ndim == 2:
            back = key.endswith(("out.weight", "down.weight"))
            std = (weight.shape[1] * (depth if back else 1)) ** -0.5
            shares.append(kstest(weight.detach().flatten().numpy() / std, "norm").pvalue)
        else:
            assert bool((weight == 1).all()), key
    # Of many right ones the least likely is about one in their number.
    assert len(shares) > 20 and min(shares) > 0.01 / len(shares)
    same, other = (dict(drawn(seed).named_parameters()) for seed in (0, 1))
    assert all(torch.equal(w, same[k]) for k, w in model.named_parameters())
    assert not torch.equal(other["table.weight"], same["table.weight"])


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
