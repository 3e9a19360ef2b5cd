"""Compare settings of the sampler on one trained run: what is of its class, and how varied it is.

python benchmarks/sampling.py --run runs/digits --out studies/sampling

One factor at a time around --base, on every direction to a modality that is no text, or on those of
--directions "sound->rgb;rgb->sound"; three seeds of the samples. Prints a Markdown table;
--out/sampling.json has all figures, --out/sampling.png shows them.
"""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import study

FACTORS: dict[str, list[dict[str, Any]]] = {
    "order": [
        {"order": "confidence", "noise": 0.0},
        {"order": "confidence", "noise": 2.0},
        {"order": "confidence", "noise": 8.0},
        {"order": "confidence", "noise": 32.0},
        {"order": "random"},
        {"order": "halton"},
        {"order": "raster"},
    ],
    "steps": [{"steps": n} for n in (1, 2, 4, 8, 16)],
    "temperature": [{"temperature": t} for t in (0.3, 0.6, 0.8, 1.0, 1.2)],
    "guidance": [{"guidance": g} for g in (1.0, 1.5, 2.0, 3.0, 5.0)],
    "top_p": [{"top_p": p} for p in (0.8, 0.9, 0.95, 1.0)],
    "schedule": [{"schedule": s} for s in ("cosine", "linear", "constant")],
    "remask": [{"remask_rounds": n} for n in (0, 1, 2, 4)],
}


def one(
    run: Path, split: str, clips: int, only: list[str], base: dict, change: dict, seed: int
) -> dict[str, Any]:
    """Draw and classifier every direction under one setting, with one seed of the samples."""
    from nano4m.config.generation import GenerateConfig
    from nano4m.evaluate.class_consistency import real_ids
    from nano4m.evaluate.diversity import diversity

    study.start_process()
    context, judged = study.classifiers(run, run / "train" / "checkpoint", split, clips)
    settings = GenerateConfig(**(base | change))
    names, labels = context.evaluator.names, context.evaluator.labels.tolist()
    found = {}
    for target, (classifier, _) in enumerate(judged):
        modality = context.evaluator.tokens.modalities[target]
        if modality.is_text:
            continue
        for source in range(len(names)):
            if source != target and (not only or f"{names[source]}->{names[target]}" in only):
                hits, ids = study.coherent(context, target, classifier, source, settings, seed)
                spread = diversity(
                    ids, labels, real_ids(context.evaluator, target), labels, modality
                )
                within, real = spread.generated.within, spread.real.within
                found[f"{names[source]} -> {names[target]}"] = {
                    "class_consistency": float(hits.mean()),
                    "within": within / real if within and real else None,
                    "entropy": spread.generated.entropy / spread.real.entropy,
                }
    return found


def label(change: dict[str, Any]) -> str:
    """Return the setting in words."""
    return ", ".join(f"{k} {v}" for k, v in change.items() if k != "order") or str(change["order"])


def main() -> None:
    """Run the comparison and print its table."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--split", default="val", help="clips that are judged")
    parser.add_argument("--clips", type=int, default=300, help="at most so many")
    parser.add_argument("--seeds", type=int, default=3, help="of the samples, from 0")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--factors", default=";".join(FACTORS), help="separated by ;")
    parser.add_argument("--directions", default="", help="separated by ;")
    parser.add_argument("--base", default="", help="settings all share: guidance=2;noise=8")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    options = parser.parse_args()
    only = [d for d in options.directions.replace(" ", "").split(";") if d]
    base: dict[str, Any] = {}
    for entry in filter(None, options.base.split(";")):
        name, value = entry.split("=")
        base[name] = float(value) if value.replace(".", "").isdigit() else value
    if "steps" in base:
        base["steps"] = int(base["steps"])
    settings = [(f, c) for f in options.factors.split(";") for c in FACTORS[f]]
    found: dict[tuple[str, str], list[Any]] = {(f, label(c)): [] for f, c in settings}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn) as pool:
        jobs = {}
        for factor, change in settings:
            for seed in range(options.seeds):
                job = pool.submit(
                    one, options.run, options.split, options.clips, only, base, change, seed
                )
                jobs[job] = (factor, label(change))
        for number, job in enumerate(as_completed(jobs), 1):
            found[jobs[job]].append(job.result())
            shown = {d: round(100 * r["class_consistency"], 1) for d, r in job.result().items()}
            print(f"{number}/{len(jobs)} {jobs[job]} {shown}", file=sys.stderr, flush=True)
    study.write(options.out / "sampling.json", {
        "run": str(options.run), "split": options.split, "base": base, "seeds": options.seeds,
        "figures": {f"{f}: {name}": runs for (f, name), runs in found.items()},
    })  # fmt: skip
    print_table(found)
    plot(found, options.out / "sampling.png")


def print_table(found: dict[tuple[str, str], list[Any]]) -> None:
    """Print mean and deviation over seeds: class consistency and variety of each direction."""
    directions = list(next(iter(found.values()))[0])
    print("| factor | setting | " + " | ".join(directions) + " | mean | variety |")
    print("|---|---|" + "---|" * (len(directions) + 2))
    for (factor, name), runs in found.items():
        cells = [
            study.mean_and_spread([r[d]["class_consistency"] for r in runs]) for d in directions
        ]
        mean = [float(np.mean([r[d]["class_consistency"] for d in directions])) for r in runs]
        cells.append(study.mean_and_spread(mean))
        kept = [r[d]["within"] for r in runs for d in directions if r[d]["within"] is not None]
        cells.append(f"{np.mean(kept):.2f}")
        print(f"| {factor} | {name} | " + " | ".join(cells) + " |")


def plot(found: dict[tuple[str, str], list[Any]], path: Path) -> None:
    """Draw a panel a factor: class consistency of each direction, and variety as a dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    factors = list(dict.fromkeys(f for f, _ in found))
    directions = list(next(iter(found.values()))[0])
    rows = -(-len(factors) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(13, 3.6 * rows), squeeze=False)
    for axis, factor in zip(axes.flat, factors, strict=False):
        own = {name: runs for (f, name), runs in found.items() if f == factor}
        for direction in directions:
            values = [
                [100 * r[direction]["class_consistency"] for r in runs] for runs in own.values()
            ]
            axis.errorbar(
                range(len(own)),
                [np.mean(v) for v in values],
                [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values],
                marker="o",
                label=direction,
            )
        kept = [
            100 * np.mean([r[d]["within"] or np.nan for r in runs for d in directions])
            for runs in own.values()
        ]
        axis.plot(range(len(own)), kept, "k--", label="variety, % of real")
        axis.set_xticks(range(len(own)), [n.replace(f"{factor} ", "") for n in own], rotation=20)
        axis.set_title(factor)
        axis.set_ylim(0, 105)
    for axis in axes.flat[len(factors) :]:
        axis.axis("off")
    axes.flat[0].set_ylabel("% of the right class")
    axes.flat[0].legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
