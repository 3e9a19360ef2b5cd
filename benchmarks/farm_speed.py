"""How fast the farm makes clips on one core: JSON with render and voice apart.

Run with OMP_NUM_THREADS=1, or a threaded BLAS may use (and wait for) other cores:

    OMP_NUM_THREADS=1 python benchmarks/farm_speed.py --clips 110 --picture-size 64 --repeats 5
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nano4m.config import FarmSource
from nano4m.sources import farm
from nano4m.sources.base import ClipPlan
from nano4m.sources.farm_render import render


def cpu_name() -> str:
    """Model name of the processor, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def rates(
    work: Callable[[ClipPlan], object], plans: list[ClipPlan], repeats: int
) -> dict[str, float]:
    """Clips a second over ``repeats`` passes: min, median and max."""
    seen = []
    for _ in range(repeats):
        start = time.perf_counter()
        for plan in plans:
            work(plan)
        seen.append(len(plans) / (time.perf_counter() - start))
    return {
        "min": round(min(seen), 1),
        "median": round(statistics.median(seen), 1),
        "max": round(max(seen), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=110)
    parser.add_argument("--picture-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = FarmSource.model_validate(
        {"train": options.clips, "picture_size": options.picture_size}
    )
    plans = list(farm.plan(settings, None, seed=0))[: options.clips]
    farm.load(plans[0], settings)
    size, seconds = settings.picture_size, settings.seconds
    report = {
        "clips_per_second": rates(lambda p: farm.load(p, settings), plans, options.repeats),
        "render_per_second": rates(
            lambda p: render(farm.draw_scene(p), size), plans, options.repeats
        ),
        "voice_per_second": rates(lambda p: farm.voice(p, seconds), plans, options.repeats),
        "clips": options.clips,
        "repeats": options.repeats,
        "picture_size": size,
        "seconds": seconds,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
