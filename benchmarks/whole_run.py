"""Seconds of ``nano4m run`` from nothing to the report, by stage, on one device.

python benchmarks/whole_run.py --device cuda --preset farm
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Report, arguments

TINY = (
    "--dataset.train 44 --dataset.val 22 --dataset.test 22 --train.steps 4 --train.batch-size 16 "
    "--train.val-samples 16 --evaluate.classifier-steps 4 --evaluate.clips 11 "
    "--tokenizers.rgb.steps 4 --tokenizers.depth.steps 4 --tokenizers.normals.steps 4 "
    "--tokenizers.sound.steps 4 --broken-tokenizers accept"
)


def run(preset: str, device: str, more: list[str], folder: Path) -> dict:
    """Run a preset in a process of its own; return seconds and figures."""
    command = [sys.executable, "-m", "nano4m", "run", preset, "--out", str(folder)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--device", device, *more], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    results = json.loads((folder / "results.json").read_text())
    stages = {
        path.parent.name: json.loads(path.read_text())["seconds"]
        for path in folder.glob("*/manifest.json")
    }
    return {
        "seconds": round(seconds, 1),
        "stages": stages,
        "fit_seconds": {n: q.get("fit_seconds") for n, q in results["tokenizers"].items()},
        "training": {k: v for k, v in results["training"].items() if k != "val"},
        "val": results["training"]["val"],
        "class_consistency": {
            f"{d['source']} -> {d['target']}": d["class_consistency"]["value"]
            for d in results["matrix"]
            if d["class_consistency"]
        },
        "round_trip": {
            d["target"]: d["class_consistency"]["round_trip"]
            for d in results["matrix"]
            if d["class_consistency"]
        },
    }


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--preset", default="farm", help="(%(default)s)")
    parser.add_argument("--keep", type=Path, help="folder of the last run; none: forgotten")
    options, more = parser.parse_known_args()
    report = Report("whole_run", options)
    more += TINY.split() if options.quick else []
    found = []
    for number in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            folder = options.keep or Path(scratch) / str(number)
            found.append(run(options.preset, options.device, more, folder))
    rows = [("run", "seconds")]
    rows += [(str(i), f"{r['seconds']:.0f}") for i, r in enumerate(found)]
    options.keep = str(options.keep)
    report.finish(rows, runs=found)


if __name__ == "__main__":
    main()
