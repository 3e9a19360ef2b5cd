"""The record of a run: JSON lines, TensorBoard's file, Weights & Biases, read back."""

import json
import sys
import time
from importlib import util

import pytest

from conftest import small_config, tiny_table
from nano4m.errors import UserError
from nano4m.training import tracking
from nano4m.training.tracking import Tracker, trim
from nano4m.training.trainer import train_model


def _curves(folder):
    """Read TensorBoard's file with its own reader: curve -> {step: value}."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def _lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _expected(folder):
    """Flatten the log independently of the tracker."""
    curves: dict[str, dict[int, float]] = {}
    for line in _lines(folder):
        for key, value in line.items():
            inner = value if isinstance(value, dict) else {None: value}
            for name, number in inner.items():
                if key != "step":
                    tag = key if name is None else f"{key}/{name}"
                    curves.setdefault(tag, {})[line["step"]] = number
    return curves


def test_tensorboard_holds_the_numbers_of_the_log_after_a_resume_too(tmp_path):
    config = small_config(tracker="tensorboard")
    with pytest.raises(KeyboardInterrupt):
        train_model(config, tiny_table(), tmp_path, stop=lambda step: step == 5)
    # TensorBoard orders the files of a folder by the second in which they were begun.
    time.sleep(1.1)
    train_model(config, tiny_table(), tmp_path)
    curves, expected = _curves(tmp_path), _expected(tmp_path)
    assert curves.keys() == expected.keys() and "val/sound" in curves and "lr" in curves
    for tag, points in expected.items():
        assert curves[tag] == pytest.approx(points, rel=1e-6), tag
    assert sorted(curves["lr"]) == list(range(1, 13))


def test_lines_behind_the_resumed_step_are_forgotten_everywhere(tmp_path):
    pytest.importorskip("tensorboard")
    with Tracker(tmp_path, "tensorboard", 0, {}) as log:
        for step in range(1, 9):
            log.write({"step": step, "lr": 1.0})
    # TensorBoard orders the files of a folder by the second in which they were begun.
    time.sleep(1.1)
    with Tracker(tmp_path, "tensorboard", 5, {}) as log:
        log.write({"step": 6, "lr": 2.0})
    assert [(line["step"], line["lr"]) for line in _lines(tmp_path)] == [
        *((step, 1.0) for step in range(1, 6)),
        (6, 2.0),
    ]
    assert _curves(tmp_path)["lr"] == {**dict.fromkeys(range(1, 6), 1.0), 6: 2.0}


@pytest.mark.parametrize("kind, there", [("none", True), ("auto", False)])
def test_without_a_tracker_there_is_the_log_alone(tmp_path, monkeypatch, kind, there):
    monkeypatch.setattr(tracking, "find_spec", lambda name: util.find_spec(name) if there else None)
    train_model(small_config(tracker=kind, steps=2), tiny_table(), tmp_path)
    assert len(_lines(tmp_path)) == 2 and not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("kind, extra", [("wandb", "wandb"), ("tensorboard", "scale")])
def test_a_tracker_that_is_not_installed_is_named_with_its_command(
    tmp_path, monkeypatch, kind, extra
):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    sentence = (
        rf"--train.tracker {kind}: it is not installed; run: pip install 'nano4m-audio\[{extra}"
    )
    with pytest.raises(UserError, match=sentence):
        train_model(small_config(tracker=kind), tiny_table(), tmp_path)


def test_a_resumed_run_goes_on_in_its_run_of_weights_and_biases(tmp_path, monkeypatch):
    class Recorder:
        """Stands in for the wandb package: what it was told."""

        runs: list = []

        @classmethod
        def init(cls, **settings):
            cls.runs.append((settings, []))
            return cls()

        def log(self, values, step):
            self.runs[-1][1].append((step, values))

        def finish(self):
            self.runs[-1][1].append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Recorder)
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    for start in (0, 1, 0):
        with Tracker(tmp_path, "wandb", start, {"seed": 0}) as log:
            log.write({"step": start + 1, "loss": {"sound": 2.0}, "grad_norm": float("inf")})
    settings, told = zip(*Recorder.runs, strict=True)
    assert told[1] == [(2, {"loss/sound": 2.0}), "finished"]
    assert settings[0]["id"] == settings[1]["id"] != settings[2]["id"]
    assert settings[0]["resume"] == "allow" and settings[0]["config"] == {"seed": 0}


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with Tracker(tmp_path, "none", 0, {}) as log:
        log.write(
            {"step": 1, "grad_norm": float("nan"), "loss": {"sound": float("inf"), "rgb": 1.0}}
        )
    (line,) = _lines(tmp_path)
    assert line == {"step": 1, "grad_norm": None, "loss": {"sound": None, "rgb": 1.0}}


def test_trimming_keeps_whole_lines_up_to_a_step(tmp_path):
    log = tmp_path / "log.jsonl"
    trim(log, 3)
    assert not log.exists()
    log.write_text('{"step": 2}\n{"step": 4}\n{"step": 3}\n{"ste')
    trim(log, 3)
    assert log.read_text() == '{"step": 2}\n{"step": 3}\n'
