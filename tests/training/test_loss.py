"""The loss: equal to PyTorch's cross-entropy of the whole scores, which it never holds."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from conftest import small_config, tiny_table
from nano4m.model.fourm import FourM
from nano4m.model.wide_product import wide_product
from nano4m.tokens.batch import MaskedBatch
from nano4m.training import loss
from nano4m.training.batch_sampler import MASKS, generator
from nano4m.training.batches import masked_batches
from nano4m.training.loss import (
    count_targets,
    linear_cross_entropy,
    modality_weights,
    score_gradient,
    token_cross_entropy,
)


def _inputs(dtype, tokens=37, width=6, size=13, seed=0):
    draw = torch.Generator().manual_seed(seed)
    states = 2 * torch.randn(tokens, width, generator=draw, dtype=torch.float64)
    weight = torch.randn(size, width, generator=draw, dtype=torch.float64)
    ids = torch.randint(size, (tokens,), generator=draw)
    return states.to(dtype), weight.to(dtype), ids


def _plain(states, weight, ids, cap=0.0):
    scores = F.linear(states, weight)
    scores = cap * torch.tanh(scores / cap) if cap else scores
    return F.cross_entropy(scores, ids, reduction="sum")


def _with_gradients(function, states, weight, ids, *more):
    """Return the value and both gradients of 0.37 times it."""
    leaves = [t.clone().requires_grad_() for t in (states, weight)]
    value = function(*leaves, ids, *more)
    (0.37 * value).backward()
    return value.detach(), *(t.grad for t in leaves)


@pytest.mark.parametrize("most", [1, 40, 200, 1 << 22])
@pytest.mark.parametrize("cap", [0.0, 1.5])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_gradients_are_those_of_the_whole_scores(
    monkeypatch, dtype, tolerance, cap, most
):
    monkeypatch.setattr(loss, "MOST_LOGITS", most)
    states, weight, ids = _inputs(dtype)
    ours = _with_gradients(linear_cross_entropy, states, weight, ids, cap)
    exact = _with_gradients(_plain, states.double(), weight.double(), ids, cap)
    for mine, wanted in zip(ours, exact, strict=True):
        assert mine.dtype == dtype
        error = (mine.double() - wanted).abs().max() / wanted.abs().max()
        assert error < tolerance


@pytest.mark.parametrize("most", [13 * 16, 1 << 22])
def test_half_precision_is_close_to_float64_of_the_same_numbers(monkeypatch, most):
    monkeypatch.setattr(loss, "MOST_LOGITS", most)
    states, weight, ids = _inputs(torch.bfloat16, tokens=3000)
    value, *gradients = _with_gradients(linear_cross_entropy, states, weight, ids)
    exact, *wanted = _with_gradients(_plain, states.double(), weight.double(), ids)
    assert value.dtype == torch.float32 and gradients[0].dtype == torch.bfloat16
    # Neither a score nor their sum is rounded to 8 bits: in bf16 it would stop at about 1,000.
    assert abs(float(value / exact) - 1) < 1e-6
    for mine, right in zip(gradients, wanted, strict=True):
        assert float((mine.double() - right).norm() / right.norm()) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_scores_of_half_precision_matrices_are_not_rounded(dtype):
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 256, generator=draw)
    # The state of each token points at its own row: its score is about 31, the others around 0.
    ids, wanted = torch.arange(64), torch.linspace(30.5, 31.5, 64)[:, None]
    states = (weight * (wanted / weight.square().sum(1, keepdim=True))).to(dtype)
    weight = weight.to(dtype)
    exact = F.linear(states.double(), weight.double())
    assert exact.diagonal().min() > 30 and exact.diagonal().max() < 32
    found = wide_product(states, weight)
    assert found.dtype == torch.float32 and (found - exact).abs().max() < 1e-3
    # The plain product is what was wrong: the test would see it.
    assert dtype != torch.bfloat16 or (states @ weight.T - exact).abs().max() > 0.03
    wanted = F.cross_entropy(exact, ids.roll(1), reduction="sum")
    for total in (
        linear_cross_entropy(states, weight, ids.roll(1)),
        score_gradient(found, ids.roll(1), torch.ones(()), 0.0, dtype)[0],
    ):
        assert float(total) == pytest.approx(float(wanted), abs=1e-3)
    leaf = states.clone().requires_grad_()
    wide_product(leaf, weight).sum().backward()
    assert leaf.grad.dtype == dtype and leaf.grad.any()


def test_a_loss_without_a_gradient_does_not_compute_one(monkeypatch):
    states, weight, ids = _inputs(torch.float32)
    wanted = _with_gradients(linear_cross_entropy, states, weight, ids)[0]
    monkeypatch.setattr(torch.Tensor, "scatter_add_", None)
    with torch.no_grad():
        found = linear_cross_entropy(states, torch.nn.Parameter(weight), ids)
    assert torch.equal(found, wanted) and not found.requires_grad


def test_the_weight_of_a_loss_is_not_rounded_to_half_precision():
    states, weight, ids = _inputs(torch.bfloat16)
    pair = []
    for factor in (1.0, 1 + 2**-8 + 2**-10):
        leaf = states.clone().requires_grad_()
        (factor * linear_cross_entropy(leaf, weight, ids)).backward()
        pair.append(leaf.grad.double().abs().sum())
    # A factor that is rounded to bf16 first would be 1 + 2^-7.
    assert float(pair[1] / pair[0]) == pytest.approx(1 + 2**-8 + 2**-10, abs=1e-3)


def test_no_targets_give_zero_and_zero_gradients():
    states, weight, ids = _inputs(torch.float32)
    value, *gradients = _with_gradients(linear_cross_entropy, states[:0], weight, ids[:0])
    assert float(value) == 0
    assert [tuple(g.shape) for g in gradients] == [(0, 6), (13, 6)]
    assert not gradients[1].any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_has_no_gradient_and_the_other_its_own(frozen):
    both = _with_gradients(linear_cross_entropy, *_inputs(torch.float64))
    states, weight, ids = _inputs(torch.float64)
    leaves = [states.requires_grad_(frozen != 0), weight.requires_grad_(frozen != 1)]
    (0.37 * linear_cross_entropy(*leaves, ids)).backward()
    assert leaves[frozen].grad is None
    assert torch.equal(leaves[1 - frozen].grad, both[2 - frozen])


def test_an_id_outside_the_vocabulary_is_an_error():
    states, weight, ids = _inputs(torch.float32)
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy(states, weight, ids + 1)


def _peak_bytes(function, *arguments):
    """Return the most memory that is held at once beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        _with_gradients(function, *arguments)
    held = most = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_the_whole_scores_are_never_held(monkeypatch):
    monkeypatch.setattr(loss, "MOST_LOGITS", 1 << 16)
    inputs = _inputs(torch.float32, tokens=4096, width=8, size=512)
    whole = 4096 * 512 * 4
    ours, plain = (_peak_bytes(f, *inputs) for f in (linear_cross_entropy, _plain))
    assert plain > whole  # the measure sees whole scores where they are
    assert ours < whole / 4


