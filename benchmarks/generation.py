"""Generated samples a second, batched by us and one by one by the reference's sampler, interleaved.

Caption to sound and picture to depth in 8 steps at d6-6w512, random weights; the reference gives
its captions with their [PAD]. Then ours by batch size, in time and memory.

    python benchmarks/generation.py --threads 2 --repeats 3
"""

from collections.abc import Callable
from typing import Any

import torch
from engines import DEFAULT_MODEL, quick
from measure import (
    Report,
    arguments,
    figures,
    interleave,
    now,
    peak,
    ratio,
    reference_modalities,
    reset_peak,
    shown,
)
from reference_baseline import END, PAD, START, Baseline, Sizes, maskgit
from torch import Tensor

from nano4m.allocation import keep_freed_memory
from nano4m.batch import TokenSequence
from nano4m.config import GenerateConfig
from nano4m.generate import generate
from nano4m.model.fourm import FourM
from nano4m.precision import prepare_matmul

TASKS = (("caption", "sound"), ("rgb", "depth"))
CAPTION_TOKENS = (4, 7)


def given(
    tokens: TokenSequence, source: str, rows: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return random ids and which are given: all of one modality, captions in varying length."""
    ids = torch.zeros(rows, tokens.length, dtype=torch.int64)
    known = torch.zeros_like(ids, dtype=torch.bool)
    index = tokens.index(source)
    m, span = tokens.modalities[index], tokens.slices[index]
    ids[:, span] = torch.randint(1, m.vocab_size, (rows, m.length), generator=generator)
    low, high = CAPTION_TOKENS
    lengths = torch.randint(low, high + 1, (rows, 1), generator=generator)
    known[:, span] = torch.arange(m.length) < lengths if m.is_text else True
    return ids, known


def ours(
    model: FourM, tokens: TokenSequence, task: tuple[str, str], rows: int, steps: int, seed: int
) -> Callable[[], float]:
    """Return a call that generates ``rows`` samples and returns samples a second."""
    ids, known = given(tokens, task[0], rows, torch.Generator().manual_seed(seed))
    config = GenerateConfig(steps=steps, batch_size=rows)

    def call() -> float:
        start = now()
        _, filled = generate(model, tokens, ids, known, [task[1]], config, list(range(rows)))
        seconds = now() - start
        if not bool(filled[:, tokens.slices[tokens.index(task[1])]].all()):
            raise RuntimeError("not every slot was filled")
        return rows / seconds

    return call


def baseline(
    model: Baseline, tokens: TokenSequence, task: tuple[str, str], rows: int, steps: int, seed: int
) -> Callable[[], float]:
    """Return a call that generates ``rows`` samples one by one; oneDNN is off meanwhile."""
    draw = torch.Generator().manual_seed(seed)
    ids, known = given(tokens, task[0], rows, draw)
    source, target = (tokens.index(name) for name in task)
    m, out = tokens.modalities[source], tokens.modalities[target]

    def call() -> float:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        start = now()
        for row in range(rows):
            own = ids[row, tokens.slices[source]].clone()
            if m.is_text:
                count = int(known[row].sum())
                own[0], own[count - 1], own[count:] = START, END, PAD
            maskgit(model, [(source, own)], target, out.length, out.vocab_size, steps, draw)
        seconds = now() - start
        torch.set_float32_matmul_precision(precision)
        return rows / seconds

    return call


def scaling(
    model: FourM, tokens: TokenSequence, sizes: list[int], steps: int, seed: int
) -> dict[str, Any]:
    """Return seconds and memory beyond what is held before, by batch size."""
    found: dict[str, Any] = {}
    for task in TASKS:
        by_size = {}
        for rows in sizes:
            call = ours(model, tokens, task, rows, steps, seed)
            reset_peak()
            start = peak()
            speed = call()
            megabytes = round((peak() - start) / 1e6, 1)
            by_size[str(rows)] = {"seconds": round(rows / speed, 4), "megabytes": megabytes}
        last, half = by_size[str(sizes[-1])], by_size[str(sizes[-2])]
        found[" to ".join(task)] = {
            "batch": by_size,
            "largest_over_half_of_it": {
                key: round(last[key] / max(half[key], 1e-9), 3) for key in last
            },
        }
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=16, help="samples at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="forward passes (%(default)s)")
    parser.add_argument("--baseline-samples", type=int, default=2, help="a round (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="batches")
    options = parser.parse_args()
    tiny = options.quick
    report = Report("generation", options)
    exact_matmul = prepare_matmul()
    modalities = reference_modalities(4 if tiny else 1)
    tokens = TokenSequence(modalities)
    draw = torch.Generator().manual_seed(options.seed)
    config = quick(DEFAULT_MODEL) if tiny else DEFAULT_MODEL
    models = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = FourM(config, modalities)
        model.init_weights(draw)
        models[name] = model.to(dtype).eval()
    seed, steps = options.seed, options.steps
    # First, because memory that is kept cannot be told from memory that is used.
    by_size = scaling(models["bf16"], tokens, options.sizes, steps, seed)
    kept = keep_freed_memory()
    longest = max(m.length for m in modalities)
    sizes = Sizes(longest=longest, dim=32, head=8, depth=(1, 1)) if tiny else Sizes()
    theirs = Baseline(sizes).eval()
    theirs.init_weights(draw)

    rows = [("samples a second", "baseline", "ours fp32", "ours bf16", "bf16 over baseline")]
    tasks = {}
    for task in TASKS:
        speed = interleave(
            {
                "baseline": baseline(theirs, tokens, task, options.baseline_samples, steps, seed),
                "fp32": ours(models["fp32"], tokens, task, options.batch, steps, seed),
                "bf16": ours(models["bf16"], tokens, task, options.batch, steps, seed),
            },
            options.repeats,
        )
        name = " to ".join(task)
        tasks[name] = {
            engine: {
                "samples_per_second": figures(seen),
                "times_baseline": ratio(seen, speed["baseline"]),
            }
            for engine, seen in speed.items()
        }
        cells = [shown(figures(seen)) for seen in speed.values()]
        rows.append((name, *cells, shown(tasks[name]["bf16"]["times_baseline"])))
    for name, found in by_size.items():
        for size, seen in found["batch"].items():
            rows.append(
                (f"{name}, batch {size}", "", "", f"{seen['seconds']} s", f"{seen['megabytes']} MB")
            )
    report.finish(
        rows, tasks=tasks, by_batch_size=by_size, onednn=exact_matmul, keeps_freed_memory=kept
    )


if __name__ == "__main__":
    main()
