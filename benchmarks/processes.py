"""Two processes that train together against one that does the same alone, a thread each.

A round is some steps of the same batch, d6-w512 with a table and a head a modality: alone in one
process, then shared by the processes that torchrun starts. Perfect is as many times as fast. Where
the machine is busy with other work the figure says little, and ``free_cores`` says so.

    python benchmarks/processes.py --repeats 3
"""

import json
import os
import subprocess
import sys
import time

import torch
from engines import DEFAULT_MODEL, RECIPE, Clips, OurEngine, quick
from measure import Report, arguments, figures, ratio, reference_modalities, shown

from nano4m.compute.distributed import open_distributed
from nano4m.compute.malloc import tune_malloc
from nano4m.compute.precision import float32_math


@float32_math()
def work(threads: int, batch: int, group: int, steps: int, tiny: bool) -> None:
    """Take steps as one process of some; the first one prints seconds and tokens as JSON."""
    torch.set_num_threads(threads)
    tune_malloc()
    world = open_distributed(RECIPE, "cpu")
    modalities = reference_modalities(4 if tiny else 1)
    totals = (4, 12) if tiny else (16, 256)
    clips = Clips(modalities=modalities, rows=batch, seed=0, totals=totals)
    config = quick(DEFAULT_MODEL) if tiny else DEFAULT_MODEL
    engine = OurEngine(clips.ours(group, steps), modalities, config, torch.bfloat16, "adamw", world)
    engine.steps()
    world.barrier()
    start = time.perf_counter()
    times = engine.steps()
    world.barrier()
    seconds = time.perf_counter() - start
    if not world.rank:
        print(json.dumps({"seconds": seconds, "tokens": times.tokens}))


def main() -> None:
    parser = arguments(__doc__, threads=1)
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="samples of a step (%(default)s)")
    parser.add_argument("--group", type=int, default=16, help="samples of a group (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="a round (%(default)s)")
    parser.add_argument("--work", action="store_true", help="be one of the processes")
    options = parser.parse_args()
    if options.work:
        work(options.threads, options.batch, options.group, options.steps, options.quick)
        return
    report = Report("processes", options)
    own = [*sys.argv, "--work"]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(options.processes)]
    launch += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    commands = {"alone": own, "together": [*launch, *own]}
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    found: dict[str, list[float]] = {name: [] for name in commands}
    tokens = 0
    for _ in range(options.repeats):
        for name, words in commands.items():
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, env=environment
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            result = json.loads(done.stdout.strip().splitlines()[-1])
            found[name].append(result["seconds"])
            tokens = result["tokens"]
    speedup = ratio(found["alone"], found["together"])
    cores = os.cpu_count() or 1
    free = cores - report.load[0]
    enough = free >= options.processes - 0.2
    rows = [("seconds of a round", "median (min-max)")]
    rows += [(name, shown(figures(seen))) for name, seen in found.items()]
    rows.append(("times as fast", shown(speedup)))
    if not enough:
        rows.append((f"only {max(0.0, free):.1f} of {cores} cores were free at the start", ""))
    report.finish(
        rows,
        seconds={name: figures(seen) for name, seen in found.items()},
        tokens_of_a_round=tokens,
        times_as_fast=speedup,
        of_perfect=round(speedup["median"] / options.processes, 4),
        free_cores={"at_the_start": round(free, 2), "enough": enough},
    )


if __name__ == "__main__":
    main()
