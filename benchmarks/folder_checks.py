"""What the lock of a run folder and the check of its finished stages cost a command.

python benchmarks/folder_checks.py --run runs/farm

Prints JSON: milliseconds, median and most of --repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from nano4m.stage import manifest_of, provenance
from nano4m.storage.inventory import check_inventory, take_inventory
from nano4m.storage.lock import owned


def timed(work: Callable[[], None], repeats: int) -> dict[str, float]:
    """Return the median and the longest time of ``work`` in milliseconds."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - started))
    return {"median_ms": round(statistics.median(found), 2), "most_ms": round(max(found), 2)}


def main() -> None:
    """Time both on a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    stages = sorted(p.parent for p in options.run.glob("*/manifest.json"))
    # Of all files, so that runs whose manifests list none can be timed.
    inventories = {stage: take_inventory(stage, lambda path: True) for stage in stages}

    def lock() -> None:
        with owned(options.run):
            pass

    def check() -> None:
        for stage, inventory in inventories.items():
            manifest_of(options.run, stage.name)
            check_inventory(stage, inventory)

    about = provenance()
    print(json.dumps({
        "lock": timed(lock, options.repeats), "check": timed(check, options.repeats),
        "commit": about["commit"], "machine": about["machine"],
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
