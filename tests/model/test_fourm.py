"""The model against independent references: hand-made loss, overfitting."""

import math

import numpy as np
import pytest
import torch

from conftest import tiny_modalities, tiny_table
from nano4m.config.masking import MaskingConfig
from nano4m.config.model import ModelConfig
from nano4m.config.training import TrainConfig
from nano4m.masking import mask
from nano4m.model.fourm import FourM
from nano4m.model.positions import sincos2d
from nano4m.tokens.batch import TokenSequence
from nano4m.training.learning_rate import learning_rate
from nano4m.training.loss import count_targets, modality_weights, token_cross_entropy
from nano4m.training.optim import WeightAverage, build_optimizers

TOKENS = TokenSequence(tiny_modalities())
SOUND = TOKENS.index("sound")
"""Has two codebooks of eight ids."""
SMALL = ModelConfig(encoder_depth=2, decoder_depth=2, dim=32, head_dim=8)


def _model(seed=0, heads=True) -> FourM:
    model = FourM(SMALL, tiny_modalities())
    draw = torch.Generator().manual_seed(seed)
    model.init_weights(draw)
    if heads:
        for head in model.heads:
            torch.nn.init.normal_(head.weight, 0, 0.3, generator=draw)
    return model.eval()


def _batches(seed=0, group=16):
    ids, valid = (torch.from_numpy(a) for a in tiny_table().gather(np.arange(16), None))
    config = MaskingConfig(group_size=group, any_to_any=0, dirichlet=1, alphas=(1.0,))
    return mask(ids, valid, TOKENS, config, torch.Generator().manual_seed(seed))


def test_positions_equal_the_formula_and_tell_rows_from_columns():
    coords = torch.tensor([[[0, 0], [3, 1], [1, 3]]])
    got = sincos2d(coords, 8)[0].numpy()
    for n, (row, column) in enumerate([(0, 0), (3, 1), (1, 3)]):
        parts = []
        for c in (row, column):
            angles = [c / 10000 ** (k / 2) for k in range(2)]
            parts += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(got[n], parts, atol=1e-6)
    assert not np.allclose(got[1], got[2])
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos2d(coords, 6)


def test_order_of_tokens_and_company_in_the_batch_change_nothing():
    model, batch = _model(), _batches()[0]
    states = model(batch)
    turn = torch.randperm(batch.input_ids_BN.shape[1], generator=torch.Generator().manual_seed(1))
    turned = batch._replace(
        input_ids_BN=batch.input_ids_BN[:, turn],
        input_modality_BN=batch.input_modality_BN[:, turn],
        input_coords_BN2=batch.input_coords_BN2[:, turn],
    )
    torch.testing.assert_close(model(turned), states, atol=1e-5, rtol=1e-5)
    alone = type(batch)(*(t[3:4] for t in batch))
    torch.testing.assert_close(model(alone), states[3:4], atol=1e-5, rtol=1e-5)


def test_targets_never_enter_the_network():
    model, batch = _model(), _batches()[0]
    other = batch._replace(target_ids_BM=torch.zeros_like(batch.target_ids_BM))
    assert torch.equal(model(other), model(batch))


def test_every_given_token_matters():
    model, batch = _model(), _batches()[0]
    states = model(batch)
    for column in range(batch.input_ids_BN.shape[1]):
        ids = batch.input_ids_BN.clone()
        sizes = torch.tensor([m.vocab_size for m in TOKENS.modalities])
        ids[:, column] = (ids[:, column] + 1) % sizes[batch.input_modality_BN[:, column]]
        assert (model(batch._replace(input_ids_BN=ids)) - states).abs().amax((1, 2)).min() > 1e-6


def test_equal_ids_of_two_modalities_are_two_tokens():
    model = _model()
    assert model.table.num_embeddings == sum(m.vocab_size for m in TOKENS.modalities)
    ids = torch.full((1, 1), 3)
    contexts = [model.encode(ids, torch.tensor([[c]]), torch.zeros(1, 1, 2).long()) for c in (0, 1)]
    assert (contexts[0].states_BND - contexts[1].states_BND).abs().max() > 1e-4


def test_generation_from_nothing_is_finite():
    model = _model()
    empty = torch.zeros(2, 0, dtype=torch.long)
    context = model.encode(empty, empty, torch.zeros(2, 0, 2))
    states = model.decode(context, torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, 2))
    assert torch.isfinite(states).all()


def test_loss_equals_cross_entropy_by_hand_and_absent_modalities_do_not_count():
    model = _model()
    batches = _batches(group=8)
    counts = count_targets(batches, 5)
    weights = modality_weights(counts)
    total = torch.zeros(())
    by_hand: dict[int, list[float]] = {}
    for batch in batches:
        states = model(batch)
        total = total + (token_cross_entropy(model, states, batch) * weights).sum()
        for b in range(len(states)):
            for m in range(states.shape[1]):
                c = int(batch.target_modality_BM[b, m])
                size, target = TOKENS.modalities[c].codebook_size, batch.target_ids_BM[b, m]
                first = int(batch.target_coords_BM2[b, m, 1]) * size if c == SOUND else 0
                rows = model.heads[c].weight[first : first + size]
                logits = (rows @ states[b, m]).detach().double().numpy()
                log_z = logits.max() + math.log(np.exp(logits - logits.max()).sum())
                by_hand.setdefault(c, []).append(log_z - logits[int(target) - first])
    expected = np.mean([np.mean(v) for v in by_hand.values()])
    assert float(total.detach()) == pytest.approx(expected, abs=1e-5)
    assert modality_weights(torch.tensor([4.0, 0.0])).tolist() == [0.25, 0.0]


