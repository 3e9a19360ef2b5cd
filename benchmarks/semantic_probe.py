"""How much of the class is in the ids of sounds: semantic tokens, acoustic tokens, log-mels.

python benchmarks/semantic_probe.py --clips runs/digits/clips --out probe.json
python benchmarks/semantic_probe.py --clips runs/animals/clips --split folds --downsample 8 \
    --vocab 256

A logistic regression reads how often each id occurs in a clip (a bag: no order), or mean and
deviation of each mel band; its penalty is chosen on a fifth of the train recordings.
All tokenizers have the same tokens a second and the same vocabulary, so the same bitrate, and are
fitted on the train clips of the split, a seed each. Splits: run (that of the clips), folds
(recordings, seed k holds back fold k), or speaker (seed k holds back the k-th speaker of the clips'
ids, such as digit-0_SPEAKER_7). Prints JSON with every seed, as soon as it is there.
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from nano4m.config.tokenizers import MelVQ, Semantic
from nano4m.data.clip_table import ClipTable, open_clips
from nano4m.media.mel import MelSpectrogram
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.mel_vq import MelVQTokenizer
from nano4m.tokenizers.semantic import SemanticTokenizer

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
LEAST = 11
"""Clips of a class from which it counts in the balanced accuracy."""


def bag(ids: torch.Tensor, vocab: int) -> np.ndarray:
    """Return how often each of the ids (n, T) occurs, (n, vocab)."""
    return np.stack([np.bincount(row, minlength=vocab) for row in ids.numpy()]).astype(np.float64)


def probe(
    x: np.ndarray, labels: np.ndarray, groups: np.ndarray, train: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the predictor of a probe that was fitted on the train rows."""
    inner, held = next(
        GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(train, None, groups[train])
    )

    def fitted(rows: np.ndarray, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=300).fit(x[rows], labels[rows])

    scores = [fitted(train[inner], c).score(x[train[held]], labels[train[held]]) for c in PENALTIES]
    model = fitted(train, PENALTIES[int(np.argmax(scores))])
    return lambda rows: model.predict(x[rows])


def splits(clips: ClipTable, labels: np.ndarray, kind: str, seeds: int) -> list[tuple]:
    """Return rows to fit on and rows to judge on, a pair a seed."""
    if kind == "folds":
        parts = StratifiedGroupKFold(seeds, shuffle=True, random_state=0)
        return list(parts.split(labels, labels, clips.groups))
    train, val = clips.rows("train"), clips.rows("val")
    if kind == "run":
        return [(train, val)] * seeds
    speakers = np.array([str(name).split("_")[1] for name in clips.clip_ids])
    names = sorted(set(speakers))[:seeds]
    every = np.concatenate([train, val])
    return [(train[speakers[train] != s], every[speakers[every] == s]) for s in names]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures: accuracies of each seed by what was read."""
    clips = open_clips(args.clips)
    has = np.flatnonzero(clips.present("sound"))
    if len(has) != len(clips):
        sys.exit("clips without sound")
    sounds = torch.cat(
        [clips.media("sound", rows) for rows in np.array_split(has, 1 + len(has) // 256)]
    )
    labels = np.array([clips.classes.index(label) for label in clips.labels])
    counted = np.flatnonzero(np.bincount(labels) >= LEAST)
    shared = {"vocab": args.vocab, "downsample": args.downsample, "augmentations": 8}
    found: dict[str, list[dict[str, float]]] = {}
    for seed, (train, val) in enumerate(splits(clips, labels, args.split, args.seeds)):
        for kind in args.kinds:
            started = time.process_time()
            x = features(kind, args, sounds, train, clips.sample_rate, shared, seed)
            seconds = time.process_time() - started
            guess = probe(x, labels, clips.groups, train, seed)(val)
            common = np.isin(labels[val], counted)
            found.setdefault(kind, []).append(
                {
                    "seed": seed,
                    "accuracy": float((guess == labels[val]).mean()),
                    "balanced": float(balanced_accuracy_score(labels[val][common], guess[common])),
                    "chance": float(np.bincount(labels[val]).max() / len(val)),
                    "clips": len(val),
                    "fit_and_encode_cpu_seconds": seconds,
                }
            )
            result = summary(found) | {"settings": {k: str(v) for k, v in vars(args).items()}}
            if args.out:
                args.out.write_text(json.dumps(result, indent=1))
            print(kind, found[kind][-1], file=sys.stderr, flush=True)
    return result


def features(
    kind: str, args: argparse.Namespace, sounds: torch.Tensor, train: np.ndarray,
    sample_rate: int, shared: dict[str, Any], seed: int,
) -> np.ndarray:  # fmt: skip
    """Return what the probe of a kind reads of every clip, (n, numbers)."""
    if kind == "logmel":
        mel = MelSpectrogram(sample_rate, 1024, 256, 64)
        x = torch.cat([mel(part) for part in sounds.split(128)])
        x = torch.cat([x.mean(2), x.std(2)], 1).numpy()
        return StandardScaler().fit(x[train]).transform(x)
    if kind == "mel_vq" and args.fitted and seed == 0:
        tokenizer: Any = load_tokenizer(args.fitted)
    elif kind == "mel_vq":
        tokenizer = MelVQTokenizer.fit(MelVQ(**shared), sounds[train], sample_rate, seed)
    else:
        # Only the encoder and its clusters decide the first level.
        rounds = int(kind.removeprefix("semantic").strip("-") or Semantic().rounds)
        section = Semantic(**shared | {"augmentations": 1}, codebooks=1, rounds=rounds, steps=1)
        tokenizer = SemanticTokenizer.fit(section, sounds[train], sample_rate, seed)
    ids = torch.cat([tokenizer.encode(part)[:, :, 0] for part in sounds.split(128)])
    return bag(ids, args.vocab)


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the means over seeds, with the seeds themselves."""
    means = {
        kind: {
            name: round(100 * float(np.mean([row[name] for row in rows])), 1)
            for name in ("accuracy", "balanced", "chance")
        }
        | {"seeds": len(rows)}
        for kind, rows in found.items()
    }
    return {"percent": means, "seeds": found}


def main() -> None:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of a clips table")
    parser.add_argument("--split", choices=("run", "folds", "speaker"), default="run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=512)
    parser.add_argument("--downsample", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=["logmel", "semantic", "mel_vq"],
                        help="logmel, mel_vq, semantic, or semantic-ROUNDS")  # fmt: skip
    parser.add_argument("--fitted", type=Path, help="a fitted mel_vq, in place of that of seed 0")
    parser.add_argument("--out", type=Path, help="file that is written after every seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # A fold without a class of few recordings, and fits that end at the most iterations.
    warnings.simplefilter("ignore")
    print(json.dumps(run(args), indent=1))


if __name__ == "__main__":
    main()
