"""Tokens a second of `nano4m train` alone, beside a busy process, and two side by side.

python benchmarks/contention.py --run runs/farm
python benchmarks/contention.py --run runs/farm --before runs/old-farm SOURCES

A training is a process of the command line, with the run's preset and on its token table. --before
names a run of an older version and the `src` folder of that version: both are then measured in turn
(A B A B ...), so that other load on the machine affects both. A share is that of the same version
alone; side by side each of two has its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Report, arguments, figures, shown

BUSY = "while True: sum(range(10**6))"
SHARED = ("clips", "tokenizers", "table")


class Version:
    """A version of the program and a run of it.

    Args:
        run: Folder with a token table.
        sources: Its ``src`` folder; None: the installed one.
        more: Options of its command line.
    """

    def __init__(self, run: Path, sources: Path | None, more: list[str]) -> None:
        self.run, self.sources, self.more = run, sources, more
        self.preset = json.loads((run / "config.json").read_text())["preset"]

    def start(self, folder: Path, steps: int) -> subprocess.Popen:
        """Start a training in ``folder``."""
        folder.mkdir(parents=True)
        for name in SHARED:
            os.symlink((self.run / name).resolve(), folder / name)
        environment = dict(os.environ)
        if self.sources is not None:
            environment["PYTHONPATH"] = str(self.sources)
        command = [
            sys.executable, "-m", "nano4m", "train", self.preset, "--out", str(folder),
            "--train.steps", str(steps), "--train.save_every", str(steps),
            "--train.val_every", str(steps), "--train.val_samples", "16",
            "--train.tracker", "none", *self.more,
        ]  # fmt: skip
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


def speed(folder: Path) -> float:
    """Return tokens a second over the second half of a training's log, without its start."""
    text = (folder / "train" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    late = [line["tokens_per_second"] for line in lines[len(lines) // 2 :]]
    return len(late) / sum(1 / value for value in late)


def measure(version: Version, steps: int, trainings: int, busy: int) -> list[float]:
    """Return tokens a second of each of some trainings at once, beside some busy processes."""
    with tempfile.TemporaryDirectory() as made:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            folders = [Path(made) / str(i) for i in range(trainings)]
            running = [version.start(folder, steps) for folder in folders]
            for process in running:
                output, _ = process.communicate()
                if process.returncode:
                    raise SystemExit(output.decode()[-3000:])
            return [speed(folder) for folder in folders]
        finally:
            for process in others:
                process.kill()
                process.wait()


def main() -> None:
    parser = arguments(__doc__, repeats=2)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run", required=True, help="a run with a token table")
    parser.add_argument("--before", nargs=2, metavar=("RUN", "SRC"))
    parser.add_argument("--steps", type=int, default=60, help="of each training (%(default)s)")
    parser.add_argument("--more", default="", help="further options of nano4m train")
    parser.add_argument("--more-before", default="", help="the same of --before")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 4, 1
    report = Report("contention", options)
    versions = {"now": Version(Path(options.run), None, options.more.split())}
    if options.before:
        versions["before"] = Version(*map(Path, options.before), options.more_before.split())
    cases = {"alone": (1, 0), "beside a busy process": (1, 1), "two side by side": (2, 0)}
    found: dict[str, dict[str, list[float]]] = {v: {c: [] for c in cases} for v in versions}
    for _ in range(options.repeats):
        for case, (trainings, busy) in cases.items():
            for name, version in versions.items():
                found[name][case] += measure(version, options.steps, trainings, busy)
    rows = [("tokens/s", *cases)]
    results = {}
    for name, by_case in found.items():
        alone = sum(by_case["alone"]) / len(by_case["alone"])
        results[name] = {
            case: {**figures(values), "of_alone": round(sum(values) / len(values) / alone, 3)}
            for case, values in by_case.items()
        }
        rows.append(
            (name, *(f"{shown(r, ',.0f')} {r['of_alone']:.0%}" for r in results[name].values()))
        )
    report.finish(rows, versions=results)


if __name__ == "__main__":
    main()
