"""Random faults of a tiny run: what becomes of it, as JSON and as a Markdown table.

python benchmarks/faults.py --out DIR --faults 200 --seed 0

Each fault is tried on a copy of one finished run, or of a part of it; afterwards the same command
must end with the same bits, or say what to run. Takes about 20 minutes on one core.
"""

import argparse
import json
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from fault_trials.damage import WAYS
from fault_trials.scene import Scene, describe, make_scene, trial_process
from fault_trials.trials import every_damage, one_damage, random_trial
from fault_trials.verdict import BAD, GOOD, Verdict
from nano4m.stage import provenance


def tried(
    pool: ProcessPoolExecutor, scene: Scene, faults: range, seed: int, every_file: bool
) -> Iterator[Verdict]:
    """Yield the verdict of each fault, one after the other."""
    for number in faults:
        yield pool.submit(random_trial, scene, seed, number).result()
    if every_file:
        for name, way in every_damage(scene, random.Random(seed)):
            yield pool.submit(one_damage, scene, name, way).result()


def table(verdicts: list[Verdict]) -> str:
    """Return a row for each kind of fault: how many, and what became of the run."""
    columns = [*GOOD, *BAD]
    lines = [f"| fault | tried | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    kinds = sorted({v.kind for v in verdicts})
    for kind in [*kinds, "all"]:
        own = Counter(v.became for v in verdicts if kind in (v.kind, "all"))
        counts = " | ".join(str(own[name]) for name in columns)
        lines.append(f"| {kind} | {sum(own.values())} | {counts} |")
    return "\n".join(lines)


def main() -> None:
    """Make the run, try the faults, print the table; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder to work in")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--every-file",
        action="store_true",
        help=f"then every file of the finished run as well, {', '.join(WAYS)}, one at a time",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started, verdicts = time.perf_counter(), []
    with trial_process() as pool:
        folder = options.out.resolve() / "scene"
        folder.mkdir()
        scene = pool.submit(make_scene, folder).result()
        print(f"run: {describe(scene)}", file=sys.stderr)
        faults = range(options.first, options.first + options.faults)
        for verdict in tried(pool, scene, faults, options.seed, options.every_file):
            verdicts.append(verdict)
            number = len(verdicts) - 1 + options.first
            line = f"{number}: {verdict.kind} ({verdict.fault}): {verdict.became}"
            said = "" if verdict.is_good else f" {verdict.steps}\n{verdict.said}"
            print(line + said, file=sys.stderr, flush=True)
    about = {k: v for k, v in provenance().items() if k in ("commit", "machine", "python")}
    about["command"] = shlex.join(["python", "benchmarks/faults.py", *sys.argv[1:]])
    report = {"seconds": round(time.perf_counter() - started), "seed": options.seed} | about
    report["trials"] = [asdict(verdict) for verdict in verdicts]
    (options.out / "faults.json").write_text(json.dumps(report, indent=1))
    print(json.dumps({k: v for k, v in report.items() if k != "trials"}, indent=1))
    print(f"\n{table(verdicts)}")
    raise SystemExit(any(not verdict.is_good for verdict in verdicts))


if __name__ == "__main__":
    main()
