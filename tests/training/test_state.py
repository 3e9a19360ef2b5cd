"""Stopping and going on: the same bits and the same log, whatever stopped the run."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from conftest import small_config, tiny_table
from nano4m.training import state
from nano4m.training.state import newest_state, save_state
from nano4m.training.trainer import train_model

TIMING = {"tokens_per_second", "mfu", "memory_gb"}
# At 100 steps a line of the log is about two of them, so an odd step is in the middle of one.
LONG = {"steps": 100, "batch_size": 8, "val_every": 40, "val_samples": 8, "save_every": 32}


def _finished(folder):
    """Return what a run came to: its checkpoint, its last state, its log without times."""
    weights = load_file(folder / "checkpoint" / "model.safetensors")
    step, tensors, progress_state = newest_state(folder)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k not in TIMING} for line in lines]
    progress_state.pop("seconds")
    return (
        weights | {f"state.{k}": v for k, v in tensors.items()},
        {"step": step} | progress_state,
        log,
    )


def _assert_same(one, other):
    (tensors, progress_state, log), (wanted, wanted_note, wanted_log) = one, other
    assert tensors.keys() == wanted.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], wanted[name])]
    assert progress_state == wanted_note
    assert log == wanted_log


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stops_change_no_bit_and_no_line(tmp_path, precision, optimizer):
    config = small_config(**LONG, precision=precision, optimizer=optimizer)
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    train_model(config, tiny_table(), folders[0])
    for stop in (1, 37, 64, 99):
        with pytest.raises(KeyboardInterrupt):
            train_model(config, tiny_table(), folders[1], stop=lambda step, at=stop: step == at)
        assert newest_state(folders[1])[0] == stop
    train_model(config, tiny_table(), folders[1])
    whole, stopped = (_finished(folder) for folder in folders)
    assert len(whole[2]) == 50 and whole[2][-1]["val"]
    _assert_same(stopped, whole)


def test_a_planted_loss_of_the_running_sums_is_seen(tmp_path):
    def stopped(name, at):
        with pytest.raises(KeyboardInterrupt):
            train_model(small_config(**LONG), tiny_table(), tmp_path / name, lambda s: s == at)
        return json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])

    for name in ("whole", "planted"):
        (tmp_path / name).mkdir()
        stopped(name, 13)
    progress_state = tmp_path / "planted" / "step-000013" / "state.json"
    kept = json.loads(progress_state.read_text())
    assert sum(kept["counts"]) > 0
    progress_state.write_text(json.dumps(kept | {"sums": [0.0] * 5, "counts": [0.0] * 5}))
    whole, planted = (stopped(name, 14) for name in ("whole", "planted"))
    assert whole["step"] == planted["step"] == 14 and whole["loss"] != planted["loss"]


# -- killed ------------------------------------------------------------------------------------


def _die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def _while_writing(second):
    write_whole = state.write_tensors

    def write(path, tensors):
        write_whole(path, tensors)
        if path.parent.name == second:
            path.write_bytes(path.read_bytes()[:1000])
            _die()

    state.write_tensors = write


def _before_the_name(second):
    replace = os.replace

    def rename(source, target):
        if os.path.basename(source) == second:
            _die()
        replace(source, target)

    state.os.replace = rename


def _while_forgetting(second):
    remove = shutil.rmtree

    def forget(path, **more):
        if os.path.basename(path) == "step-000004" and path.exists():
            (path / "state.json").unlink()
            _die()
        remove(path, **more)

    state.shutil.rmtree = forget


@pytest.mark.parametrize(
    "plant, kept", [(_while_writing, 4), (_before_the_name, 4), (_while_forgetting, 12)]
)
def test_a_run_killed_while_it_saves_ends_the_same(tmp_path, plant, kept):
    config = small_config(optimizer="adamw")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train_model(config, tiny_table(), tmp_path / "whole")
    child = os.fork()
    if not child:  # a process of its own, because SIGKILL cannot be caught
        try:
            plant("part-000008")
            train_model(config, tiny_table(), tmp_path / "killed")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint").exists()
    assert newest_state(tmp_path / "killed")[0] == kept
    train_model(config, tiny_table(), tmp_path / "killed")
    _assert_same(*(_finished(tmp_path / name) for name in ("killed", "whole")))
    assert not list((tmp_path / "killed").glob("part-*"))


@pytest.mark.parametrize(
    "file, content",
    [("state.safetensors", None), ("state.json", b"{"), ("state.json", b"\xff\x00")],
)
def test_a_damaged_newest_state_falls_back_and_ends_the_same(tmp_path, capsys, file, content):
    config = small_config()
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
        train_model(config, tiny_table(), tmp_path / name)
    shutil.rmtree(tmp_path / "damaged" / "checkpoint")
    newest = tmp_path / "damaged" / "step-000012" / file
    newest.write_bytes(newest.read_bytes()[:-7] if content is None else content)
    train_model(config, tiny_table(), tmp_path / "damaged")
    told = capsys.readouterr().err
    assert "step-000012 cannot be read" in told and "goes on after step 8" in told
    _assert_same(*(_finished(tmp_path / name) for name in ("damaged", "whole")))


def test_a_run_without_a_readable_state_starts_again_and_forgets_the_damaged(tmp_path, capsys):
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
        train_model(small_config(), tiny_table(), tmp_path / name)
    shutil.rmtree(tmp_path / "damaged" / "checkpoint")
    for folder in (tmp_path / "damaged").glob("step-*"):
        (folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        train_model(small_config(), tiny_table(), tmp_path / "damaged", stop=lambda step: step == 6)
    assert "training starts again" in capsys.readouterr().err
    # Damaged states of later steps would otherwise push the new ones out.
    names = sorted(p.name for p in (tmp_path / "damaged").glob("step-*"))
    assert names == ["step-000004", "step-000006"]
    train_model(small_config(), tiny_table(), tmp_path / "damaged")
    _assert_same(*(_finished(tmp_path / name) for name in ("damaged", "whole")))


def test_steps_beyond_six_digits_are_numbers(tmp_path):
    kept = {}
    for step in (999_998, 999_999, 1_000_000, 10_000_000):
        save_state(tmp_path, step, {"w": torch.tensor([float(step)])}, {})
        assert newest_state(tmp_path)[0] == step
        kept[step] = {p.name for p in tmp_path.iterdir()}
    assert kept[1_000_000] == {"step-999999", "step-1000000"}
    assert kept[10_000_000] == {"step-1000000", "step-10000000"}
