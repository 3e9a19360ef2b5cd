"""Train variants of a run on the same data, budget and seeds, and compare what they make.

python benchmarks/variants.py --run runs/digits --set engine --steps 300 --out studies/engine

Each variant and seed is trained from nothing on the token table of --run and judged on its clips:
class consistency of every direction, class from each modality, validation loss (by modality, with
the masks of generation's own steps, the same for all). --losses stops after the latter. Finished
ones are kept, so a study that was stopped goes on.
Prints a Markdown table; --out/variants.json has all figures.
"""

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import study

NO_MIXTURE = {"masking.any_to_any": 0.0, "masking.inference_aligned": 0.0, "masking.suffix": 0.0,
              "masking.infill": 0.0, "masking.dirichlet": 0.0}  # fmt: skip
REFERENCE_MASKS = NO_MIXTURE | {"masking.reference_span": 1.0, "masking.alphas": (1.0,)}
BEFORE = {"masking.any_to_any": 0.75, "masking.inference_aligned": 0.1,
          "masking.all_targets_whole": 0.35, "masking.whole_target": 0.3,
          "masking.next_token": 0.5, "masking.prefixes": 1}  # fmt: skip


def mixture(aligned: float, whole: float, prefixes: int | None = None) -> dict[str, Any]:
    """Return masks with a share of ``inference_aligned`` and of targets of which nothing is known.

    The weights of dirichlet, suffix and infill stay (0.05, 0.06, 0.04).
    """
    return {"masking.any_to_any": round(0.85 - aligned, 3), "masking.inference_aligned": aligned,
            "masking.all_targets_whole": whole, "masking.whole_target": whole * 0.75,
            "masking.prefixes": prefixes}  # fmt: skip


def reference_budgets(tokens: int) -> dict[str, Any]:
    """Return the reference's 16 to 256 of 1,164 tokens, in proportion to a clip of ``tokens``."""
    low, high = max(1, round(tokens * 16 / 1164)), round(tokens * 256 / 1164)
    return {"masking.min_inputs": low, "masking.max_inputs": high, "masking.min_targets": low,
            "masking.max_targets": high}  # fmt: skip


PLAIN = {"generate.guidance": 1.0, "generate.modalities": {}}


def unguided(settings: Any) -> Any:
    """Return sampler settings without guidance, for any modality."""
    own = {
        name: {k: v for k, v in changed.items() if k != "guidance"}
        for name, changed in settings.modalities.items()
    }
    return settings.model_copy(update={"guidance": 1.0, "modalities": own})


def variants(name: str, tokens: int) -> dict[str, dict[str, Any]]:
    """Return the settings of each variant of a set, over those of the run."""
    sets: dict[str, dict[str, dict[str, Any]]] = {
        "engine": {
            "default": {},
            "AdamW, 1e-3": {"train.optimizer": "adamw", "train.lr": 1e-3},
            "AdamW, 3e-3": {"train.optimizer": "adamw", "train.lr": 3e-3},
            "positions sincos1d": {"model.positions": "sincos1d"},
            "positions rope1d": {"model.positions": "rope1d"},
            "positions rope2d": {"model.positions": "rope2d"},
            "SwiGLU": {"model.mlp": "swiglu"},
            "SwiGLU, rope1d": {"model.mlp": "swiglu", "model.positions": "rope1d"},
            "tied": {"model.tied": True},
            "QK-norm": {"model.qk_norm": True},
            "fp32": {"train.precision": "fp32"},
        },
        "masking": {
            "ours": {},
            "reference": REFERENCE_MASKS | reference_budgets(tokens) | PLAIN,
            "reference, any budget": REFERENCE_MASKS | PLAIN,
        },
        "mixtures": {
            "default": {},
            "before": BEFORE,
            "aligned 0.1": mixture(0.1, 0.2),
            "aligned 0.4": mixture(0.4, 0.2),
            "aligned 0.6": mixture(0.6, 0.2),
            "aligned 0.8": mixture(0.8, 0.2),
            "aligned 0.4, whole 0.1": mixture(0.4, 0.1),
            "aligned 0.4, whole 0.3": mixture(0.4, 0.3),
            "aligned 0.4, 1 prefix": mixture(0.4, 0.2, 1),
            "aligned 0.4, 2 prefixes": mixture(0.4, 0.2, 2),
            "aligned 0.4, 4 prefixes": mixture(0.4, 0.2, 4),
        },
    }
    if name not in sets:
        raise SystemExit(f"unknown set {name!r}; choose from {', '.join(sets)}")
    return sets[name]


def one(
    run: Path, out: Path, settings: dict[str, Any], seed: int, split: str, losses: bool = False
) -> dict[str, Any]:
    """Train and judge one variant with one seed; only by its validation loss if ``losses``."""
    done = out / "figures.json"
    if done.exists():
        return json.loads(done.read_text())
    from dataclasses import replace

    from nano4m.evaluate.caption_classification import POSTERIOR, classify, conditions
    from nano4m.tokens.table import open_table
    from nano4m.training.trainer import train_model

    study.start_process()
    config = study.with_settings(study.config_of(run), settings | {"seed": seed})
    out.mkdir(parents=True, exist_ok=True)
    summary = train_model(config, open_table(run / "table"), out)
    if losses:
        figures = {"training": summary}
        done.write_text(json.dumps(figures, indent=1))
        return figures
    context, judged = study.classifiers(run, out / "checkpoint", split, config.evaluate.clips)
    samplers = {"as set": config.generate, "unguided": unguided(config.generate)}
    model = study.RunLoader(run, out / "checkpoint")().model
    context = replace(context, evaluator=replace(context.evaluator, model=model, _pairs={}))
    names = context.evaluator.names
    cells: dict[str, dict[str, float]] = {name: {} for name in samplers}
    upper = {}
    for target, (classifier, result) in enumerate(judged):
        upper[names[target]] = result.accuracy.round_trip
        for source in range(len(names)):
            if source == target:
                continue
            for kind, sampler in samplers.items():
                if kind == "unguided" and sampler == config.generate:
                    continue
                hits, _ = study.coherent(context, target, classifier, source, sampler, seed)
                cells[kind][f"{names[source]} -> {names[target]}"] = float(hits.mean())
    classes = {}
    if context.text is not None:
        for name in conditions(context.evaluator, context.text):
            for probe in classify(context.captions, name).probes:
                if probe.rule == POSTERIOR:
                    classes[name] = probe.score.value
    figures = {"class_consistency": cells["as set"], "unguided": cells["unguided"],
               "round_trip": upper,
               "class": classes, "training": summary, "n": len(context.evaluator)}  # fmt: skip
    done.write_text(json.dumps(figures, indent=1))
    return figures


