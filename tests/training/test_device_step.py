"""The step that never waits: the same gradients and updates as the one that the host decides."""

from collections import Counter

import pytest
import torch
from packed_steps import CPU, MODELS, groups_of, model_of, plant_infinity, step_of
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import small_config, tiny_table
from nano4m.compute.distributed import DistributedContext
from nano4m.config.masking import MaskingConfig
from nano4m.training.host_step import HostStep
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.optim import WeightAverage, build_optimizers
from nano4m.training.packed_batch import packer
from nano4m.training.trainer import Trainer, train_model

# A host that reads a number waits for all that was launched.
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "masked_select", "equal")


class Dispatched(TorchDispatchMode):
    """Counts the operators of a step and refuses those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in READS, f"{name} reads from the device"
        if name in ("index", "index_put", "index_put_"):
            indices = args[1]
            assert all(i is None or i.dtype != torch.bool for i in indices), "a boolean index"
        self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_on_the_device_move_the_weights_as_those_of_the_host(optimizer):
    table = tiny_table()
    settings = small_config(optimizer=optimizer).train
    host, device = (model_of({}, table) for _ in range(2))
    theirs, ours = build_optimizers(host, settings), build_optimizers(device, settings, True)
    progress_state = {"scale": 1.0, "good": 0, "skipped": 0, "sums": [0.0] * 5, "counts": [0.0] * 5}
    average = WeightAverage(host, 0.9)
    decided = HostStep(
        MixedPrecisionModule(host, torch.float32, CPU), theirs, average, 1.0, progress_state
    )
    step = step_of(device, optimizers=ours)
    for number in range(6):
        groups, masking = groups_of(table, number)
        _, norm, _ = decided(groups, 1e-3)
        step(packer(table.modalities, True, 32, masking).parts(groups), 1e-3)
    found = step.update.read()
    assert found.norm == pytest.approx(norm, rel=1e-4)
    assert found.sums == pytest.approx(progress_state["sums"], rel=1e-4)
    assert found.good == progress_state["good"] == 6 and found.bad is None
    # Newton-Schulz is computed in bf16: a bit there is 1e-4 of a step of 1e-3.
    limit = 2e-5 if optimizer == "adamw" else 1e-3
    for a, b in zip(device.parameters(), host.parameters(), strict=True):
        assert float((a - b).abs().max()) < limit


def test_a_step_that_is_not_finite_stops_the_weights_where_they_are():
    table = tiny_table()
    for optimizer in ("adamw", "muon"):
        model = model_of({}, table)
        settings = small_config(optimizer=optimizer).train
        step = step_of(model, optimizers=build_optimizers(model, settings, True))
        plant_infinity(step, 3)
        groups, masking = groups_of(table, 0)
        parts = packer(table.modalities, True, 32, masking).parts(groups)
        kept = []
        for _ in range(5):
            kept.append([p.detach().clone() for p in model.parameters()])
            step(parts, 1e-3)
        found = step.update.read()
        assert found.good == 2 and found.bad is not None and found.bad[1] == float("inf")
        for later in (kept[3], kept[4], list(model.parameters())):
            assert all(torch.equal(a, b) for a, b in zip(kept[2], later, strict=True))


def test_an_fp16_step_that_overflows_is_left_out_and_the_scale_halved():
    table = tiny_table()
    model = model_of({}, table)
    step = step_of(model, torch.float16, build_optimizers(model, small_config().train, True))
    plant_infinity(step, 2)
    groups, masking = groups_of(table, 0)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    for _ in range(4):
        step(parts, 1e-3)
    found = step.update.read()
    assert (found.good, found.skipped, found.scale, found.bad) == (3, 1, 2.0**11, None)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_scale_is_taken_out_before_anything_sees_it(optimizer):
    table, found = tiny_table(), []
    groups, masking = groups_of(table, 0)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    for scale in (1.0, 2.0**12):
        model = model_of({}, table)
        settings = small_config(optimizer=optimizer).train
        optimizers = build_optimizers(model, settings, True)
        step = step_of(model, optimizers=optimizers)
        step.update.scale.fill_(scale)
        for _ in range(3):
            step(parts, 1e-3)
        moments = [v for o in optimizers for state in o.state.values() for v in state.values()]
        reading = torch.tensor([step.update.read().norm])
        found.append([reading, *(p.detach() for p in model.parameters()), *moments])
    for plain, scaled in zip(*found, strict=True):
        assert torch.allclose(plain, scaled, rtol=1e-4, atol=1e-7)


def test_an_fp16_run_that_overflows_at_any_scale_is_stopped():
    table = tiny_table()
    model = model_of({}, table)
    step = step_of(model, torch.float16, build_optimizers(model, small_config().train, True))
    groups, masking = groups_of(table, 0)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    step(parts, 1e-3)
    with torch.no_grad():
        step.computing.heads[0].weight.fill_(float("nan"))
        model.heads[0].weight.fill_(float("nan"))
    kept = [p.detach().clone() for p in model.parameters()]
    for _ in range(20):
        step(parts, 1e-3)
    found = step.update.read()
    # From 2 ** 12 down to 1, then no further.
    assert (found.good, found.skipped, found.scale) == (1, 12, 1.0) and found.bad is not None
    now = list(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(kept[:5], now[:5], strict=True))


# -- what makes it fast, counted ---------------------------------------------------------------


def test_twenty_steps_read_nothing_from_the_device():
    table = tiny_table()
    for optimizer in ("adamw", "muon"):
        model = model_of({}, table)
        settings = small_config(optimizer=optimizer).train
        step = step_of(model, torch.bfloat16, build_optimizers(model, settings, True))
        average = WeightAverage(model, 0.99)
        made = [groups_of(table, seed) for seed in range(20)]
        parts = [packer(table.modalities, True, 32, m).parts(g) for g, m in made]
        with Dispatched():
            for number in range(20):
                step(parts[number], 1e-3)
                average.update(model)
        assert step.update.read().good == 20


def test_a_read_is_caught():
    with pytest.raises(AssertionError, match="reads from the device"), Dispatched():
        float(torch.ones(2).sum())
    with pytest.raises(AssertionError, match="reads from the device"), Dispatched():
        torch.ones(2).nonzero()


def test_operators_of_a_step_do_not_grow_with_the_groups(monkeypatch):
    """Group after group launches all of the blocks for each of them."""
    # As on a GPU: one kernel attends in sequences of all lengths.
    monkeypatch.setattr("nano4m.model.layers.packed_attention", lambda q, k, v, s: q + v.sum())
    table, counts = tiny_table(), set()
    others = dict.fromkeys(("any_to_any", "inference_aligned", "suffix", "infill"), 0.0)
    for size in (2, 4, 16):
        masking = MaskingConfig(**others, dirichlet=1.0, min_targets=12, group_size=size)
        groups, _ = groups_of(table, 0, masking)
        model = model_of({}, table)
        step = step_of(model, optimizers=build_optimizers(model, small_config().train, True))
        (batch,) = packer(table.modalities, True, 32, masking).parts(groups)
        assert min(map(min, batch.counts)) > 0
        with Dispatched() as seen:
            step([batch], 1e-3)
        counts.add(seen.counts.total())
    assert len(counts) == 1 and counts.pop() < 1200


# -- on a GPU ----------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_graphs_give_the_gradients_of_float32(name, cuda):
    choices = MODELS[name]
    table = tiny_table()
    wide = {"dim": 64, "head_dim": 16}
    groups, masking = groups_of(table, 0)
    exact = model_of(choices | wide, table)
    sums, _ = MixedPrecisionModule(exact, torch.float32, CPU).gradients(groups)
    engines = [{}, {"graphs": True}]
    # Compiling takes half a minute each.
    engines += [{"graphs": True, "compiled": True}] if name in ("default", "rope") else []
    for engine in engines:
        model = model_of(choices | wide, table).to(cuda)
        step = step_of(model, torch.bfloat16, **engine)
        pack = packer(table.modalities, model.register is not None, 32, masking)
        # More often than it takes to capture, with other data in between.
        for seed in (1, 2, 3, 0):
            step.update.sums_C.zero_()
            step._add_gradients(pack(groups_of(table, seed)[0]), True)
        step.update.sums_C.zero_()
        step._add_gradients(pack(groups), True)
        assert torch.allclose(step.update.sums_C.cpu(), sums, rtol=0.02), engine
        for a, b in zip(model.parameters(), exact.parameters(), strict=True):
            scale = float(b.grad.norm()) + 1e-4
            assert float((a.grad.cpu() - b.grad).norm()) / scale < 0.1, engine


@pytest.mark.gpu
def test_a_run_moves_from_a_gpu_to_a_cpu_and_back(tmp_path, cuda):
    wide = {"dim": 64, "head_dim": 16}
    settings = {"steps": 60, "dropout": 0.0, "save_every": 20, "precision": "auto"}
    for end, device in ((20, "cuda"), (40, "cpu"), (60, "cuda")):
        config = small_config(wide, device=device, **settings)
        if end < 60:
            with pytest.raises(KeyboardInterrupt):
                train_model(config, tiny_table(), tmp_path, stop=lambda done, end=end: done == end)
    moved = train_model(config, tiny_table(), tmp_path)
    (tmp_path / "straight").mkdir()
    straight = train_model(config, tiny_table(), tmp_path / "straight")
    assert moved["device"] == "cuda:0"
    assert moved["val"] == pytest.approx(straight["val"], rel=0.05)


@pytest.mark.gpu
def test_steps_between_two_readings_never_wait(tmp_path, cuda):
    table = tiny_table()
    trainer = Trainer(small_config(device="cuda"), table, tmp_path, DistributedContext(cuda))
    steps = list(enumerate(trainer.sampler.steps(0, 12)))
    for number, rows in steps[:6]:
        trainer.step(number, rows)
    trainer.settle(6)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, rows in steps[6:]:
            trainer.step(number, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.settle(12)
    assert trainer.progress_state["good"] == 12
