"""Two processes of torchrun train what one does, stop and go on together, and never hang."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import tiny_table
from nano4m.checkpoints.folder import load_batches, load_model
from nano4m.cli import main
from nano4m.compute.distributed import DistributedContext
from nano4m.config.presets import FARM
from nano4m.errors import UserError
from nano4m.pipeline.run import run_one_stage, run_pipeline
from nano4m.pipeline.stages import Run
from nano4m.training import lanes
from nano4m.training.loss import token_cross_entropy
from nano4m.training.trainer import Trainer, train_model
from process_driver import SAVED_BY_TIME, SCENARIOS, STOPPED, scenario
from tiny_run import TINY

pytest.importorskip("lightning_fabric", reason="several processes need Lightning Fabric")
CPU = DistributedContext(torch.device("cpu"))
HERE = Path(__file__).resolve().parents[1]


def _torchrun(*arguments) -> list:
    """Run the driver in two processes; a hang is a failure. Return what each one told."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    paths = [str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "2", str(HERE / "process_driver.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((arguments[1] / f"told-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Return the folder of the driver's runs and what its processes told."""
    folder = tmp_path_factory.mktemp("engine")
    return folder, _torchrun("engine", folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the folder of the same runs in one process, in one lane as each of several has."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "count_lanes", lambda: 1)
        for name in ("ddp-adamw", "ddp-muon", "ddp-bf16"):
            (folder / name).mkdir()
            train_model(scenario(name), tiny_table(96), folder / name)
    return folder


def _log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_what_one_does(engine, alone, name):
    kind = name.split("-")[1]
    same = alone / f"ddp-{kind if kind in ('muon', 'bf16') else 'adamw'}"
    # Half precision rounds other sums when weights are gathered, and fp16 is held against fp32.
    tolerance = 1e-5 if kind in ("adamw", "muon") else 3e-3
    mine, theirs = _log(engine[0] / name), _log(same)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for line, other in zip(mine, theirs, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=tolerance)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=10 * tolerance)
        assert line.get("val", {}) == pytest.approx(other.get("val", {}), rel=tolerance)
    weights, wanted = _weights(engine[0] / name), _weights(same)
    assert weights.keys() == wanted.keys()
    # Muon multiplies in bf16, and blows up directions in which the gradient is next to nothing:
    # products of shards round otherwise, so what can be asked is that both went the same way.
    begun = Trainer(scenario("ddp-adamw"), tiny_table(96), alone / "nothing", CPU)
    start = begun.model.state_dict()
    moved = _norm({k: w - start[k] for k, w in wanted.items()})
    apart = _norm({k: w - wanted[k] for k, w in weights.items()})
    assert apart < (0.1 if kind != "adamw" else 1e-4) * moved
    largest = max(float((w - wanted[k]).abs().max()) for k, w in weights.items())
    assert largest < {"ddp-adamw": 1e-5, "fsdp-adamw": 1e-5, "ddp-muon": 1e-4}.get(name, 1.0)


def _norm(tensors):
    return float(sum(t.square().sum() for t in tensors.values())) ** 0.5


def test_the_processes_hold_the_same_bits(engine):
    assert engine[1][0]["peers"] and not any(engine[1][0]["peers"].values())


def test_tensors_of_any_size_and_layout_are_added_up(engine):
    for told in engine[1]:
        assert told["sums"] == [0.0] * 4


def test_they_stop_and_go_on_together(engine):
    assert not {*STOPPED} & {*engine[1][0]["refused"]}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_clock_of_the_first_process_alone_saves_by_time(engine, name):
    by_time = {SAVED_BY_TIME[name]} if name in SAVED_BY_TIME else set()
    wanted = sorted({3, 6} | by_time | {STOPPED.get(name, 3)})[-2:]
    found = sorted(int(p.name[5:]) for p in (engine[0] / name).glob("step-*"))
    assert found == wanted


def test_a_sharded_run_falls_back_to_an_earlier_state(engine):
    assert [told["fallen back to"] for told in engine[1]] == [5, 5]


def test_a_checkpoint_of_shards_is_a_checkpoint(engine):
    model, token_spec = load_model(engine[0] / "fsdp-adamw" / "checkpoint")
    token_spec.require_same(tiny_table().token_spec, "checkpoint", "table")
    assert {w.dtype for w in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    "title, sentence",
    [
        ("ddp on fsdp", "is of a run with --train.strategy fsdp; go on with that"),
        ("fsdp on ddp", "is of a run with --train.strategy ddp; go on with that"),
        (
            "three groups",
            "2 processes cannot share evenly; give a batch size that is a multiple of 16",
        ),
        ("not finite", "the loss is not finite at step"),
    ],
)
def test_what_processes_cannot_do_is_refused_in_all_of_them(engine, title, sentence):
    for told in engine[1]:
        assert sentence in told["refused"][title]


def test_the_reproducer_of_a_sharded_run_is_whole(engine):
    (folder,) = (engine[0] / "fresh").glob("nonfinite-*")
    model, _ = load_model(folder)
    sums = [token_cross_entropy(model, model(b), b) for b in load_batches(folder)]
    assert not torch.isfinite(torch.stack(sums)).all()


# -- the command line --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Return the folder of a run and what each process told of each command on it."""
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["farm", "--out", str(out), *TINY, "--device", "cpu"]
    for stage in ("clips", "tokenizers", "table"):
        main([stage, *arguments])
    shutil.copytree(out, out.with_name("alone"))
    return out, _torchrun("cli", out.parent, *arguments)


def test_a_signal_to_one_process_stops_all_and_the_next_call_goes_on(commands):
    out, told = commands
    assert [t[0]["code"] for t in told] == [130, 130]
    assert "goes on after step 3" in told[0][1]["said"] and told[0][1]["code"] == 0
    assert [line["step"] for line in _log(out / "train")] == list(range(1, 7))
    manifest = json.loads((out / "train" / "manifest.json").read_text())
    assert manifest["summary"]["processes"] == 2 and manifest["summary"]["steps"] == 6
    assert not (out.parent / "run" / "train" / "part-000006").exists()


def test_a_finished_run_is_up_to_date_in_all_processes_at_once(commands):
    told = [t[2] for t in commands[1]]
    assert [t["code"] for t in told] == [0, 0] and max(t["seconds"] for t in told) < 5
    assert "train: up to date" in told[0]["said"]


@pytest.mark.parametrize("index, command", [(3, "run"), (4, "evaluate")])
def test_only_train_takes_several_processes(commands, index, command):
    for told in commands[1]:
        assert told[index]["code"] == 2
        assert "torchrun starts 2 processes" in told[index]["said"]
        assert "only train shares its work; run: nano4m" in " ".join(told[index]["said"].split())


def test_sharding_without_torchrun_says_how_to_start_it(tmp_path):
    with pytest.raises(UserError, match="torchrun --nproc-per-node N -m nano4m train"):
        train_model(scenario("fsdp-adamw"), tiny_table(96), tmp_path)


@pytest.mark.parametrize(
    "call", [lambda run: run_pipeline(run), lambda run: run_one_stage(run, "report")]
)
def test_a_refusal_touches_nothing(tmp_path, monkeypatch, call):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="torchrun starts 4 processes"):
        call(Run(FARM, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
