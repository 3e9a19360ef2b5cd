"""What each process of torchrun does in test_processes.py: several runs one after the other.

``torchrun ... process_driver.py engine FOLDER`` trains the scenarios below, ``... cli FOLDER ARGS``
calls the command line as a user's processes do. Each process tells what it saw in a JSON file.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from conftest import small_config, tiny_table
from nano4m.cli import main
from nano4m.compute.distributed import LARGE, open_training
from nano4m.compute.launch import rank_of_process
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.training.schedule import SaveClock
from nano4m.training.trainer import Trainer, train_model

# Four groups a step: two for each of two processes.
STEPS = {"dropout": 0.0, "batch_size": 32, "steps": 6, "save_every": 3, "val_every": 3, "lr": 1e-3}
SCENARIOS = {
    "ddp-adamw": {"strategy": "ddp", "optimizer": "adamw"},
    "ddp-muon": {"strategy": "ddp", "optimizer": "muon"},
    "fsdp-adamw": {"strategy": "fsdp", "optimizer": "adamw"},
    "fsdp-muon": {"strategy": "fsdp", "optimizer": "muon"},
    "ddp-bf16": {"strategy": "ddp", "optimizer": "adamw", "precision": "bf16"},
    "fsdp-bf16": {"strategy": "fsdp", "optimizer": "adamw", "precision": "bf16"},
    "fsdp-fp16": {"strategy": "fsdp", "optimizer": "adamw", "precision": "fp16"},
}
SAVED_BY_TIME = {"ddp-bf16": 4, "fsdp-bf16": 5}
"""Step after which the clock of the first process asks for a state; the others' ask always."""
STOPPED = {"ddp-muon": 4, "fsdp-adamw": 5, "fsdp-muon": 2}


def scenario(name: str, **train) -> Config:
    """Return the configuration of a scenario."""
    config = small_config(**STEPS | SCENARIOS[name])
    # Not validated: some learning rates are refused, and a training must survive them too.
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def run_engine(folder: Path) -> dict:
    """Train every scenario, some of them stopped and resumed; then what must be refused."""
    told: dict = {"refused": {}, "peers": {}}
    for name in SCENARIOS:
        here = folder / name
        here.mkdir(exist_ok=True)
        if name in STOPPED:
            with contextlib.suppress(KeyboardInterrupt):
                # One process alone is asked to stop; all of them do.
                train_model(
                    scenario(name),
                    tiny_table(96),
                    here,
                    stop=lambda step, at=STOPPED[name]: rank_of_process() == 1 and step == at,
                )
                told["refused"][name] = "was not stopped"
        with _clocks(SAVED_BY_TIME.get(name)):
            train_model(scenario(name), tiny_table(96), here)
    told["peers"], told["sums"] = _same_weights(folder), _sums()
    damaged = folder / "fsdp-adamw" / "step-000006" / ".metadata"
    if not rank_of_process():
        damaged.write_bytes(damaged.read_bytes()[:40])
    config = scenario("fsdp-adamw")
    world = open_training(config)
    world.barrier()
    told["fallen back to"] = Trainer(config, tiny_table(96), folder / "fsdp-adamw", world).first
    for title, name, where, change in (
        ("ddp on fsdp", "ddp-adamw", "fsdp-muon", {}),
        ("fsdp on ddp", "fsdp-adamw", "ddp-adamw", {}),
        ("three groups", "ddp-adamw", "fresh", {"batch_size": 24}),
        ("not finite", "fsdp-adamw", "fresh", {"lr": 1e30, "warmup": 0, "clip_norm": 1e30}),
    ):
        (folder / where).mkdir(exist_ok=True)
        try:
            train_model(scenario(name, **change), tiny_table(96), folder / where)
        except UserError as error:
            told["refused"][title] = str(error)
    return told


@contextlib.contextmanager
def _clocks(due: int | None) -> Iterator[None]:
    """Make a state due by time after step ``due`` in the first process, always in the others."""
    real, calls = SaveClock.is_due, itertools.count(1)
    is_due = property(lambda _: rank_of_process() > 0 or next(calls) == due)
    SaveClock.is_due = is_due  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        SaveClock.is_due = real  # type: ignore[method-assign]


def _sums() -> list[float]:
    """Return the largest errors of sums over processes: large, small and strided tensors."""
    world = open_training(scenario("ddp-adamw"))
    draws = [torch.Generator().manual_seed(rank) for rank in range(world.size)]
    shapes = [(2, LARGE), (7,), (LARGE // 8, 16), (3, 5)]
    parts = [[torch.randn(shape, generator=draw) for shape in shapes] for draw in draws]
    own = [t.clone() for t in parts[world.rank]]
    given = [own[0], own[1], own[2].T, own[3].T]
    world.all_reduce_sum(given)
    wanted = [sum(part[i] for part in parts) for i in range(len(shapes))]
    return [float((t - w).abs().max()) for t, w in zip(own, wanted, strict=True)]


def _same_weights(folder: Path) -> dict[str, float]:
    """Return the largest difference between the weights of two processes after ddp steps."""
    config = scenario("ddp-adamw")
    world = open_training(config)
    trainer = Trainer(config, tiny_table(96), folder / "nothing", world)
    for number, rows in enumerate(trainer.sampler.steps(0, 2)):
        trainer.step(number, rows)
    largest = {}
    for name, weight in trainer.model.named_parameters():
        total = [weight.detach().clone()]
        world.all_reduce_sum(total)
        largest[name] = float((total[0] - 2 * weight).abs().max())
    return largest


def run_cli(folder: Path, arguments: list[str]) -> list[dict]:
    """Stop a training by a signal to one process, go on, and ask again when it is finished."""
    told = []
    step = Trainer.step

    def interrupted(self, number, picked, packed=None):
        if number == 2 and rank_of_process() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, picked, packed)

    for command, planted in (
        ("train", interrupted),
        ("train", step),
        ("train", step),
        ("run", step),
        ("evaluate", step),
    ):
        Trainer.step = planted  # type: ignore[method-assign]
        started, code, said = time.perf_counter(), 0, folder / f"said-{rank_of_process()}"
        with said.open("w") as file, contextlib.redirect_stderr(file):
            try:
                main([command, *arguments])
            except SystemExit as stop:
                code = int(stop.code or 0)
        seconds = time.perf_counter() - started
        told.append({"code": code, "seconds": seconds, "said": said.read_text()})
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[2])
    result = run_engine(target) if sys.argv[1] == "engine" else run_cli(target, sys.argv[3:])
    (target / f"told-{rank_of_process()}.json").write_text(json.dumps(result))
