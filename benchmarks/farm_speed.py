"""How fast the farm makes clips on one core: JSON with render and voice apart.

``rows`` are whole clips, cut and encoded as the stage clips has them. With ``--workers`` the stage
itself runs too, once, in so many processes: clips a second, and the memory of the parent, which
must not grow with the clips. Run with OMP_NUM_THREADS=1, or a threaded BLAS may use (and wait for)
other cores:

    OMP_NUM_THREADS=1 python benchmarks/farm_speed.py --clips 110 --picture-size 64 --repeats 5
    OMP_NUM_THREADS=1 python benchmarks/farm_speed.py --clips 8000 --picture-size 128 --workers 16
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FarmDataset
from nano4m.config.presets import FARM
from nano4m.data.build import build_clips, make_rows
from nano4m.data.sources import farm
from nano4m.data.sources.base import ClipPlan
from nano4m.data.sources.farm_render import render


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
    """Clips a second of this core over ``repeats`` passes: min, median and max.

    Of its time, not of the clock on the wall: other programs that take turns do not count.
    """
    seen = []
    for _ in range(repeats):
        start = time.process_time()
        for plan in plans:
            work(plan)
        seen.append(len(plans) / (time.process_time() - start))
    return {
        "min": round(min(seen), 1),
        "median": round(statistics.median(seen), 1),
        "max": round(max(seen), 1),
    }


def stage(settings: FarmDataset, workers: int) -> dict[str, Any]:
    """Make all clips of a farm in processes; what it took, in seconds and megabytes."""
    config = FARM.model_copy(update={"dataset": settings, "clips": cutting(settings, workers)})
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        count = build_clips(config, None, Path(folder))["clips"]
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "workers": workers,
        "clips": count,
        "seconds": round(seconds, 1),
        "clips_per_second": round(count / seconds, 1),
        "parent_cpu_seconds": round(time.process_time() - used, 1),
        "parent_peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "kilobytes_a_clip": round(size / count / 1000, 1),
    }


def cutting(settings: FarmDataset, workers: int = 0) -> ClipsConfig:
    """The section of the stage for clips of the farm's own size and length."""
    return ClipsConfig(
        window_seconds=settings.seconds, picture_size=settings.picture_size, workers=workers
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=110)
    parser.add_argument("--picture-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="of the stage; 0: it is left out")
    parser.add_argument("--quick", action="store_true", help="few clips, for a test")
    options = parser.parse_args()
    few = 3 if options.quick else 110
    settings = FarmDataset(
        train=options.clips, val=few, test=few, picture_size=options.picture_size
    )
    plans = list(farm.plan(settings, None, seed=0))[: min(options.clips, few)]
    farm.load(plans[0], settings)
    row = partial(make_rows, name="farm", settings=settings, clips=cutting(settings))
    size, seconds = settings.picture_size, settings.seconds
    report = {
        "clips_per_second": rates(lambda p: farm.load(p, settings), plans, options.repeats),
        "render_per_second": rates(
            lambda p: render(farm.draw_scene(p), size), plans, options.repeats
        ),
        "voice_per_second": rates(lambda p: farm.voice(p, seconds), plans, options.repeats),
        "rows_per_second": rates(row, plans, options.repeats),
        "clips": len(plans),
        "repeats": options.repeats,
        "picture_size": size,
        "seconds": seconds,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if options.workers:
        report["stage"] = stage(settings, options.workers)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
