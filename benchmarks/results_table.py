"""Print a run's results.json as the Markdown of docs/RESULTS.md.

python benchmarks/results_table.py runs/farm
"""

import json
import sys
from pathlib import Path

from nano4m.evaluate.cross_entropy import UNITS
from nano4m.evaluate.likelihood_results import Continuation, CrossEntropy
from nano4m.evaluate.probe_results import Control, Probe
from nano4m.report.likelihoods import (
    BASELINES,
    Row,
    compared,
    continued,
    order_conditions,
)
from nano4m.report.markup import sample_size
from nano4m.report.probes import Pair, retrieval_columns, retrieval_pairs, yardsticks


def share(score: dict) -> str:
    """Return ``61.2 [55.0, 67.1]`` in percent."""
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def size(score: dict, results: dict) -> str:
    """Return ``220 of 20,000, 18 clusters``."""
    return sample_size(score["n"], score.get("clusters"), results.get("available"))


def with_clusters(score: dict) -> str:
    """Return ``61.2 [55.0, 67.1], 18 clusters``; clusters only if fewer than clips."""
    clusters = score.get("clusters")
    return share(score) + (f", {clusters} clusters" if clusters and clusters < score["n"] else "")


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def main(run: Path) -> None:
    """Print one section."""
    results = json.loads((run / "results.json").read_text())
    made = results["provenance"]
    seconds = results["seconds"]
    training = results["training"]
    print(f"`{made['command']}`, commit {made['commit']}, {made['machine']}, "
          f"Python {made['python']}, torch {made['versions']['torch']}, "
          f"seed {results['config']['seed']}. {training['parameters']:,} parameters, "
          f"{training['steps']:,} steps, {training['tokens_per_second']:,} tokens/s. "
          f"Seconds by stage: "
          + ", ".join(f"{k} {v:.0f}" for k, v in seconds.items())
          + f"; {sum(seconds.values()) / 60:.1f} minutes in all.")  # fmt: skip
    matrix(results)
    probes(results)
    together(results)
    copies(results)
    likelihoods(results)


def matrix(results: dict) -> None:
    """Print class consistency of every direction; nothing in a run of one class."""
    cells = {
        (d["source"], d["target"]): d["class_consistency"]
        for d in results["matrix"]
        if d["class_consistency"]
    }
    if not cells:
        return
    first = next(iter(cells.values()))
    print(f"\nClass consistency, in percent with 95 % intervals: how often a classifier sees the "
          f"clip's class in what is made from one modality alone (rows). "
          f"n = {sample_size(first['n'], None, results.get('available'))}, "
          f"chance {percent(first['chance'])}.\n")  # fmt: skip
    sources = list(dict.fromkeys(d["source"] for d in results["matrix"]))
    targets = list(dict.fromkeys(d["target"] for d in results["matrix"]))
    targets.sort(key=sources.index)
    print("| from \\ to | " + " | ".join(targets) + " |\n|" + "---|" * (len(targets) + 1))
    for s in sources:
        row = [with_clusters(cells[s, t]) if (s, t) in cells else "" for t in targets]
        print(f"| {s} | " + " | ".join(row) + " |")
    trips = [
        percent(next(c["round_trip"] for (_, b), c in cells.items() if b == t)) for t in targets
    ]
    print("| *tokenizer round trip* | " + " | ".join(trips) + " |")
    known = {c["modality"]: c for c in results["classifiers"]}
    for title, key in (("real media", "accuracy"), ("media it was trained on", "train")):
        figures = [known.get(t, {}).get(key) for t in targets]
        if any(figures):
            row = [percent(figure["value"]) if figure else "-" for figure in figures]
            print(f"| *{title}* | " + " | ".join(row) + " |")


def copies(results: dict) -> None:
    """Print the memorisation figure of each direction."""
    found = results.get("memorization", [])
    if not found:
        return
    print("\nSamples that are nearer to the train split than the clip itself is, in percent (about "
          "50 if nothing is copied), and the median share of tokens in common with the nearest "
          "train sequence.\n")  # fmt: skip
    rows_of(
        ["from", "to", "nearer", "sample, tokens in common", "clip, tokens in common", "n"],
        [
            [
                m["source"] or "each other alone",
                m["target"] + (" (text)" if m["is_text"] else ""),
                share(m),
            ]
            + [percent(m["made_equal"]), percent(m["real_equal"]), size(m, {})]
            for m in found
        ],
    )


def bold(text: str, probe: Probe) -> str:
    """Return a figure, bold where it is above all its yardsticks."""
    return f"**{text}**" if probe.is_above else text


def control(name: str, own: Control) -> str:
    """Return ``shuffled 4.9, expected 5.0``."""
    expected = "" if own.expected is None else f", expected {percent(own.expected)}"
    return f"{name} {percent(own.value)}{expected}"


