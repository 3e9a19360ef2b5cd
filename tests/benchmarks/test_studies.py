"""The studies behind the tables of docs/: each runs on a tiny run and says all that it should."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import BENCHMARKS, settings  # noqa: F401

from nano4m.cli import main
from tiny_run import TINY

NAMES = ["rgb", "depth", "normals", "sound", "caption"]
OTHERS = {(a, b) for a in NAMES for b in NAMES if a != b}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A whole run from nothing."""
    out = tmp_path_factory.mktemp("studied") / "run"
    main(["run", "farm", "--out", str(out), *TINY])
    return out


def study(name: str, monkeypatch, capsys, *words: object) -> list[list[str]]:
    """Run a study as its script does; return the cells of the rows that it prints."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    importlib.import_module(name).main()
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]


def written(path: Path) -> dict:
    """Read the figures of a study, which say where they were made."""
    found = json.loads(path.read_text())
    assert {"commit", "machine", "versions"} <= found["provenance"].keys()
    return found


@pytest.mark.usefixtures("settings")
def test_conditions_by_seed(run, tmp_path, monkeypatch, capsys):
    models = [run / "train", run / "train"]
    words = ("--run", run, "--split", "test", "--out", tmp_path, "--models", *models)
    rows = study("conditions", monkeypatch, capsys, *words)
    assert [row[:2] for row in rows if row[0] in NAMES] == [
        *([name, seed] for seed in "01" for name in NAMES),
        ["sound", "0"], ["sound", "1"],
    ]  # fmt: skip
    for both, continued in written(tmp_path / "conditions.json")["figures"]:
        assert {(source, t["target"]) for t in both for source in t["gain_over"]} == OTHERS
        assert [c["modality"] for c in continued] == ["sound"]
    # The model is the run's own: what its evaluation says is said again.
    (first, _), _ = written(tmp_path / "conditions.json")["figures"]
    assert first == json.loads((run / "results.json").read_text())["all_sources"]


def test_variants_are_trained_judged_and_kept(run, tmp_path, monkeypatch, capsys):
    words = ("--run", run, "--set", "masking", "--only", "ours;reference", "--steps", 2)
    words += ("--seeds", 2, "--split", "test", "--workers", 1, "--out", tmp_path)
    rows = study("variants", monkeypatch, capsys, *words)
    starts = [i for i, row in enumerate(rows) if row[0] in ("variant", "less ours")]
    tables = [rows[a + 2 : b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert [[row[0] for row in table] for table in tables] == [
        ["ours", "reference"], ["reference"],
        ["ours", "reference", "ours, unguided"], ["reference", "ours, unguided"],
    ]  # fmt: skip
    assert all("nan" not in cell for table in tables for row in table for cell in row)
    figures = written(tmp_path / "variants.json")["figures"]
    for seeds in figures.values():
        assert [len(own["class_consistency"]) for own in seeds.values()] == [len(OTHERS)] * 2
        assert seeds["0"]["training"]["steps"] == 2 and seeds["0"] != seeds["1"]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("figures.json")}
    assert study("variants", monkeypatch, capsys, *words) == rows
    assert times == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("figures.json")}


@pytest.mark.usefixtures("settings")
def test_differences_are_paired_by_seed():
    """A variant that is one point better with every seed is better, however much the seeds do."""
    paired_difference = importlib.import_module("study").paired_difference
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.8, 5)
    assert paired_difference(base + 0.01, base) == "+1.0 [+1.0, +1.0]"
    assert paired_difference(base[:1] + 0.01, base[:1]) == "+1.0"
    noise = rng.normal(0.01, 0.02, (2000, 5))
    held = 0
    for own in noise:
        low, high = paired_difference(base + own, base, 3).split("[")[1].strip("]").split(",")
        held += float(low) <= 1.0 <= float(high)
    assert 0.93 < held / 2000 < 0.97


def test_sampling_compares_one_factor_at_a_time(run, tmp_path, monkeypatch, capsys):
    words = ("--run", run, "--split", "test", "--clips", 22, "--seeds", 2, "--factors", "guidance")
    words += ("--directions", "sound->rgb;caption->rgb", "--workers", 1, "--out", tmp_path)
    rows = study("sampling", monkeypatch, capsys, *words)
    assert [row[1] for row in rows[2:]] == [f"guidance {g}" for g in (1.0, 1.5, 2.0, 3.0, 5.0)]
    assert rows[0][2:4] == ["sound -> rgb", "caption -> rgb"]
    assert len(written(tmp_path / "sampling.json")["figures"]) == 5
    assert (tmp_path / "sampling.png").stat().st_size > 10_000


def test_the_tables_of_a_run_have_all_its_figures(run, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    importlib.import_module("results_table").main(run)
    text = capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    for probe in results["probes"]:
        value = probe["score"]
        assert f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, " in text
        assert probe["task"] != "classification" or f"| {probe['name']} | " in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    pairs = {(p["source"], p["target"]) for p in results["probes"] if p["task"] == "retrieval"}
    for source, target in pairs:
        (row,) = [line for line in rows if line.startswith(f"| {source} -> {target} | ")]
        assert "chance" in row and "class known" in row
    for entry in results["all_sources"]:
        for less in entry["gain_over"].values():
            assert f"{100 * less['value']:+.1f} [{100 * less['low']:+.1f}, " in text
    (sound,) = [c for c in results["continuation"] if c["modality"] == "sound"]
    assert f"| {sound['at_once']:.3f} | {sound['uniform']:.3f} |" in text
