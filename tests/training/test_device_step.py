"""The step that never waits: the same gradients and updates as the one that the host decides."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import small_config, tiny_table
from nano4m.compute.distributed import DistributedContext
from nano4m.config.run import MaskingConfig
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.training.batch_sampler import MASKS
from nano4m.training.batches import masked_batches
from nano4m.training.device_step import DeviceStep
from nano4m.training.host_step import HostStep
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.optim import WeightAverage, build_optimizers
from nano4m.training.packed import Packer, packer
from nano4m.training.trainer import Trainer, train_model

CPU = DistributedContext(torch.device("cpu"))
MODELS = {
    "default": {},
    "rope": {"positions": "rope1d", "mlp": "swiglu", "qk_norm": True},
    "rope2d": {"positions": "rope2d"},
    "tied": {"tied": True},
    "shared": {
        "tables": "shared", "register_token": False, "context": "positioned",
        "positions": "sincos1d",
    },
    "shared, tied, capped": {"tables": "shared", "tied": True, "logit_soft_cap": 5.0},
    "computed twice": {"checkpointing": True},
}  # fmt: skip
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


def _model(choices, table, seed=0):
    model = FourM(small_config(choices).model, table.modalities)
    model.init_weights(torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for head in model.heads:
            head.weight.normal_(0, 0.1, generator=draw)
    return model


def _groups(table, seed, masking=None, rows=32):
    masking = masking or small_config().masking
    return masked_batches(table, table.rows("train")[:rows], masking, seed, MASKS, 0), masking


def _step(model, dtype=torch.float32, optimizers=(), **engine):
    progress_state = {"scale": 2.0**12 if dtype == torch.float16 else 1.0, "good": 0, "skipped": 0}
    return DeviceStep(model, dtype, optimizers, 1.0, progress_state, **engine)


@pytest.mark.parametrize("choices", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("passes", [1, 2])
def test_packed_gradients_are_those_of_the_groups(choices, passes):
    table = tiny_table()
    for seed in range(3):
        groups, masking = _groups(table, seed)
        ours, theirs = (_model(choices, table) for _ in range(2))
        sums, counts = MixedPrecisionModule(theirs, torch.float32, CPU).gradients(groups)
        size = 32 // passes
        pack = packer(table.modalities, theirs.register is not None, size, masking)
        step = _step(ours)
        parts = pack.parts(groups)
        assert len(parts) == passes
        for number, part in enumerate(parts):
            step._add_gradients(part, number == 0)
        assert torch.allclose(step.update.sums_C, sums, rtol=1e-5)
        assert torch.equal(step.update.counts_C, counts)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-6)


def test_what_fills_a_batch_up_changes_nothing():
    table = tiny_table()
    groups, masking = _groups(table, 1)
    found = []
    for quantum in (64, 512, 4096):
        model = _model({}, table)
        batch = packer(table.modalities, True, 40, masking, quantum)(groups)
        assert batch.shape.inputs % quantum == batch.shape.targets % quantum == 0
        step = _step(model)
        step._add_gradients(batch, True)
        found.append([step.update.sums_C, *(p.grad for p in model.parameters())])
    for other in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("quantum", [64, 128, 1000])
def test_a_batch_that_is_not_full_is_filled_up(quantum):
    table = tiny_table()
    groups, masking = _groups(table, 1)
    model = _model({}, table)
    wanted, _ = MixedPrecisionModule(model, torch.float32, CPU).evaluate(groups)
    for size in (32, 64, 256):
        batch = packer(table.modalities, True, size, masking, quantum)(groups)
        assert min(given for _, given, _ in batch.groups) >= 1
        assert torch.allclose(_step(model).evaluate([batch]), wanted, rtol=1e-5)


def test_sequences_that_fill_up_hold_whatever_is_left():
    modalities = tiny_table().modalities
    for longest in ((5, 16), (16, 5), (33, 64), (2, 2)):
        for quantum in (64, 4096):
            own = Packer(
                modalities=modalities, has_register=True, batch_size=4, quantum=quantum,
                longest=longest,
            )  # fmt: skip
            for extra in range(0, quantum, 7):
                spare = own.fillers + 4
                found = own._filling(spare + extra, extra, spare)
                assert sum(g for _, g, _ in found) == spare + extra
                assert max(g for _, g, _ in found) <= longest[0]


def test_a_batch_that_is_packed_holds_every_token_once():
    table = tiny_table()
    for seed in range(20):
        groups, masking = _groups(table, seed)
        batch = packer(table.modalities, True, 32, masking)(groups)
        real = sum(b.input_ids_BN.numel() + b.target_ids_BM.numel() for b in groups)
        assert batch.tokens == real
        assert sum(batch.counts) == sum(b.target_ids_BM.numel() for b in groups)
        sizes = np.array(batch.groups)
        assert (sizes[:, 0] * sizes[:, 1]).sum() == batch.shape.inputs
        assert (sizes[:, 0] * sizes[:, 2]).sum() == batch.shape.targets
        assert sizes[:, 0].sum() == batch.shape.sequences
        # Nothing attends to nothing, and nothing is longer than a sample can be.
        assert sizes[:, 1].min() >= 1 and sizes[:, 1:].max() <= batch.shape.longest[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_on_the_device_move_the_weights_as_those_of_the_host(optimizer):
    table = tiny_table()
    settings = small_config(optimizer=optimizer).train
    host, device = (_model({}, table) for _ in range(2))
    theirs, ours = build_optimizers(host, settings), build_optimizers(device, settings, True)
    progress_state = {"scale": 1.0, "good": 0, "skipped": 0, "sums": [0.0] * 5, "counts": [0.0] * 5}
    average = WeightAverage(host, 0.9)
    decided = HostStep(
        MixedPrecisionModule(host, torch.float32, CPU), theirs, average, 1.0, progress_state
    )
    step = _step(device, optimizers=ours)
    for number in range(6):
        groups, masking = _groups(table, number)
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


def _planted(step, number):
    """Make the gradients of the ``number``-th step infinite."""
    add, seen = step._add_gradients, []

    def planted(batch, is_first):
        add(batch, is_first)
        seen.append(1)
        if len(seen) == number:
            step.update.gradients[0].fill_(float("inf"))

    step._add_gradients = planted


def test_a_step_that_is_not_finite_stops_the_weights_where_they_are():
    table = tiny_table()
    for optimizer in ("adamw", "muon"):
        model = _model({}, table)
        settings = small_config(optimizer=optimizer).train
        step = _step(model, optimizers=build_optimizers(model, settings, True))
        _planted(step, 3)
        groups, masking = _groups(table, 0)
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
    model = _model({}, table)
    step = _step(model, torch.float16, build_optimizers(model, small_config().train, True))
    _planted(step, 2)
    groups, masking = _groups(table, 0)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    for _ in range(4):
        step(parts, 1e-3)
    found = step.update.read()
    assert (found.good, found.skipped, found.scale, found.bad) == (3, 1, 2.0**11, None)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_scale_is_taken_out_before_anything_sees_it(optimizer):
    table, found = tiny_table(), []
    groups, masking = _groups(table, 0)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    for scale in (1.0, 2.0**12):
        model = _model({}, table)
        settings = small_config(optimizer=optimizer).train
        optimizers = build_optimizers(model, settings, True)
        step = _step(model, optimizers=optimizers)
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
    model = _model({}, table)
    step = _step(model, torch.float16, build_optimizers(model, small_config().train, True))
    groups, masking = _groups(table, 0)
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


@pytest.mark.parametrize("packed", ["on", "off"])
def test_a_run_without_an_average_saves_and_resumes_to_the_bit(tmp_path, packed):
    config = small_config(ema=0.0, packed=packed, steps=6, save_every=2)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tiny_table(), tmp_path / "stopped", stop=lambda done: done == 3)
    for name in ("straight", "stopped"):
        train_model(config, tiny_table(), tmp_path / name)
    straight, stopped = (_weights(tmp_path / n) for n in ("straight", "stopped"))
    assert all(torch.equal(w, stopped[n]) for n, w in straight.items())


def test_validation_that_is_no_multiple_of_a_step_is_whole(tmp_path):
    told = {}
    for packed in ("on", "off"):
        (tmp_path / packed).mkdir()
        config = small_config(packed=packed, batch_size=32, val_samples=20, quantum=64, steps=2)
        told[packed] = train_model(config, tiny_table(), tmp_path / packed)["val"]
    assert told["on"] == pytest.approx(told["off"], rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_shapes_repeat_whatever_a_step_is_cut_into(accumulate):
    table = tiny_table(96)
    others = dict.fromkeys(("any_to_any", "inference_aligned", "suffix", "infill"), 0.0)
    limits = {"min_inputs": 2, "max_inputs": 7, "min_targets": 2, "max_targets": 7}
    masking = MaskingConfig(
        **others,
        **limits,
        dirichlet=1.0,
        group_size=8,
        paired_totals=True,
        num_inputs_weights=(1.0,),
    )
    same = np.flatnonzero(table.text_lengths(np.arange(96)) == 3)
    pack = packer(table.modalities, True, 32 // accumulate, masking)
    shapes = {
        part.shape
        for step in range(100)
        for part in pack.parts(masked_batches(table, np.resize(same, 32), masking, 0, MASKS, step))
    }
    assert len(shapes) <= (16 if accumulate == 4 else 2)


def test_a_run_refuses_the_step_that_is_not_finite_by_its_number(tmp_path, monkeypatch):
    planted, init = [], DeviceStep.__init__

    def begin(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _planted(self, 7)
        planted.append(self)

    monkeypatch.setattr(DeviceStep, "__init__", begin)
    config = small_config(packed="on", steps=40, save_every=100)
    with pytest.raises(UserError, match=r"not finite at step 7 .*nonfinite-7"):
        train_model(config, tiny_table(), tmp_path)
    assert planted and (tmp_path / "nonfinite-7").is_dir()


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_packed_run_is_near_the_one_by_groups_and_resumes_to_the_bit(tmp_path, optimizer):
    settings = {"steps": 12, "dropout": 0.0, "optimizer": optimizer, "save_every": 4}
    summaries = {}
    for name in ("on", "off", "stopped"):
        (tmp_path / name).mkdir()
        config = small_config(**settings, packed="off" if name == "off" else "on")
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                train_model(config, tiny_table(), tmp_path / name, stop=lambda done: done == 5)
        summaries[name] = train_model(config, tiny_table(), tmp_path / name)
    packed, plain, stopped = (_weights(tmp_path / n) for n in ("on", "off", "stopped"))
    assert all(torch.equal(w, stopped[n]) for n, w in packed.items())
    assert summaries["on"]["val"] == summaries["stopped"]["val"]
    assert summaries["on"]["tokens"] == summaries["off"]["tokens"]
    assert summaries["on"]["val"] == pytest.approx(summaries["off"]["val"], rel=0.02)
    limit = 1e-4 if optimizer == "adamw" else 0.02
    assert all(float((w - plain[n]).abs().max()) < limit for n, w in packed.items())


def test_a_run_goes_on_by_the_other_kind_of_step(tmp_path):
    """As when a run moves from a GPU to a CPU and back."""
    settings = {"steps": 12, "dropout": 0.0, "save_every": 4}
    for end, packed in ((4, "on"), (8, "off"), (12, "on")):
        config = small_config(**settings, packed=packed)
        if end < 12:
            with pytest.raises(KeyboardInterrupt):
                train_model(config, tiny_table(), tmp_path, stop=lambda done, end=end: done == end)
    moved = train_model(config, tiny_table(), tmp_path)
    (tmp_path / "straight").mkdir()
    straight = train_model(config, tiny_table(), tmp_path / "straight")
    assert moved["val"] == pytest.approx(straight["val"], rel=0.02)


# -- what makes it fast, counted --------------------------------------------------------------


def test_twenty_steps_read_nothing_from_the_device():
    table = tiny_table()
    for optimizer in ("adamw", "muon"):
        model = _model({}, table)
        settings = small_config(optimizer=optimizer).train
        step = _step(model, torch.bfloat16, build_optimizers(model, settings, True))
        average = WeightAverage(model, 0.99)
        made = [_groups(table, seed) for seed in range(20)]
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
        groups, _ = _groups(table, 0, masking)
        model = _model({}, table)
        step = _step(model, optimizers=build_optimizers(model, small_config().train, True))
        (batch,) = packer(table.modalities, True, 32, masking).parts(groups)
        assert min(batch.counts) > 0
        with Dispatched() as seen:
            step([batch], 1e-3)
        counts.add(seen.counts.total())
    assert len(counts) == 1 and counts.pop() < 1200


@pytest.mark.parametrize("name", ["mixture", "paired"])
def test_few_shapes_come_up_in_a_thousand_steps(name):
    table = tiny_table()
    own = {"group_size": 8}
    if name == "paired":
        zeros = dict.fromkeys(("any_to_any", "inference_aligned", "suffix", "infill"), 0.0)
        own |= zeros | {"dirichlet": 1.0, "paired_totals": True, "num_inputs_weights": (1.0,)}
        own |= {"min_inputs": 2, "max_inputs": 12, "min_targets": 2, "max_targets": 8}
    masking = MaskingConfig(**own)
    rows = table.rows("train")
    pack = packer(table.modalities, True, 32, masking)
    picked = np.resize(rows[np.argsort(table.text_lengths(rows), kind="stable")], 32)
    shapes = Counter(
        pack(masked_batches(table, picked, masking, 0, MASKS, step)).shape for step in range(1000)
    )
    assert len(shapes) <= (1 if name == "paired" else 45)


# -- on a GPU ----------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_graphs_give_the_gradients_of_float32(name, cuda):
    choices = MODELS[name]
    table = tiny_table()
    wide = {"dim": 64, "head_dim": 16}
    groups, masking = _groups(table, 0)
    exact = _model(choices | wide, table)
    sums, _ = MixedPrecisionModule(exact, torch.float32, CPU).gradients(groups)
    engines = [{}, {"graphs": True}]
    # Compiling takes half a minute each.
    engines += [{"graphs": True, "compiled": True}] if name in ("default", "rope") else []
    for engine in engines:
        model = _model(choices | wide, table).to(cuda)
        step = _step(model, torch.bfloat16, **engine)
        pack = packer(table.modalities, model.register is not None, 32, masking)
        # More often than it takes to capture, with other data in between.
        for seed in (1, 2, 3, 0):
            step.update.sums_C.zero_()
            step._add_gradients(pack(_groups(table, seed)[0]), True)
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
