"""The engine as a whole: ways to compute give one result, faults stop with what reproduces them."""

import functools
import json
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from conftest import small_config, tiny_table
from nano4m.checkpoints.folder import load_batches, load_model
from nano4m.compute.distributed import DistributedContext
from nano4m.config.masking import MaskingConfig
from nano4m.config.model import ModelConfig
from nano4m.config.run import Config
from nano4m.config.training import TrainConfig
from nano4m.errors import UserError
from nano4m.masking import mask
from nano4m.tokens.batch import MaskedBatch
from nano4m.tokens.table import TokenTable, open_table, write_table
from nano4m.training.batch_sampler import DROPOUT
from nano4m.training.interrupt import Interrupt
from nano4m.training.loss import token_cross_entropy
from nano4m.training.state import newest_state
from nano4m.training.trainer import Trainer, train_model

CPU = DistributedContext(torch.device("cpu"))


def _weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


# -- one result ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_computing_blocks_twice_gives_the_same_bits(tmp_path, precision):
    for name, twice in (("once", False), ("twice", True)):
        (tmp_path / name).mkdir()
        config = small_config({"checkpointing": twice}, precision=precision, steps=4)
        train_model(config, tiny_table(), tmp_path / name)
    once, twice = (_weights(tmp_path / name) for name in ("once", "twice"))
    assert all(torch.equal(w, once[n]) for n, w in twice.items())
    # Dropout is on: a second pass that drew again would have told.
    assert _losses(tmp_path / "once") == _losses(tmp_path / "twice")


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_step_is_the_plain_one(tmp_path, monkeypatch, backend):
    if backend == "inductor" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: on a CPU building C++ takes minutes, graphs are the same")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    settings = {"steps": 2, "dropout": 0.0, "optimizer": "adamw", "val_samples": 8}
    for name, compiled in (("plain", False), ("compiled", True)):
        (tmp_path / name).mkdir()
        config = small_config(**settings, compile=compiled)
        train_model(config, tiny_table(), tmp_path / name)
    assert bool(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    plain, compiled = (_losses(tmp_path / name) for name in ("plain", "compiled"))
    for a, b in zip(plain, compiled, strict=True):
        assert b == pytest.approx(a, rel=1e-5)
    wanted = _weights(tmp_path / "plain")
    for name, weight in _weights(tmp_path / "compiled").items():
        assert (weight - wanted[name]).abs().max() < 1e-4, name


def test_training_draws_nothing_from_the_global_stream_but_dropout(tmp_path):
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        (tmp_path / str(seed)).mkdir()
        train_model(small_config(steps=3), tiny_table(), tmp_path / str(seed))
        states.append(_weights(tmp_path / str(seed)))
    assert all(torch.equal(w, states[0][n]) for n, w in states[1].items())


def test_validation_is_fixed_and_that_of_the_averaged_weights(tmp_path):
    config, table = small_config(ema=0.9), tiny_table()
    trainer = Trainer(config, table, tmp_path, CPU)
    for number, rows in enumerate(trainer.sampler.steps(0, 4)):
        trainer.step(number, rows)
    kept = [p.detach().clone() for p in trainer.model.parameters()]
    told = trainer.validate()
    assert trainer.validate() == told
    assert all(torch.equal(p, k) for p, k in zip(trainer.model.parameters(), kept, strict=True))
    trainer.average.swap(trainer.model)
    trainer.model.eval()
    sums, counts = np.zeros(5), np.zeros(5)
    with torch.no_grad():
        for batch in trainer.validation:
            sums += token_cross_entropy(trainer.model, trainer.model(batch), batch).numpy()
            counts += np.bincount(batch.target_modality_BM.flatten(), minlength=5)
    wanted = {m.name: s / c for m, s, c in zip(table.modalities, sums, counts, strict=True) if c}
    assert told == pytest.approx(wanted, rel=1e-5)
    again = Trainer(config, table, tmp_path / "again", CPU).validation
    for batch, other in zip(trainer.validation, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


# -- stopping ----------------------------------------------------------------------------------


def test_the_first_signal_waits_for_the_step_and_the_second_does_not():
    with Interrupt().watch() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 0.1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_saves_the_step_it_came_in(tmp_path, monkeypatch):
    step = Trainer.step

    def interrupted(self, number, picked, packed=None):
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number, picked, packed)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_model(small_config(), tiny_table(), tmp_path)
    assert newest_state(tmp_path)[0] == 7


def test_training_works_in_a_thread_where_signals_cannot_be_caught(tmp_path):
    told: list = []
    arguments = (small_config(steps=2), tiny_table(), tmp_path)
    thread = threading.Thread(target=lambda: told.append(train_model(*arguments)))
    thread.start()
    thread.join(60)
    assert told[0]["steps"] == 2


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_that_is_not_finite_can_be_computed_again(tmp_path, precision):
    config = small_config(
        warmup=0, steps=50, clip_norm=None, optimizer="adamw", precision=precision
    )
    # A rate that the configuration refuses.
    update = {"train": config.train.model_copy(update={"lr": 1e30})}
    config = config.model_copy(update=update)
    table = tiny_table()
    with pytest.raises(UserError) as raised:
        train_model(config, table, tmp_path)
    said = str(raised.value)
    step = int(re.search(r"not finite at step (\d+)", said)[1])
    where = Path(re.search(r"of the step are in (\S+);", said)[1])
    assert where == tmp_path / f"nonfinite-{step}"
    noted = json.loads((where / "step.json").read_text())
    trainer = Trainer(config, table, tmp_path / "order", CPU)
    (drawn,) = trainer.sampler.steps(step - 1, step)
    assert noted["clips"] == [str(name) for name in table.clip_ids[drawn.rows]]
    assert all(clip in said for clip in noted["clips"][:8])
    # As its docstring says: weights and batches give the loss again.
    model, token_spec = load_model(where, finite=False)
    token_spec.require_same(table.token_spec, "reproducer", "table")
    dtype = getattr(torch, noted["dtype"])
    assert dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = model.to(dtype)
    batches = load_batches(where)
    assert all(isinstance(b, MaskedBatch) for b in batches)
    assert sum(len(b.target_ids_BM) for b in batches) == len(drawn.rows)
    with torch.no_grad():
        sums = torch.stack([token_cross_entropy(model, model(b), b) for b in batches])
    assert not torch.isfinite(sums).all()


def test_the_batches_of_the_reproducer_are_those_of_the_step(tmp_path, monkeypatch):
    config, table = small_config(), tiny_table()
    seen = []

    def planted(*arguments):
        seen.append(mask(*arguments))
        return seen[-1]

    monkeypatch.setattr("nano4m.training.batches.mask", planted)
    trainer = Trainer(config, table, tmp_path, CPU)
    (rows,) = trainer.sampler.steps(0, 1)
    with torch.no_grad():
        trainer.model.heads[0].weight.fill_(float("nan"))
    with pytest.raises(UserError, match="at step 1 .*gradient norm nan"):
        trainer.step(0, rows)
    for batch, other in zip(seen[-1], load_batches(tmp_path / "nonfinite-1"), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
    assert load_model(tmp_path / "nonfinite-1", finite=False)[0].heads[0].weight.isnan().all()


# -- refused before the first step ---------------------------------------------------------------


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: small_config(batch_size=20), "batch_size 20 is not a multiple of .* 8"),
        (lambda: small_config(steps=0), "steps\n.*whole number from 1"),
        (lambda: small_config(ema=1.0), "ema\n.*from 0 to below 1"),
        (lambda: small_config(precision="fp64"), "precision\n.*'auto', 'fp32', 'bf16' or 'fp16'"),
        (lambda: small_config(device="tpu"), "device\n.*allowed are auto, cpu, cuda"),
        (lambda: small_config(strategy="zero"), "strategy\n.*'ddp' or 'fsdp'"),
        (lambda: small_config({"dim": 18}), "dim 18 is not a multiple of head_dim 8"),
        (
            lambda: ModelConfig(positions="rope1d", head_dim=3, dim=12),
            "head_dim 3 is not a multiple of 2, which positions rope1d needs",
        ),
        (
            lambda: ModelConfig(positions="rope2d", head_dim=6, dim=12),
            "head_dim 6 is not a multiple of 4, which positions rope2d needs",
        ),
        (
            lambda: small_config({"tables": "shared"}, init_from_codebook=True),
            "add --train.no-init-from-codebook",
        ),
        (lambda: TrainConfig(warm_up=3), "warm_up\n.*not permitted"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_what_is_allowed(make, sentence):
    with pytest.raises(ValidationError, match=sentence):
        make()


@pytest.mark.parametrize(
    "masking, sentence",
    [
        ({"max_targets": 99}, r"masking.max_targets 99: the longest clip can have 28"),
        ({"max_inputs": 28}, r"masking.max_inputs 28: the longest clip can have 27"),
        ({"min_inputs": 15, "min_targets": 15}, "min_inputs 15 and min_targets 15: the shortest"),
        ({"target_limits": {"rgb": (0, 5)}}, "target_limits.rgb 0 5: a clip holds at most 4"),
        ({"input_alphas": {"sond": 1.0}}, "input_alphas.sond: no such modality; .*sound"),
    ],
)
def test_budgets_that_the_modalities_cannot_meet_are_refused(tmp_path, masking, sentence):
    config = small_config().model_copy(update={"masking": MaskingConfig(group_size=8, **masking)})
    with pytest.raises(UserError, match=sentence):
        train_model(config, tiny_table(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    world = DistributedContext(torch.device("cpu"), rank=1, size=3)
    with pytest.raises(UserError, match=r"batch-size 16 is 2 groups .*multiple of 24"):
        Trainer(small_config(), tiny_table(), tmp_path, world)


def test_an_id_outside_its_vocabulary_is_refused_when_the_table_is_opened(tmp_path):
    table = tiny_table()
    write_table(table, tmp_path)
    assert isinstance(open_table(tmp_path), TokenTable)
    ids = dict(table.ids)
    ids["depth"] = ids["depth"].copy()
    ids["depth"][9, 1, 2] = 7  # planted behind the table's own check, as by a damaged file
    object.__setattr__(table, "ids", ids)
    write_table(table, tmp_path)
    sentence = "depth of clip 'clip009' has id 7, its vocabulary ends at 6; .*nano4m table"
    with pytest.raises(UserError, match=sentence):
        open_table(tmp_path)


def test_a_warm_up_longer_than_the_run_is_no_mistake(tmp_path):
    config: Config = small_config(steps=2, warmup=30)
    train_model(config, tiny_table(), tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["lr"] for line in lines] == pytest.approx([1e-4, 2e-4])
    assert DROPOUT == 5  # streams are numbers that runs of earlier versions have used
