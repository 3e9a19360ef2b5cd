"""Generated samples a second, batched by us and one by one by the reference's sampler, interleaved.

Caption to sound and picture to depth in 8 steps at d6-6w512, random weights; the reference gives
its captions with their [PAD]. Then ours by batch size, in time and memory, and many sounds at once
with guidance 3 in bf16. On a GPU the reference is left out, and the share of tokens is measured
that come out otherwise when a sample is made alone.

    python benchmarks/generation.py --threads 2 --repeats 3
    python benchmarks/generation.py --device cuda
"""

from collections.abc import Callable
from typing import Any

import torch
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

from nano4m.compute.malloc import tune_malloc
from nano4m.compute.precision import float32_math, has_exact_onednn
from nano4m.config.generation import GenerateConfig
from nano4m.config.model import ModelConfig
from nano4m.config.presets import SIZE_FIELDS, SIZES
from nano4m.generation.sampler import generate
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence

TASKS = (("caption", "sound"), ("rgb", "depth"))
CAPTION_TOKENS = (4, 7)
GUIDANCE = 3.0
COMPARED = 64
"""Samples that are made together and one by one."""


def choose_device(name: str) -> torch.device:
    """Return the device of ``--device``: auto is the GPU, if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: PyTorch sees no CUDA device")
    return torch.device(name)


def settled(device: torch.device) -> float:
    """Return the time when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now()


def build_model(tiny: bool, tokens: TokenSequence, draw: torch.Generator) -> FourM:
    """Return a model of random weights whose heads tell ids apart, as those of a trained one do."""
    size = SIZES["d6-w512"].model_dump(include=SIZE_FIELDS)
    if tiny:
        size |= {"encoder_depth": 1, "decoder_depth": 1, "dim": 32, "head_dim": 8}
    model = FourM(ModelConfig(**size), tokens.modalities)
    model.init_weights(draw)
    with torch.no_grad():
        for head in model.heads.parameters():
            head.normal_(0.0, 2 / head.shape[1] ** 0.5, generator=draw)
    return model.eval()


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
    model: FourM,
    tokens: TokenSequence,
    task: tuple[str, str],
    rows: int,
    steps: int,
    seed: int,
    guidance: float = 1.0,
) -> Callable[[], float]:
    """Return a call that generates ``rows`` samples and returns samples a second."""
    ids, known = given(tokens, task[0], rows, torch.Generator().manual_seed(seed))
    config = GenerateConfig(steps=steps, batch_size=rows, guidance=guidance)

    def call() -> float:
        start = settled(model.device)
        _, filled = generate(model, tokens, ids, known, [task[1]], config, list(range(rows)))
        seconds = settled(model.device) - start
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
            if model.device.type == "cuda":
                call()  # loads the kernels
                torch.cuda.reset_peak_memory_stats()
                start = torch.cuda.memory_allocated()
                speed = call()
                megabytes = round((torch.cuda.max_memory_allocated() - start) / 1e6, 1)
            else:
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


def differing(model: FourM, tokens: TokenSequence, rows: int, steps: int, seed: int) -> float:
    """Return the share of sound tokens that differ between ``rows`` samples made together and the
    same made one by one, with the same seeds.
    """
    ids, known = given(tokens, "caption", rows, torch.Generator().manual_seed(seed))
    config = GenerateConfig(steps=steps, guidance=GUIDANCE)
    span = tokens.slices[tokens.index("sound")]
    together, _ = generate(model, tokens, ids, known, ["sound"], config, list(range(rows)))
    alone = [
        generate(model, tokens, ids[i : i + 1], known[i : i + 1], ["sound"], config, [i])[0]
        for i in range(rows)
    ]
    return float((together != torch.cat(alone))[:, span].double().mean())


def compare(
    options: Any, models: dict[str, FourM], tokens: TokenSequence, draw: torch.Generator
) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Return samples a second by task and engine, on a GPU of ours alone, and rows of a table."""
    tiny, seed, steps = options.quick, options.seed, options.steps
    on_gpu = models["fp32"].device.type == "cuda"
    longest = max(m.length for m in tokens.modalities)
    sizes = Sizes(longest=longest, dim=32, head=8, depth=(1, 1)) if tiny else Sizes()
    theirs = None if on_gpu else Baseline(sizes).eval()
    if theirs is not None:
        theirs.init_weights(draw)
    rows: list[tuple[str, ...]] = [
        ("samples a second", "baseline", "ours fp32", "ours bf16", "ratio")
    ]
    tasks: dict[str, Any] = {}
    for task in TASKS:
        calls = {
            name: ours(model, tokens, task, options.batch, steps, seed)
            for name, model in models.items()
        }
        if theirs is not None:
            count = options.baseline_samples
            calls = {"baseline": baseline(theirs, tokens, task, count, steps, seed)} | calls
        speed = interleave(calls, options.repeats)
        name, first = " to ".join(task), next(iter(speed))
        tasks[name] = {
            engine: {
                "samples_per_second": figures(seen),
                f"times_{first}": ratio(seen, speed[first]),
            }
            for engine, seen in speed.items()
        }
        cells = [shown(figures(seen)) for seen in speed.values()]
        times = shown(tasks[name]["bf16"][f"times_{first}"])
        rows.append((name, *([""] if on_gpu else []), *cells, times))
    return tasks, rows


@float32_math()
def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int, default=16, help="samples at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="forward passes (%(default)s)")
    parser.add_argument("--baseline-samples", type=int, default=2, help="a round (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="batches")
    parser.add_argument("--sounds", type=int, help="made at once: 512 on a GPU, 4 on a CPU")
    options = parser.parse_args()
    device = choose_device(options.device)
    report = Report("generation", options)
    exact_matmul = has_exact_onednn()
    tokens = TokenSequence(reference_modalities(4 if options.quick else 1))
    draw = torch.Generator().manual_seed(options.seed)
    models = {
        name: build_model(options.quick, tokens, draw).to(device, dtype)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    seed, steps = options.seed, options.steps
    # First, because memory that is kept cannot be told from memory that is used.
    by_size = scaling(models["bf16"], tokens, options.sizes, steps, seed)
    kept = device.type == "cpu" and tune_malloc()
    tasks, rows = compare(options, models, tokens, draw)
    for name, found in by_size.items():
        for size, seen in found["batch"].items():
            rows.append(
                (f"{name}, batch {size}", "", "", f"{seen['seconds']} s", f"{seen['megabytes']} MB")
            )
    many = options.sounds or (512 if device.type == "cuda" else 4)
    call = ours(models["bf16"], tokens, TASKS[0], many, steps, seed, GUIDANCE)
    sounds = figures(interleave({"bf16": call}, options.repeats)["bf16"])
    length = tokens.modalities[tokens.index("sound")].length
    what = f"{many} sounds of {length} tokens, {steps} steps, guidance {GUIDANCE:g}"
    rows.append((what, "", "", shown(sounds), ""))
    differ = {}
    if device.type == "cuda":
        differ = {
            name: differing(model, tokens, COMPARED, steps, seed) for name, model in models.items()
        }
        cells = [f"{100 * share:.3f} %" for share in differ.values()]
        rows.append((f"tokens that differ, batch 1 and {COMPARED}", "", *cells, ""))
    report.finish(
        rows,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        tasks=tasks,
        by_batch_size=by_size,
        sounds={"samples": many, "tokens": length, "samples_per_second": sounds},
        differing_tokens=differ,
        onednn=exact_matmul,
        keeps_freed_memory=kept,
    )


if __name__ == "__main__":
    main()
