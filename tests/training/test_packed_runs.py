"""Whole runs by packed steps: they end where the others end, and go on from where they stopped."""

import pytest
import torch
from packed_steps import plant_infinity

from conftest import small_config, tiny_table
from nano4m.errors import UserError
from nano4m.training.device_step import DeviceStep
from nano4m.training.trainer import train_model


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "model.safetensors")


@pytest.mark.parametrize("packed", ["on", "off"])
def test_a_run_without_an_average_saves_and_resumes_to_the_bit(tmp_path, packed):
    config = small_config(ema=0.0, packed=packed, steps=6, save_every=2)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tiny_table(), tmp_path / "stopped", stop=lambda done: done == 3)
    for name in ("straight", "stopped"):
        train_model(config, tiny_table(), tmp_path / name)
    straight, stopped = (weights_of(tmp_path / n) for n in ("straight", "stopped"))
    assert all(torch.equal(w, stopped[n]) for n, w in straight.items())


def test_validation_that_is_no_multiple_of_a_step_is_whole(tmp_path):
    told = {}
    for packed in ("on", "off"):
        (tmp_path / packed).mkdir()
        config = small_config(
            packed=packed, batch_size=32, val_samples=20, quantum=64, steps=2, dropout=0.0
        )
        told[packed] = train_model(config, tiny_table(), tmp_path / packed)["val"]
    assert told["on"] == pytest.approx(told["off"], rel=1e-3)


def test_a_run_refuses_the_step_that_is_not_finite_by_its_number(tmp_path, monkeypatch):
    planted, init = [], DeviceStep.__init__

    def begin(self, *args, **kwargs):
        init(self, *args, **kwargs)
        plant_infinity(self, 7)
        planted.append(self)

    monkeypatch.setattr(DeviceStep, "__init__", begin)
    config = small_config(packed="on", steps=40, save_every=100)
    with pytest.raises(UserError, match=r"not finite at step 7 .*nonfinite-7"):
        train_model(config, tiny_table(), tmp_path)
    assert planted and (tmp_path / "nonfinite-7").is_dir()


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
    packed, plain, stopped = (weights_of(tmp_path / n) for n in ("on", "off", "stopped"))
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
