"""Print a run's results.json as the Markdown of docs/RESULTS.md.

python benchmarks/results_table.py runs/farm
"""

import json
import sys
from pathlib import Path


def share(score: dict) -> str:
    """Return ``61.2 [55.0, 67.1]`` in percent."""
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


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
    first = results["matrix"][0]["class_consistency"]
    print(f"\nClass consistency, in percent with 95 % intervals: how often a classifier sees the "
          f"clip's class in what is made from one modality alone (rows). n = {first['n']}, "
          f"chance {percent(first['chance'])}.\n")  # fmt: skip
    sources = list(dict.fromkeys(d["source"] for d in results["matrix"]))
    targets = list(dict.fromkeys(d["target"] for d in results["matrix"]))
    targets.sort(key=sources.index)
    cells = {(d["source"], d["target"]): d["class_consistency"] for d in results["matrix"]}
    print("| from \\ to | " + " | ".join(targets) + " |\n|" + "---|" * (len(targets) + 1))
    for s in sources:
        row = [share(cells[s, t]) if (s, t) in cells else "" for t in targets]
        print(f"| {s} | " + " | ".join(row) + " |")
    upper = [
        percent(next(c["round_trip"] for (_, b), c in cells.items() if b == t)) for t in targets
    ]
    print("| *tokenizer round trip* | " + " | ".join(upper) + " |")
    print("\n| probe | value | chance | majority | balanced | controls | n |\n|" + "---|" * 7)
    for p in results["probes"]:
        s = p["score"]
        controls = ", ".join(f"{k} {percent(v)}" for k, v in s["controls"].items())
        print(f"| {p['name']} | {share(s)} | {percent(s['chance'])} | {percent(s['majority'])} | "
              f"{percent(s['balanced'])} | {controls} | {s['n']} |")  # fmt: skip
    together(results)
    likelihoods(results)


def together(results: dict) -> None:
    """Print what all conditions together reach, and by how much it is above each one alone."""
    if not results["all_sources"]:
        return
    print("\nFrom all other modalities at once, and how many points it is above one alone.\n")
    names = list(dict.fromkeys(d["source"] for d in results["matrix"]))
    rows = []
    for t in results["all_sources"]:
        over = [t["gain_over"].get(name) for name in names]
        rows.append([t["target"], share(t["class_consistency"])] + [
            f"{100 * d['value']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]" if d else ""
            for d in over
        ])  # fmt: skip
    rows_of(["made", "from all others", *(f"above {n} alone" for n in names)], rows)


BASELINES = ("uniform", "unigram", "bigram")


def rows_of(head: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    for row in [head, ["---"] * len(head), *rows]:
        print("| " + " | ".join(row) + " |")


def likelihoods(results: dict) -> None:
    """Print cross-entropy in nats and in bits, and the continuations."""
    entropies = results["cross_entropy"]
    names = list(dict.fromkeys(k for c in entropies for k in c["conditions"]))
    print("\nCross-entropy, nats a token, by what is given.\n")
    rows_of(
        ["modality", *BASELINES, *names],
        [
            [c["modality"], *(f"{c[k]:.2f}" for k in BASELINES)]
            + [f"{c['conditions'][n]:.2f}" if n in c["conditions"] else "" for n in names]
            for c in entropies
        ],
    )
    whole = [n for n in names if any(n in c["bits"] for c in entropies)]
    print("\nThe same in bits a picture, a second of sound or a text.\n")
    rows_of(
        ["modality", "a", *BASELINES, *whole],
        [
            [c["modality"], c["unit"]]
            + [f"{c['bits'][k]:.1f}" if k in c["bits"] else "" for k in (*BASELINES, *whole)]
            for c in entropies
        ],
    )
    if results["continuation"]:
        print("\nContinuation: nats a token of the second half, given the first half alone.\n")
        rows_of(
            ["modality", "frame by frame", "at once", *BASELINES, "controls", "n"],
            [
                [c["modality"], f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]"]
                + [f"{c['at_once']:.2f}"]
                + [f"{c[k]:.2f}" for k in BASELINES]
                + [", ".join(f"{k} {v:.2f}" for k, v in c["controls"].items()), str(c["n"])]
                for c in results["continuation"]
            ],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
