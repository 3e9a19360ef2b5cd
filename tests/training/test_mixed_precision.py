"""The copy that computes: its gradients, its refreshing, and the scale of fp16."""

import copy

import pytest
import torch

from conftest import small_config, tiny_table
from nano4m.compute.distributed import DistributedContext
from nano4m.model.fourm import FourM
from nano4m.training.batch_sampler import MASKS, WEIGHTS, generator
from nano4m.training.batches import masked_batches
from nano4m.training.loss import count_targets, modality_weights, token_cross_entropy
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.trainer import Trainer, train_model

CPU = DistributedContext(torch.device("cpu"))


def _model():
    table = tiny_table()
    model = FourM(small_config().model, table.modalities)
    model.init_weights(generator(0, WEIGHTS))
    with torch.no_grad():
        for head in model.heads:  # heads of zeros would give the trunk no gradient
            head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return model


def _batches(groups=6):
    table = tiny_table(96)
    rows = table.rows("train")[: groups * 8]
    return masked_batches(table, rows, small_config().masking, 0, MASKS, 0)


def _gradients(dtype, scale=None):
    model = _model()
    module = MixedPrecisionModule(model, dtype, CPU)
    module.scale = module.scale if scale is None else scale
    sums, counts = module.gradients(_batches())
    return {n: p.grad for n, p in model.named_parameters()}, sums, counts


def _distance(one, other):
    """Return the norm of the difference over the norm, of whole gradients."""
    squares = [
        (float((one[n] - g).square().sum()), float(g.square().sum())) for n, g in other.items()
    ]
    return (sum(d for d, _ in squares) / sum(g for _, g in squares)) ** 0.5


def test_float32_gradients_are_those_of_the_loss_written_out():
    model, batches = _model().double(), _batches()
    weights = modality_weights(count_targets(batches, 5))
    sum(
        (token_cross_entropy(model, model(batch), batch) * weights).sum() for batch in batches
    ).backward()
    exact = {n: p.grad.float() for n, p in model.named_parameters()}
    ours, sums, counts = _gradients(torch.float32)
    assert _distance(ours, exact) < 1e-5
    assert counts.sum() == sum(batch.target_ids_BM.numel() for batch in batches)
    assert sums.dtype == torch.float32 and bool((sums[counts > 0] > 0).all())


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision_gradients_are_close_and_held_in_float32(dtype, tolerance):
    exact, wanted, _ = _gradients(torch.float32)
    ours, sums, _ = _gradients(dtype)
    assert {g.dtype for g in ours.values()} == {torch.float32}
    assert 1e-5 < _distance(ours, exact) < tolerance
    assert torch.allclose(sums, wanted, rtol=1e-2)


def test_groups_are_summed_in_float32_not_in_the_type_that_computes():
    model, batches = _model(), _batches()
    assert len(batches) > 5
    weights = modality_weights(count_targets(batches, 5))
    sums = {dtype: {} for dtype in (torch.float32, torch.bfloat16)}
    for batch in batches:
        own = copy.deepcopy(model).to(torch.bfloat16)
        (token_cross_entropy(own, own(batch), batch) * weights).sum().backward()
        for name, weight in own.named_parameters():
            for dtype, total in sums.items():
                total[name] = total.get(name, 0) + weight.grad.to(dtype)
    ours, *_ = _gradients(torch.bfloat16)
    assert _distance(ours, sums[torch.float32]) < 1e-6
    # The planted fault: summed in bf16 it is another gradient.
    assert _distance({n: g.float() for n, g in sums[torch.bfloat16].items()}, ours) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refresh_makes_the_computing_weights_those_of_the_model(dtype):
    model, batches = _model(), _batches(1)
    module = MixedPrecisionModule(model, dtype, CPU)
    before, _ = module.evaluate(batches)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    stale, _ = module.evaluate(batches)
    assert torch.equal(stale, before) == (dtype != torch.float32)
    module.refresh()
    fresh, _ = module.evaluate(batches)
    assert not torch.equal(fresh, before)
    for own, master in zip(module.compute_params, model.parameters(), strict=True):
        assert own.dtype == dtype and torch.equal(own, master.to(dtype))
    assert torch.equal(fresh, MixedPrecisionModule(model, dtype, CPU).evaluate(batches)[0])


