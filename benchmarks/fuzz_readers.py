"""Read many damaged files of every format; prints JSON: outcomes, seconds, what went wrong.

python benchmarks/fuzz_readers.py [--count 20000] [--seed 1] [--format NAME ...]

Each format is read in a process of its own, so a crash of a decoder is a result, too.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from damaged_media import fuzz, valid_files


def _one(name: str, count: int, seed: int, found: Any) -> None:
    data, reader = valid_files()[name]
    with tempfile.TemporaryDirectory() as folder:
        outcomes, wrong = fuzz(data, reader, count, seed, Path(folder) / f"a.{name}")
    found.put({"outcomes": dict(outcomes.most_common()), "wrong": wrong[:20]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--format", nargs="*", default=[])
    given = parser.parse_args()
    results = {}
    for name in given.format or valid_files():
        begun, found = time.perf_counter(), multiprocessing.SimpleQueue()
        worker = multiprocessing.Process(target=_one, args=(name, given.count, given.seed, found))
        worker.start()
        worker.join()
        row = {"wrong": [[-1, f"exit code {worker.exitcode}"]]} if found.empty() else found.get()
        results[name] = row | {"seconds": round(time.perf_counter() - begun, 1)}
    print(json.dumps({"count": given.count, "seed": given.seed, "formats": results}, indent=1))


if __name__ == "__main__":
    main()