def probes(results: dict) -> None:
    """Print classes by caption, retrieval a row a pair, and what was left out."""
    found = [Probe.model_validate(p) for p in results["probes"]]
    classes = [p for p in found if p.task == "classification"]
    if classes:
        print("\nClass by caption; bold: above chance and the commonest class, balanced above "
              "chance.\n")  # fmt: skip
        rows_of(
            ["probe", "value", "chance", "majority", "balanced", "controls", "n"],
            [
                [p.name, bold(share(s := p.score.model_dump()), p)]
                + [percent(s[name]) for name in ("chance", "majority", "balanced")]
                + ["; ".join(control(k, own) for k, own in p.score.controls.items())]
                + [size(s, results)]
                for p in classes
            ],
        )
    pairs = retrieval_pairs(found)
    if pairs:
        columns = retrieval_columns(pairs)
        print("\nRetrieval, each figure with its chance and ceilings: what knowing of each clip "
              "its class, or its caption, and nothing else reaches. Bold: the interval lies above "
              "all of them.\n")  # fmt: skip
        rows_of(
            ["from -> to", *columns.values(), "shuffled", "n"],
            [[f"{pair.source} -> {pair.target}", *(pair_cell(pair, key) for key in columns)]
             + ([control("R@1", own) for own in pair.gallery.score.controls.values()]
                + [size(pair.gallery.score.model_dump(), results)] if pair.gallery else ["", ""])
             for pair in pairs],
        )  # fmt: skip
    for entry in results.get("left_out", []):
        print(f"\nLeft out: {entry['probe']}: {entry['reason']}.")


def pair_cell(pair: Pair, key: tuple[int | None, str | None]) -> str:
    """Return one figure of a pair with its yardsticks; its own n where clips are left out."""
    probe = pair.probes.get(key)
    if probe is None:
        return ""
    beside = [f"{name} {percent(value)}" for name, value in yardsticks(probe.score).items()]
    if pair.gallery is None or probe.score.n != pair.gallery.score.n:
        beside.append(f"n {probe.score.n}")
    return f"{bold(share(probe.score.model_dump()), probe)} ({', '.join(beside)})"


def together(results: dict) -> None:
    """Print what all conditions together reach, and by how much it is above each one alone."""
    if not results["all_sources"]:
        return
    print("\nFrom all other modalities at once, and how many points it is above one alone.\n")
    names = list(dict.fromkeys(d["source"] for d in results["matrix"]))
    rows = []
    for t in results["all_sources"]:
        over = [t["gain_over"].get(name) for name in names]
        whole = t["class_consistency"]
        rows.append([t["target"], share(whole), size(whole, results)] + [
            f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]" if d else ""
            for d in over
        ])  # fmt: skip
    rows_of(["made", "from all others", "n", *(f"above {n} alone" for n in names)], rows)


def rows_of(head: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")


def likelihoods(results: dict) -> None:
    """Print cross-entropy in nats and in bits, and the continuations.

    A row holds only figures that were given the same.
    """
    entropies = [CrossEntropy.model_validate(c) for c in results["cross_entropy"]]
    names = [c.modality for c in entropies]
    print("\nCross-entropy, nats a token, beside the counting baselines that are given the same.\n")
    rows_of(
        ["modality", "given", "model", *BASELINES, "tokens"],
        [[c.modality, *cells(row), f"{c.tokens:,}"] for c in entropies for row in compared(c, {})],
    )
    conditions = order_conditions(entropies, names)
    print("\nBy input (rows), nats a token; compare within a column.\n")
    rows_of(
        ["given", *names],
        [
            [key, *(f"{c.conditions[key]:.2f}" if key in c.conditions else "" for c in entropies)]
            for key in conditions
        ],
    )
    keys = [k for k in ("uniform", "unigram", "bigram", *conditions)
            if any(k in c.bits for c in entropies)]  # fmt: skip
    print("\nThe same in bits a picture, a second of sound or a text.\n")
    rows_of(
        ["given", *(f"{c.modality}, a {c.unit}" for c in entropies)],
        [[k, *(f"{c.bits[k]:.1f}" if k in c.bits else "" for c in entropies)] for k in keys],
    )
    if results["continuation"]:
        texts = {c.modality for c in entropies if c.unit == UNITS["text"]}
        print("\nContinuation: nats a token of the second half of a sound or text.\n")
        rows_of(
            ["modality", "given", "model", *BASELINES, "n"],
            [
                [c.modality, *cells(row), sample_size(c.n, c.clusters, results.get("available"))]
                for c in map(Continuation.model_validate, results["continuation"])
                for row in continued(c, c.modality in texts)
            ],
        )


def cells(row: Row) -> list[str]:
    """Return what is given, the model's figure and the baselines of a row."""
    ends = "" if row.interval is None else " [{:.3f}, {:.3f}]".format(*row.interval)
    return [row.given, f"{row.model:.3f}{ends}", *(row.baseline(n) or "" for n in BASELINES)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
