"""Compare two checkouts of this project on short runs: weights, log, generated ids and figures.

python benchmarks/same_results.py BEFORE AFTER --preset farm digits --data digits=DIR --out FOLDER

Each checkout runs each preset for a few float32 steps in a process of one thread. What differs is
printed; the exit code is 1 if weights, losses or generated ids do. Options and figures that were
renamed since BEFORE are compared under their names of now.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.config.compatibility import RENAMED, with_new_names
from nano4m.evaluate.results_part import RENAMED as RENAMED_FIGURES

OPTIONS = (
    "--train.steps 6 --train.precision fp32 --train.val-every 3 --train.batch-size 32 "
    "--train.val-samples 32 --evaluate.classifier-steps 5 --evaluate.clips 12 --evaluate.workers 0 "
    "--tokenizers.rgb.steps 20 --tokenizers.sound.steps 20"
)
FARM = "--dataset.train 96 --dataset.val 22 --dataset.test 22"
MEASURED = ("seconds", "provenance", "tokens_per_second", "mfu", "peak_gflops", "memory_gb")
"""Figures that differ from run to run."""


def run(checkout: Path, preset: str, data: str | None, options: list[str], out: Path) -> None:
    """Run a preset with the code of a checkout; options are given by their names of now."""
    place = {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nano4m", "run", preset, "--out", str(out), *options]
    command += ["--data", data] if data else []
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True)
    if done.returncode:
        old = {f"--{new}".replace("_", "-"): f"--{old}".replace("_", "-")
               for old, new in RENAMED.items()}  # fmt: skip
        words = [old.get(w, w.replace("--dataset.", "--source.")) for w in command]
        done = subprocess.run(words, env=os.environ | place, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{checkout} {preset}: {done.stderr[-2000:]}")


def figures(out: Path) -> dict[str, Any]:
    """Return ``results.json`` with its names of now."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {RENAMED_FIGURES.get(k, k): renamed(v) for k, v in value.items()}
        return [renamed(v) for v in value] if isinstance(value, list) else value

    found = renamed(json.loads((out / "results.json").read_text()))
    return found | {"config": with_new_names(found["config"])}


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Yield the leaves in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}[{i}]")
    elif one != other and not any(name in place for name in MEASURED):
        yield f"{place}: {one!r} before, {other!r} after"


def compare(before: Path, after: Path) -> dict[str, Any]:
    """Return what is equal in two runs, and the figures that are not."""
    files = [out / "train" / "checkpoint" / "model.safetensors" for out in (before, after)]
    weights = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    keys = ("step", "loss", "val", "grad_norm")
    texts = [(out / "train" / "log.jsonl").read_text() for out in (before, after)]
    logs = [
        [{k: line.get(k) for k in keys} for line in map(json.loads, text.splitlines())]
        for text in texts
    ]
    made = [dict(np.load(out / "evaluate" / "generated.npz")) for out in (before, after)]
    same = made[0].keys() == made[1].keys()
    return {
        "weights": weights[0] == weights[1],
        "log": logs[0] == logs[1],
        "generated": same and all(np.array_equal(made[0][k], made[1][k]) for k in made[0]),
        "figures_that_differ": list(differences(figures(before), figures(after))),
    }


def main() -> None:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--preset", nargs="+", default=["farm"], help="(%(default)s)")
    parser.add_argument("--data", nargs="*", default=[], help="PRESET=FOLDER of its media")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--options", default=OPTIONS, help="of every run (%(default)s)")
    options = parser.parse_args()
    data = dict(entry.split("=", 1) for entry in options.data)
    found = {}
    for preset in options.preset:
        words = options.options.split() + (FARM.split() if preset.startswith("farm") else [])
        outs = [options.out / side / preset for side in ("before", "after")]
        for checkout, out in zip((options.before, options.after), outs, strict=True):
            run(checkout.resolve(), preset, data.get(preset), words, out.resolve())
        found[preset] = compare(*outs)
    print(json.dumps(found, indent=1))
    if not all(own["weights"] and own["log"] and own["generated"] for own in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
