"""Evaluation of a run: all probes on the same clips, into ``results.json``, ``generated.npz``."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano4m.batch import TokenSequence
from nano4m.clip_table import ClipTable
from nano4m.config import Config
from nano4m.errors import UserError
from nano4m.evaluate import coherence as matrix
from nano4m.evaluate.bench import CLIPS, RESAMPLE, Bench
from nano4m.evaluate.classify import classification, conditions
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.judges import Judge, train_judge
from nano4m.evaluate.results import Judge as JudgeResult
from nano4m.evaluate.results import Probe, Results
from nano4m.evaluate.retrieval import pairs, retrieval
from nano4m.evaluate.stats import score
from nano4m.modalities import FRAMED
from nano4m.model.fourm import FourM
from nano4m.precision import prepare_matmul, resolve_device
from nano4m.progress import bar, say
from nano4m.table import TokenTable
from nano4m.tokenizers.base import Tokenizer


def choose_clips(
    rows: np.ndarray, labels: np.ndarray, videos: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Return at most ``most`` of ``rows``, ascending, the same number of each class where possible.

    A class gives one clip of each recording before it gives a second one: clips that share a
    recording are not independent, and intervals take them to be.

    Args:
        rows: Row numbers (n,).
        labels, videos: Class and recording of each of them, string (n,).
    """
    order = rng.permutation(len(rows))
    seen: dict[tuple[str, str], int] = {}
    turn = np.empty(len(rows), dtype=np.int64)
    for i in order:
        key = (str(labels[i]), str(videos[i]))
        turn[i] = seen[key] = seen.get(key, -1) + 1
    order = order[np.argsort(turn[order], kind="stable")]
    rank = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.sort(rows[order[np.argsort(rank[order], kind="stable")][:most]])


def clip_rows(table: TokenTable, clips: ClipTable, rows: np.ndarray) -> np.ndarray:
    """Return the rows of the clips table that hold the clips of ``rows`` of the token table.

    Raises:
        UserError: A clip is missing there, or has another label.
    """
    number = {clip: i for i, clip in enumerate(clips.clip_ids.tolist())}
    wanted = table.clip_ids[rows].tolist()
    missing = [clip for clip in wanted if clip not in number]
    if missing:
        raise UserError(
            f"{len(missing)} clips of the token table (first {missing[0]!r}) are not in "
            f"{clips.folder}; tokenise again: nano4m table PRESET --out OUT --overwrite"
        )
    found = np.array([number[clip] for clip in wanted], dtype=np.int64)
    differ = np.flatnonzero(clips.labels[found] != table.labels[rows])
    if len(differ):
        clip = wanted[int(differ[0])]
        raise UserError(
            f"clip {clip!r} has another label in {clips.folder} than in the token table; "
            "tokenise again: nano4m table PRESET --out OUT --overwrite"
        )
    return found


def build_bench(config: Config, clips: ClipTable, table: TokenTable, model: FourM) -> Bench:
    """Choose the judged clips and gather their tokens.

    Raises:
        UserError: Fewer than two clips in the split, or none to compare with in the train split.
    """
    split = config.evaluate.split
    rows = table.rows(split)
    if len(rows) < 2:
        raise UserError(
            f"the {split} split has {len(rows)} clips, a probe needs two or more; choose another "
            "with --evaluate.split, or make more clips"
        )
    if not len(table.rows("train")):
        raise UserError("the train split has no clips; baselines and judges are made from them")
    rng = np.random.default_rng([config.seed, CLIPS])
    videos = clips.video_ids[clip_rows(table, clips, rows)]
    rows = choose_clips(rows, table.labels[rows], videos, config.evaluate.clips, rng)
    ids, valid = table.gather(rows, None)
    return Bench(
        model=model,
        tokens=TokenSequence(table.modalities),
        rows=rows,
        ids_BL=torch.from_numpy(ids),
        valid_BL=torch.from_numpy(valid),
        labels=np.searchsorted(table.classes, table.labels[rows]),
        classes=table.classes,
        batch_size=config.generate.batch_size,
        seed=config.seed,
        resamples=config.evaluate.bootstrap,
    )


