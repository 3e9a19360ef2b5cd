"""Most memory a training step holds: ours against the reference's engine, a process each.

Every variant takes steps at d6-6w512 in a process of its own, which tells the most memory it ever
held (ru_maxrss): interpreter, weights, gradients, optimizer and activations. See train_step.py for
the variants. Ours takes the longest step that the masks allow, 256 given and 256 asked for.

    python benchmarks/memory.py --batch 16
"""

import argparse
import json
import subprocess
import sys

import torch
from engines import DEFAULT_MODEL, EXACT_MODEL, BaselineEngine, Clips, OurEngine, quick
from measure import Report, arguments, figures, ratio, reference_modalities, shown
from reference_baseline import Sizes

from nano4m.compute.malloc import tune_malloc
from nano4m.compute.precision import float32_math
from nano4m.model.fourm import FourM
from nano4m.training.accounting import Operations, peak_memory

VARIANTS = {
    "baseline": "adamw",
    "exact": "adamw",
    "bf16": "adamw",
    "bf16, own captions": "adamw",
    "bf16, own captions, muon": "muon",
}


@float32_math()
def measure(variant: str, options: argparse.Namespace) -> int:
    """Take steps of one variant in this process; return its most memory in bytes."""
    torch.set_num_threads(options.threads)
    tiny = options.quick
    vocab = options.own_captions if "own captions" in variant else 50304
    modalities = reference_modalities(4 if tiny else 1, caption_vocab=vocab)
    totals = (4, 12) if tiny else (16, 256)
    if variant == "baseline":
        sizes = Sizes(dim=32, head=8, depth=(1, 1)) if tiny else Sizes()
        with torch.device("meta"):
            model = FourM(quick(EXACT_MODEL) if tiny else EXACT_MODEL, modalities)
        clips = Clips(modalities=modalities, rows=options.batch, seed=0, totals=totals)
        engine = BaselineEngine(clips, sizes, Operations.of(model), options.steps)
        engine.steps()
    else:
        tune_malloc()
        clips = Clips(
            modalities=modalities, rows=options.batch, seed=0, totals=(totals[1], totals[1])
        )
        config = EXACT_MODEL if variant == "exact" else DEFAULT_MODEL
        dtype = torch.float32 if variant == "exact" else torch.bfloat16
        OurEngine(
            clips.ours(options.batch, 1) * options.steps,
            modalities,
            quick(config) if tiny else config,
            dtype,
            VARIANTS[variant],
        ).steps()
    return peak_memory(torch.device("cpu"))


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--batch", type=int, default=16, help="samples a step (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="taken (%(default)s)")
    parser.add_argument("--own-captions", type=int, default=512, help="ids (%(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--variant", choices=VARIANTS, help="measure one here, print its bytes")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps({"bytes": measure(options.variant, options)}))
        return
    report = Report("memory", options)
    found: dict[str, list[float]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeats):
        for variant, seen in found.items():
            command = [sys.executable, *sys.argv, "--variant", variant]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            seen.append(json.loads(done.stdout)["bytes"] / 1e9)
    rows = [("peak memory in GB", "median (min-max)", "of baseline")]
    variants = {}
    for variant, seen in found.items():
        share = ratio(seen, found["baseline"])
        variants[variant] = {"gigabytes": figures(seen), "of_baseline": share}
        rows.append((variant, shown(figures(seen)), shown(share)))
    report.finish(rows, variants=variants)


if __name__ == "__main__":
    main()