# -- over a batch ------------------------------------------------------------------------------


def _model_and_batch(**model):
    config, table = small_config(model), tiny_table()
    made = FourM(config.model, table.modalities).double()
    made.init_weights(generator(0, 3))
    with torch.no_grad():
        for head in made.heads:
            head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(5))
    batch = masked_batches(table, table.rows("train")[:8], config.masking, 0, MASKS, 5)[0]
    return made, batch


def _reference(model, states_BMD, batch, starts, sizes):
    """Return the summed cross-entropy of each modality, one token at a time."""
    sums = [torch.zeros((), dtype=torch.float64) for _ in model.modalities]
    weight = model.table.weight if model.config.tied else None
    for b in range(states_BMD.shape[0]):
        for m in range(states_BMD.shape[1]):
            c, token = int(batch.target_modality_BM[b, m]), int(batch.target_ids_BM[b, m])
            head = weight if weight is not None else model.heads[c if len(model.heads) > 1 else 0]
            # A codebook is a part of a head of its own.
            entry = model.modalities[c]
            apart = model.config.tables == "modality" and entry.num_codebooks > 1
            book = int(batch.target_coords_BM2[b, m, 1]) * apart
            size = entry.codebook_size if apart else sizes[c]
            token -= book * size
            first = starts[c] + book * size
            rows = getattr(head, "weight", head)[first : first + size]
            state = states_BMD[b, m] * (model.config.dim**-0.5 if model.config.tied else 1)
            sums[c] = sums[c] + F.cross_entropy((rows @ state)[None], torch.tensor([token]))
    return torch.stack(sums)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tables", ["modality", "shared"])
def test_each_token_is_scored_over_its_own_codebook_or_all_of_a_shared_table(tables, tied):
    model, batch = _model_and_batch(tables=tables, tied=tied)
    vocabularies = [m.vocab_size for m in model.modalities]
    starts = (
        [0] * 5 if tables == "shared" or not tied else [sum(vocabularies[:i]) for i in range(5)]
    )
    sizes = [max(vocabularies)] * 5 if tables == "shared" else vocabularies
    results = []
    for whole in (token_cross_entropy, lambda *a: _reference(*a, starts, sizes)):
        model.zero_grad()
        sums = whole(model, model(batch), batch)
        sums.sum().backward()
        results.append((sums.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (ours, gradients), (wanted, exact) = results
    assert (ours - wanted).abs().max() < 1e-10 and ours.sum() > 10
    for name, gradient in gradients.items():
        right = torch.zeros_like(gradient) if exact[name] is None else exact[name]
        assert (gradient - right).abs().max() < 1e-10, name


def test_an_absent_modality_does_not_count_and_its_head_has_a_zero_gradient():
    model, batch = _model_and_batch()
    present = int(batch.target_modality_BM[0, 0])
    keep = batch.target_modality_BM[0] == present
    batch = MaskedBatch(*batch[:3], *(t[:, keep] for t in batch[3:]))
    counts = count_targets([batch], 5)
    weights = modality_weights(counts)
    sums = token_cross_entropy(model, model(batch), batch)
    loss = (weights * sums).sum()
    loss.backward()
    assert counts.tolist() == [batch.target_ids_BM.numel() * (c == present) for c in range(5)]
    assert loss.item() == pytest.approx((sums[present] / counts[present]).item())
    for c, head in enumerate(model.heads):
        assert head.weight.grad is not None and bool(head.weight.grad.any()) == (c == present)


def test_the_weights_of_a_step_are_a_mean_of_means_by_hand():
    # 6, 0, 2 targets: a third modality that is absent leaves the mean of two.
    weights = modality_weights(torch.tensor([6.0, 0.0, 2.0]))
    assert weights.tolist() == pytest.approx([1 / 12, 0, 1 / 4])
    assert modality_weights(torch.zeros(3)).tolist() == [0, 0, 0]