def train_judges(
    config: Config,
    bench: Bench,
    clips: ClipTable,
    tokenizers: Mapping[str, Tokenizer],
    table: TokenTable,
) -> tuple[dict[str, Judge], list[JudgeResult]]:
    """Train a judge for each modality and score it on the judged clips."""
    judges, results = {}, []
    train = table.rows("train")
    train_labels = np.searchsorted(bench.classes, table.labels[train])
    train_clips, judged_clips = clip_rows(table, clips, train), clip_rows(table, clips, bench.rows)
    for index, modality in enumerate(bench.tokens.modalities):
        kind, tokenizer = modality.media, tokenizers[modality.name]
        judge = train_judge(
            kind, clips, train_clips, train_labels, len(bench.classes),
            config.evaluate.judge_steps, config.seed,
        )  # fmt: skip
        real, back = [], []
        for part in np.array_split(judged_clips, -(-len(bench) // matrix.DECODE_BATCH)):
            media = clips.media(kind, part, frame=0 if kind in FRAMED else None)
            real.append(media)
            back.append(tokenizer.decode(tokenizer.encode(media)))
        round_trip = matrix.predict(judge, back) == bench.labels
        figure = score(
            matrix.predict(judge, real) == bench.labels, bench.labels, len(bench.classes),
            bench.rng(RESAMPLE, index), bench.resamples, upper=float(round_trip.mean()),
        )  # fmt: skip
        judges[modality.name] = judge
        results.append(JudgeResult(modality=modality.name, accuracy=figure))
    return judges, results


def evaluate_run(
    config: Config,
    clips: ClipTable,
    tokenizers: Mapping[str, Tokenizer],
    table: TokenTable,
    model: FourM,
    folder: Path,
    context: Mapping[str, Any],
) -> Results:
    """Run every probe and write ``folder/results.json`` and ``folder/generated.npz``.

    Args:
        config: Of the run.
        clips, table: The same clips as media and as tokens.
        tokenizers: By modality.
        model: Trained on ``table``; it is moved to the device of ``config.train``.
        folder: Of this stage; it exists.
        context: ``provenance``, ``clips``, ``tokenizers``, ``training`` and ``seconds`` of Results,
            and perhaps ``preset``; the time taken is added to ``seconds`` as "evaluate".

    Returns:
        What was written. In ``generated.npz``: "clip_ids", and what was made, uint16 (n, length),
        as "<source>-><target>". A run of one class has no judges, matrix and classification.

    Raises:
        UserError: Too few clips, or tables that do not belong together.
    """
    started = time.perf_counter()
    prepare_matmul()
    bench = build_bench(config, clips, table, model.to(resolve_device(config.train.device)).eval())
    train = table.rows("train")
    text = next((i for i, m in enumerate(bench.tokens.modalities) if m.is_text), None)
    judges: dict[str, Judge] = {}
    judged: list[JudgeResult] = []
    probes: list[Probe] = []
    if len(bench.classes) > 1:
        judges, judged = train_judges(config, bench, clips, tokenizers, table)
    else:
        say("evaluate: one class only, nothing to classify")
    with bar("cross-entropy", len(bench.names), "modality") as progress:
        entropies = cross_entropy(bench, table, train, progress.advance)
    if text is not None and judges:
        with bar("classify", len(conditions(bench, text)), "condition") as progress:
            probes += classification(bench, table, train, text, progress.advance)
    with bar("retrieve", len(pairs(bench)), "pair") as progress:
        probes += retrieval(bench, progress.advance)
    with bar("generate", len(matrix.directions(bench)), "direction") as progress:
        cells, made = matrix.coherence(
            bench, config.generate, tokenizers, judges,
            {j.modality: j.accuracy.upper or 0.0 for j in judged}, progress.advance,
        )  # fmt: skip
    made["clip_ids"] = table.clip_ids[bench.rows]
    np.savez_compressed(folder / "generated.npz", allow_pickle=False, **made)
    results = Results(
        preset=context.get("preset", config.preset),
        config=config.model_dump(mode="json"),
        provenance=context["provenance"],
        split=config.evaluate.split,
        classes=bench.classes,
        clips=context["clips"],
        tokenizers=context["tokenizers"],
        training=context["training"],
        cross_entropy=entropies,
        judges=judged,
        probes=probes,
        matrix=cells,
        seconds=dict(context["seconds"]) | {"evaluate": round(time.perf_counter() - started, 1)},
    )
    part = folder / "results.json.part"
    part.write_text(results.model_dump_json(indent=1) + "\n")
    os.replace(part, folder / "results.json")
    return results
