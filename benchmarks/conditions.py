"""Do more conditions hurt, and does a continuation beat counting? By seed, on a study's models.

python benchmarks/conditions.py --run runs/digits --models studies/masks/ours-* --out studies/more

Each model of benchmarks/variants.py is one seed of the same run. Prints what every modality reaches
from all others and by how much that is above each one alone, and the nats of the second half of
each sound; --out/conditions.json has all figures.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import study


def one(run: Path, checkpoint: Path, split: str, seed: int) -> tuple[list[Any], list[Any]]:
    """Return ``AllSources`` of each modality and ``Continuation`` of each sound of one model."""
    from nano4m.evaluate.class_consistency import directions_into
    from nano4m.evaluate.continuation import continuation
    from nano4m.evaluate.ngram_smoothing import fit_ngrams

    config = study.config_of(run)
    context, judged = study.classifiers(
        run, run / "train" / "checkpoint", split, config.evaluate.clips
    )
    model = study.RunLoader(run, checkpoint)().model.eval()
    evaluator = replace(context.evaluator, model=model, seed=seed, _pairs={})
    both, continued = [], []
    for target, (classifier, result) in enumerate(judged):
        modality = evaluator.tokens.modalities[target]
        _, together, _ = directions_into(
            evaluator,
            target,
            config.generate,
            context.tokenizers,
            classifier,
            result.accuracy.round_trip,
        )
        both += [together] if together else []
        if modality.layout == "codebooks":
            counts = fit_ngrams(context.table, modality, context.train_rows)
            found = continuation(evaluator, counts, target)
            continued += [found] if found else []
    return both, continued


def main() -> None:
    """Classifier all models and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="the run with table and clips")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="folders, by seed")
    parser.add_argument("--split", default="val", help="clips that are judged")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    options = parser.parse_args()
    study.start_process()
    found = []
    for seed, folder in enumerate(options.models):
        found.append(one(options.run, folder / "checkpoint", options.split, seed))
        print(f"{seed + 1}/{len(options.models)} {folder}", file=sys.stderr, flush=True)
    study.write(options.out / "conditions.json", {
        "run": str(options.run), "models": [str(m) for m in options.models], "split": options.split,
        "figures": [[[part.model_dump() for part in parts] for parts in pair] for pair in found],
    })  # fmt: skip
    print("| made | seed | from all others | above one alone, points [95 % interval] |")
    print("|---|---|---|---|")
    for seed, (both, _) in enumerate(found):
        for t in both:
            over = ", ".join(
                f"{source} {100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
                for source, d in t.gain_over.items()
            )
            print(f"| {t.target} | {seed} | {100 * t.class_consistency.value:.1f} | {over} |")
    print("\n| continued | seed | frame by frame | at once | unigram | bigram |")
    print("|---|---|---|---|---|---|")
    for seed, (_, continued) in enumerate(found):
        for c in continued:
            print(f"| {c.modality} | {seed} | {c.value:.2f} [{c.low:.2f}, {c.high:.2f}] | "
                  f"{c.at_once:.2f} | {c.unigram:.2f} | {c.bigram:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
