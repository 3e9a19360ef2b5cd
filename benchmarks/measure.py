"""What the benchmarks share: interleaved timing, figures with their spread, one form of report."""

import argparse
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nano4m.modalities import Modality, modality

REFERENCE: dict[str, tuple[tuple[int, ...], int]] = {
    "rgb": ((14, 14), 16384),
    "sound": ((256, 2), 2048),
    "depth": ((14, 14), 8192),
    "normals": ((14, 14), 8192),
    "caption": ((64,), 50304),
}
"""Shapes and vocabularies of the reference's modalities, in its order."""


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_chosen = ["wall"]


def cpu_name() -> str:
    """Return the name of the processor, as the system gives it.

    Not that of farm_speed: it needs all that cuts clips, and a GPU machine has not always that.
    """
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = [line.split(":", 1)[1].strip() for line in names if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def now() -> float:
    """Return seconds on the clock of ``--clock``."""
    return CLOCKS[_chosen[0]]()


def reference_modalities(scale: int = 1, caption_vocab: int = 50304) -> tuple[Modality, ...]:
    """Return the reference's modalities; for tests, ``scale`` times smaller a side."""
    sizes = {
        name: (tuple(max(2, n // scale) for n in shape), max(64, vocab // scale**2))
        for name, (shape, vocab) in REFERENCE.items()
    }
    sizes["caption"] = (sizes["caption"][0], caption_vocab)
    return tuple(modality(name).with_tokens(*size) for name, size in sizes.items())


def in_own_codebook(ids: torch.Tensor, modality: Modality) -> torch.Tensor:
    """Return any ids (..., length) as ids of their slots' codebooks, the only ones that can be."""
    book = torch.arange(modality.length) % modality.num_codebooks
    return ids % modality.codebook_size + book * modality.codebook_size


def figures(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum, to four digits."""
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the figures of the ratios of measurements made one right after the other."""
    return figures([a / b for a, b in zip(above, below, strict=True)])


def interleave(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Call all variants once to warm up, then A B C A B C ...; return what they returned.

    What the machine does meanwhile then falls on all variants alike.
    """
    for call in variants.values():
        call()
    found: dict[str, list[Any]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            found[name].append(call())
    return found


def reset_peak() -> None:
    """Forget the most memory held so far, so that ``peak`` tells that of what follows (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the most memory held since ``reset_peak``, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status names no VmHWM")


def arguments(doc: str | None, threads: int = 2, repeats: int = 3) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks have: --threads, --repeats, --quick, --seed."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=threads, help="of torch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds (%(default)s)")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu counts the time that this process computes, for one thread on a busy machine",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    return parser


def commit() -> str:
    """Return the commit of the code, with ``+changes`` where files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
        return done.stdout.strip()

    number = git("rev-parse", "--short=12", "HEAD")
    if not number:
        return "unknown"
    return number + ("+changes" if git("status", "--porcelain") else "")


class Report:
    """Collects a benchmark's result from its start on; ``finish`` prints it.

    Args:
        name: Of the benchmark.
        options: Parsed arguments; ``threads`` is set for torch.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        if options.clock == "cpu" and options.threads > 1:
            raise SystemExit("--clock cpu adds the threads' times up; give --threads 1")
        self.name, self.options, self.load = name, options, os.getloadavg()
        _chosen[0] = options.clock
        torch.set_num_threads(options.threads)
        # Numbers below float32's normal range are rare and slow; for all variants alike.
        torch.set_flush_denormal(True)

    def finish(self, rows: list[tuple[str, ...]], **results: Any) -> None:
        """Print one JSON object to standard output and ``rows`` as a table to standard error."""
        report = {
            "benchmark": self.name,
            "command": shlex.join(["python", *sys.argv]),
            "options": vars(self.options),
            "commit": commit(),
            "machine": {
                "cpu": cpu_name(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "clock": self.options.clock,
            "load_average": {
                "before": [round(n, 2) for n in self.load],
                "after": [round(n, 2) for n in os.getloadavg()],
            },
            **results,
        }
        print(json.dumps(report, indent=1))
        if rows:
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            for row in rows:
                cells = [row[0].ljust(widths[0])]
                cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
                print("  ".join(cells), file=sys.stderr)
            before, after = self.load[0], os.getloadavg()[0]
            print(f"load average {before:.1f} before, {after:.1f} after", file=sys.stderr)


def shown(spread: dict[str, float], digits: str = ".3g") -> str:
    """Return ``median (min-max)``."""
    cells = [f"{spread[key]:{digits}}" for key in ("median", "min", "max")]
    return f"{cells[0]} ({cells[1]}-{cells[2]})"
