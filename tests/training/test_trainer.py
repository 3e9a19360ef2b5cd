"""Training: learns, repeats, resumes to the same bits, refuses what cannot work."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import small_config, tiny_table
from nano4m.checkpoints.folder import load_model, save_model
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.training.state import newest_state, save_state
from nano4m.training.trainer import train_model

SMALL = small_config()


def _with(**train) -> Config:
    return SMALL.model_copy(update={"train": SMALL.train.model_copy(update=train)})


def _weights(folder):
    return load_file(folder / "checkpoint" / "model.safetensors")


def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        config = SMALL.model_copy(update={"seed": seed})
        train_model(config, tiny_table(), tmp_path / name)
    a, b, c = (_weights(tmp_path / n) for n in "abc")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize("stop_at", [3, 8])
def test_stop_and_resume_equals_no_stop_bit_for_bit(tmp_path, stop_at):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    train_model(SMALL, tiny_table(), whole)
    with pytest.raises(KeyboardInterrupt):
        train_model(SMALL, tiny_table(), stopped, stop=lambda step: step == stop_at)
    assert not (stopped / "checkpoint").exists()
    train_model(SMALL, tiny_table(), stopped)
    a, b = _weights(whole), _weights(stopped)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    final = [newest_state(f)[1] for f in (whole, stopped)]
    assert all(torch.equal(final[0][k], final[1][k]) for k in final[0])
    texts = [(f / "log.jsonl").read_text() for f in (whole, stopped)]
    logs = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [line["step"] for line in logs[1]] == [line["step"] for line in logs[0]]
    assert logs[0][-1]["val"] == logs[1][-1]["val"]


def test_it_learns_the_class_structure(tmp_path):
    config = _with(
        steps=300, val_samples=96, lr=5e-3, val_every=300, save_every=300, dropout=0.0, ema=0.9
    )
    summary = train_model(config, tiny_table(600, num_classes=2), tmp_path)
    sizes = {"rgb": 11, "depth": 7, "normals": 9, "sound": 16}
    for name, size in sizes.items():
        assert summary["val"][name] < 0.65 * np.log(size), name


def test_an_unfinished_save_is_never_used(tmp_path):
    save_state(tmp_path, 4, {"w": torch.ones(3)}, {"seconds": 1.0})
    save_state(tmp_path, 8, {"w": torch.full((3,), 2.0)}, {"seconds": 2.0})
    damaged = tmp_path / "step-000008" / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:20])
    (tmp_path / "part-000012").mkdir()
    step, tensors, progress_state = newest_state(tmp_path)
    assert step == 4 and tensors["w"].tolist() == [1, 1, 1] and progress_state["seconds"] == 1.0


def test_a_run_stopped_before_its_checkpoint_ends_the_same(tmp_path):
    first = train_model(SMALL, tiny_table(), tmp_path)
    weights = _weights(tmp_path)
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 12, "lo')
    again = train_model(SMALL, tiny_table(), tmp_path)
    assert again["val"] == first["val"]
    assert all(torch.equal(v, weights[k]) for k, v in _weights(tmp_path).items())
    assert [json.loads(s)["step"] for s in log.read_text().splitlines()][-1] == 12


def test_a_loss_that_is_not_finite_names_step_and_clips(tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+.*clips: clip"):
        train_model(_with(lr=1e30, warmup=0, steps=50, clip_norm=1e30), tiny_table(), tmp_path)


def test_no_validation_clips_is_refused(tmp_path):
    table = tiny_table()
    table.splits[:] = "train"
    with pytest.raises(UserError, match="48 and 0"):
        train_model(SMALL, table, tmp_path)


def test_checkpoints_round_trip_and_refuse_other_architectures(tmp_path):
    table = tiny_table()
    train_model(_with(steps=2), table, tmp_path)
    folder = tmp_path / "checkpoint"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "modalities.json",
        "model.safetensors",
    ]
    model, token_spec = load_model(folder)
    token_spec.require_same(table.token_spec, "checkpoint", "table")
    save_model(model, token_spec, tmp_path / "again")
    assert all(
        torch.equal(v, load_file(tmp_path / "again" / "model.safetensors")[k])
        for k, v in model.state_dict().items()
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"encoder_depth": 2}))
    with pytest.raises(UserError, match="another architecture: 6 tensors differ"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="damaged"):
        load_model(folder)
    with pytest.raises(UserError, match="nano4m train"):
        load_model(tmp_path / "nowhere")