def test_untrained_model_predicts_uniformly():
    model, batch = _model(heads=False), _batches()[0]
    sums = token_cross_entropy(model, model(batch), batch)
    counts = count_targets([batch], 5)
    for c, m in enumerate(TOKENS.modalities):
        if counts[c]:
            assert float((sums[c] / counts[c]).detach()) == pytest.approx(
                math.log(8 if c == SOUND else m.vocab_size), abs=1e-5
            )


def test_tables_start_from_codebooks_and_leave_other_modalities_alone():
    codes = torch.randn(11, 6, generator=torch.Generator().manual_seed(3))
    codes[1] = codes[0] + 0.01
    plain, started = (FourM(SMALL, tiny_modalities()) for _ in range(2))
    plain.init_weights(torch.Generator().manual_seed(0))
    started.init_weights(torch.Generator().manual_seed(0), {"rgb": codes})
    rows = started.table.weight[:11].detach()
    similar = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)
    others = torch.nn.functional.cosine_similarity(rows[0], rows[2:], dim=1)
    assert similar > others.max() + 0.2
    assert 0.6 < float(rows.std()) < 1.5
    assert torch.equal(started.table.weight[11:], plain.table.weight[11:])


def test_each_of_several_codebooks_starts_a_part_of_the_table_at_the_same_scale():
    draw = torch.Generator().manual_seed(3)
    # Residues of a second codebook are a tenth as long; code 9 is close to code 10.
    codes = torch.cat(
        [torch.randn(8, 6, generator=draw) + 5, torch.randn(8, 6, generator=draw) / 9]
    )
    codes[9] = codes[10] + 0.001
    plain, started = (FourM(SMALL, tiny_modalities()) for _ in range(2))
    plain.init_weights(torch.Generator().manual_seed(0))
    started.init_weights(torch.Generator().manual_seed(0), {"sound": codes})
    before, rows = (m.table_rows(SOUND).detach() for m in (plain, started))
    added = rows - 0.6 * before
    assert [float(own.std()) for own in added.chunk(2)] == pytest.approx([0.8, 0.8], rel=0.25)
    similar = torch.nn.functional.cosine_similarity(added[9:10], added, dim=1)
    assert similar[10] > 0.99 > similar[[*range(9), *range(11, 16)]].max() + 0.01


def test_overfits_one_batch():
    model = _model(heads=False).train()
    batch = _batches(seed=5)[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    weights = modality_weights(count_targets([batch], 5))
    for _ in range(150):
        loss = (token_cross_entropy(model, model(batch), batch) * weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_schedule_warms_up_and_ends_at_the_minimum():
    config = TrainConfig(steps=100, warmup=10, lr=1e-3, min_lr=1e-5)
    rates = [learning_rate(s, config) for s in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(1e-5)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_weight_has_one_optimizer_and_tables_never_decay(name):
    model = _model()
    optimizers = build_optimizers(model, TrainConfig(optimizer=name, weight_decay=0.3))
    owners: dict[int, tuple[str, float]] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                assert id(weight) not in owners
                owners[id(weight)] = (type(optimizer).__name__, group["weight_decay"])
    for key, weight in model.named_parameters():
        is_table = key in ("table.weight", "encoder_modality.weight", "decoder_modality.weight")
        hidden = weight.ndim == 2 and not is_table and not key.startswith("heads.")
        owner, decay = owners[id(weight)]
        assert owner == ("Muon" if hidden and name == "muon" else "AdamW"), key
        assert decay == (0.3 if weight.ndim == 2 and not is_table else 0.0), key


def test_a_muon_step_is_the_orthogonal_factor_of_the_gradient():
    """The update of a square matrix is U V^T of the gradient's SVD, to Newton-Schulz accuracy."""
    model = _model()
    optimizers = build_optimizers(model, TrainConfig(optimizer="muon", lr=0.1, weight_decay=0.0))
    weight = model.context.weight
    before = weight.detach().clone()
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    weight.grad = gradient.clone()
    optimizers[0].step()
    step = before - weight.detach()
    u, _, v = torch.linalg.svd(gradient)
    cosine = (step * (u @ v)).sum() / (step.norm() * (u @ v).norm())
    assert float(cosine) > 0.97
    assert float(step.pow(2).mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.2)


def test_average_follows_the_formula_and_swaps_back():
    module = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.9)
    expected = float(module.weight)
    for step in range(30):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update(module)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    average.swap(module)
    assert float(module.weight) == pytest.approx(expected, rel=1e-5)
    average.swap(module)
    assert float(module.weight) == 29.0
