"""Each benchmark runs at a tiny size and prints the fields that docs/PERFORMANCE.md names."""

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

RUNS = {
    "train_step": "--batch 4 --group 4 --steps 2",
    "data_loading": "--clips 32 --batch 16 --batches 2 --baseline-batches 1",
    "generation": "--batch 2 --sizes 1 2 --baseline-samples 1 --steps 2",
    "memory": "--batch 2 --steps 1 --variants baseline bf16",
    "processes": "--batch 4 --group 2 --steps 1",
}


@pytest.fixture
def settings():
    """Put back what a benchmark sets for the whole process."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def run(name: str, monkeypatch, capsys, *words: str) -> tuple[dict[str, Any], str]:
    """Run a benchmark in this process; return its JSON object and its table."""
    path = BENCHMARKS / f"{name}.py"
    arguments = [*RUNS[name].split(), "--quick", "--threads", "1", "--repeats", "1", *words]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    importlib.import_module(name).main()
    out = capsys.readouterr()
    return json.loads(out.out), out.err


def require_spread(value: dict[str, float]) -> None:
    """Check minimum, median and maximum."""
    assert value.keys() == {"min", "median", "max"}
    assert 0 < value["min"] <= value["median"] <= value["max"] < math.inf


def check_train_step(report: dict[str, Any]) -> None:
    assert list(report["engines"]) == [
        "baseline",
        "baseline, onednn",
        "exact",
        "bf16",
        "bf16, own captions",
        "bf16, muon",
    ]
    for engine in report["engines"].values():
        for key in ("tokens_per_second", "times_baseline", "times_baseline_onednn", "mfu"):
            require_spread(engine[key])
        assert sum(engine["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert engine["tokens_of_a_round"] > 0
    assert report["same_loss"]["difference"] < 1e-5
    assert report["same_loss"]["largest_difference_of_a_modality"] < 1e-5
    assert report["same_loss"]["ours"] > 5


def check_data_loading(report: dict[str, Any]) -> None:
    for loader in report["loaders"].values():
        require_spread(loader["samples_per_second"])
        require_spread(loader["times_baseline"])
    assert len(report["loaders"]) == 3


def check_generation(report: dict[str, Any]) -> None:
    assert list(report["tasks"]) == ["caption to sound", "rgb to depth"]
    for task in report["tasks"].values():
        assert list(task) == ["baseline", "fp32", "bf16"]
        for engine in task.values():
            require_spread(engine["samples_per_second"])
    for found in report["by_batch_size"].values():
        assert list(found["batch"]) == ["1", "2"]
        assert found["batch"]["2"].keys() == {"seconds", "megabytes"}


def check_memory(report: dict[str, Any]) -> None:
    assert list(report["variants"]) == ["baseline", "bf16"]
    for variant in report["variants"].values():
        require_spread(variant["gigabytes"])
        require_spread(variant["of_baseline"])


def check_processes(report: dict[str, Any]) -> None:
    for seen in report["seconds"].values():
        require_spread(seen)
    require_spread(report["times_as_fast"])
    assert report["free_cores"].keys() == {"at_the_start", "enough"}


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_prints_its_fields(name, monkeypatch, capsys, settings):
    report, table = run(name, monkeypatch, capsys)
    assert report["benchmark"] == name
    assert name in report["command"] and "--quick" in report["command"]
    assert report["options"]["threads"] == report["threads"] == 1
    assert report["clock"] == "wall"
    assert report["torch"] == torch.__version__
    assert report["machine"].keys() == {"cpu", "cores", "system", "python"}
    assert all(len(report["load_average"][when]) == 3 for when in ("before", "after"))
    assert report["commit"]
    globals()[f"check_{name}"](report)
    assert "load average" in table and len(table.splitlines()) >= 3


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_has_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(name).main()
    assert stop.value.code == 0
    assert "--repeats" in capsys.readouterr().out


def test_the_steps_of_a_round_cover_the_range_of_totals():
    from engines import strata

    from nano4m.config.presets import REFERENCE

    for steps in (1, 2, 3, 4, 5):
        parts = strata(REFERENCE.masking, steps)
        for low, high in (("min_inputs", "max_inputs"), ("min_targets", "max_targets")):
            ranges = sorted((getattr(p, low), getattr(p, high)) for p in parts)
            drawn = [n for a, b in ranges for n in range(a, b + 1)]
            assert drawn == list(range(16, 257)), (steps, low)


def test_a_loss_that_differs_is_told(monkeypatch):
    """The comparison of losses sees a model that leaves the bias of the context out."""
    import train_step
    from engines import EXACT_MODEL, BaselineEngine, Clips, OurEngine, quick
    from measure import reference_modalities
    from reference_baseline import Sizes

    from nano4m.training.accounting import Operations

    modalities = reference_modalities(4)
    clips = Clips(modalities=modalities, rows=2, seed=0, totals=(4, 12))
    ours = OurEngine(clips.ours(2, 1), modalities, quick(EXACT_MODEL), torch.float32)
    longest = max(m.length for m in modalities)
    sizes = Sizes(longest=longest, dim=32, head=8, depth=(1, 1))
    theirs = BaselineEngine(clips, sizes, Operations.of(ours.model), 1)
    theirs.model.dec_context_proj.bias.data.normal_(generator=torch.Generator().manual_seed(1))
    assert train_step.same_loss(theirs, ours)["difference"] < 1e-5
    take = ours.take
    monkeypatch.setattr(ours, "take", lambda w: (take(w), ours.model.context.bias.data.zero_()))
    assert train_step.same_loss(theirs, ours)["difference"] > 1e-5