def test_evaluation_has_no_dropout_and_leaves_training_on():
    model = FourM(small_config().model, tiny_table().modalities, dropout=0.5)
    model.init_weights(generator(0, WEIGHTS))
    model.heads[0].weight.data.normal_()
    module, batches = MixedPrecisionModule(model, torch.float32, CPU), _batches(1)
    first, second = (module.evaluate(batches)[0] for _ in range(2))
    assert torch.equal(first, second) and module.module.training
    drawn = [module.gradients(batches)[0] for _ in range(2)]
    assert not torch.equal(*drawn)


# -- the scale of fp16 -------------------------------------------------------------------------


def test_gradients_do_not_depend_on_the_scale():
    plain, sums, _ = _gradients(torch.float16, 2.0**6)
    for scale in (2.0**9, 2.0**12):
        other, again, _ = _gradients(torch.float16, scale)
        assert _distance(other, plain) < 1e-3
        assert torch.equal(again, sums)  # losses are never scaled
    assert MixedPrecisionModule(_model(), torch.bfloat16, CPU).scale == 1


def _half_trainer(folder, **train):
    config = small_config(precision="fp16", dropout=0.0, **train)
    return Trainer(config, tiny_table(), folder, CPU)


def test_an_overflow_halves_the_scale_and_changes_nothing_else(tmp_path):
    trainer = _half_trainer(tmp_path, steps=36)
    rows = next(iter(trainer.sampler.steps(0, 1)))
    trainer.step(0, rows)
    trainer.host.module.scale = 2.0**40
    kept = [copy.deepcopy(part) for part in _state(trainer)]
    told = trainer.step(1, rows)
    assert told["grad_norm"] == float("inf") or told["grad_norm"] != told["grad_norm"]
    assert trainer.host.module.scale == trainer.progress_state["scale"] == 2.0**39
    assert trainer.progress_state["skipped"] == 1 and trainer.average.updates == 1
    for before, after in zip(kept, _state(trainer), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in trainer.model.parameters())
    for number in range(2, 36):
        trainer.step(number, rows)
    # It comes down until it fits, and then steps are taken again.
    assert (
        trainer.progress_state["skipped"] < 34
        and trainer.average.updates == 36 - trainer.progress_state["skipped"]
    )


def _state(trainer):
    moments = [
        value
        for optimizer in trainer.optimizers
        for entries in optimizer.state.values()
        for value in entries.values()
    ]
    computing = list(trainer.host.module.module.parameters())
    return list(trainer.model.parameters()), computing, trainer.average.weights, moments


def test_resuming_restores_the_scale_and_the_count_of_updates(tmp_path):
    trainer = _half_trainer(tmp_path)
    trainer.host.module.scale = 2.0**40
    for number, rows in enumerate(trainer.sampler.steps(0, 4)):
        trainer.step(number, rows)
    trainer.state.save(4, trainer.progress_state)
    again = _half_trainer(tmp_path)
    assert (
        again.first == 4
        and again.progress_state["skipped"] == trainer.progress_state["skipped"] > 0
    )
    assert again.host.module.scale == trainer.host.module.scale < 2.0**40
    assert again.average.updates == trainer.average.updates


def test_a_run_in_fp16_that_overflows_writes_valid_lines_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(
        MixedPrecisionModule, "gradients", _overflow_once(MixedPrecisionModule.gradients)
    )
    summary = train_model(small_config(precision="fp16"), tiny_table(), tmp_path)
    assert summary["skipped_steps"] == 1 and summary["precision"] == "float16"
    text = (tmp_path / "log.jsonl").read_text()
    assert '"grad_norm": null' in text and "Infinity" not in text and "NaN" not in text


def _overflow_once(gradients):
    called = []

    def planted(self, batches):
        called.append(len(batches))
        found = gradients(self, batches)
        if len(called) == 3:
            self.master_params[0].grad.fill_(float("inf"))
        return found

    return planted