def main() -> None:
    """Run a study and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a run with its token table")
    parser.add_argument("--set", default="engine", help="engine, masking or mixtures")
    parser.add_argument("--steps", type=int, required=True, help="training steps of each")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--split", default="val", help="clips that are judged")
    parser.add_argument("--losses", action="store_true", help="train only, compare losses")
    parser.add_argument("--val-samples", type=int, default=2048, help="of the validation loss")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--only", default="", help="names of variants, separated by ;")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    options = parser.parse_args()
    from nano4m.tokens.table import open_table

    tokens = sum(m.length for m in open_table(options.run / "table").modalities)
    chosen = variants(options.set, tokens)
    if options.only:
        chosen = {name: chosen[name] for name in options.only.split(";")}
    budget = {"train.steps": options.steps, "train.val_every": options.steps,
              "train.save_every": options.steps, "train.tracker": "none",
              "train.val_samples": options.val_samples}  # fmt: skip
    found: dict[str, dict[int, Any]] = {name: {} for name in chosen}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, spawn) as pool:
        jobs = {}
        for seed in range(options.seeds):
            for name, settings in chosen.items():
                folder = options.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
                job = pool.submit(
                    one, options.run, folder, budget | settings, seed, options.split, options.losses
                )
                jobs[job] = (name, seed)
        for number, job in enumerate(as_completed(jobs), 1):
            name, seed = jobs[job]
            found[name][seed] = job.result()
            print(f"{number}/{len(jobs)} {name}, seed {seed}", file=sys.stderr, flush=True)
    study.write(options.out / "variants.json", {
        "run": str(options.run), "set": options.set, "steps": options.steps, "split": options.split,
        "settings": chosen, "figures": found,
    })  # fmt: skip
    print_losses(found)
    if not options.losses:
        print_table(found)


def print_losses(found: dict[str, dict[int, Any]]) -> None:
    """Print validation loss in nats a token, mean and standard deviation over seeds, and time.

    Below stand the differences to the first variant, paired by seed, with 95 % intervals.
    """
    names = list(next(iter(next(iter(found.values())).values()))["training"]["val"])
    print("| variant | " + " | ".join(names) + " | mean | train seconds |")
    print("|---|" + "---|" * (len(names) + 2))
    columns: dict[str, list[list[float]]] = {}
    for variant, seeds in found.items():
        losses = [list(seeds[seed]["training"]["val"].values()) for seed in sorted(seeds)]
        # Nats as hundredths, as the helpers print percent.
        rows = [[loss / 100 for loss in (*own, sum(own) / len(own))] for own in losses]
        columns[variant] = [list(column) for column in zip(*rows, strict=True)]
        seconds = sum(r["training"]["train_seconds"] for r in seeds.values()) / len(seeds)
        cells = [study.mean_and_spread(column, 3) for column in columns[variant]]
        print(f"| {variant} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    print_differences(columns, [*names, "mean"], 3)


def print_differences(
    columns: dict[str, list[list[float]]], heads: list[str], digits: int = 1
) -> None:
    """Print each variant's difference to the first one, paired by seed, with 95 % intervals."""
    first, *others = columns
    if not others:
        return
    print(f"\n| less {first} | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * len(heads))
    for variant in others:
        pairs = zip(columns[variant], columns[first], strict=True)
        cells = [study.paired_difference(own, base, digits) for own, base in pairs]
        print(f"| {variant} | " + " | ".join(cells) + " |")
    print()


def print_table(found: dict[str, dict[int, Any]]) -> None:
    """Print mean and standard deviation over seeds of each variant in percent, and differences."""
    every = [run for seeds in found.values() for run in seeds.values()]
    directions = list(every[0]["class_consistency"])
    # A probe may have been left out with some models.
    classes = [c for c in every[0]["class"] if all(c in run["class"] for run in every)]
    heads = [*directions, *(f"class from {c}" for c in classes), "mean of directions"]
    rows = {name: [seeds[seed] for seed in sorted(seeds)] for name, seeds in found.items()}
    for name in list(rows):
        if all(r["unguided"] for r in rows[name]):
            rows[f"{name}, unguided"] = [
                r | {"class_consistency": r["unguided"]} for r in rows[name]
            ]
    print("| variant | " + " | ".join(heads) + " |")
    print("|---|" + "---|" * len(heads))
    columns: dict[str, list[list[float]]] = {}
    for name, runs in rows.items():
        columns[name] = [[r["class_consistency"][d] for r in runs] for d in directions]
        columns[name] += [[r["class"][c] for r in runs] for c in classes]
        columns[name].append([sum(r["class_consistency"].values()) / len(directions) for r in runs])
        cells = [study.mean_and_spread(column) for column in columns[name]]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print_differences(columns, heads)


if __name__ == "__main__":
    main()
