"""The any-to-any matrix: is what the model makes from one modality of the clip's class?

Each target is generated from the whole of one source alone, decoded by its tokenizer and shown to a
judge that was trained on real media.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.config import GenerateConfig
from nano4m.evaluate.bench import GENERATE, RESAMPLE, SHUFFLE, Bench
from nano4m.evaluate.diversity import diversity
from nano4m.evaluate.judges import Judge
from nano4m.evaluate.results import Direction
from nano4m.evaluate.stats import derangement, score
from nano4m.generate import generate
from nano4m.modalities import TEXT_END, Modality
from nano4m.tokenizers.base import Tokenizer

DECODE_BATCH = 64


def decode(tokenizer: Tokenizer, modality: Modality, ids: Tensor) -> list[Any]:
    """Return the media of ids (n, length), in parts of at most DECODE_BATCH."""
    return [tokenizer.decode(part.view(-1, *modality.shape)) for part in ids.split(DECODE_BATCH)]


def predict(judge: Judge, parts: list[Any]) -> np.ndarray:
    """Return the judge's class of each item of all parts, int64 (n,)."""
    return np.concatenate([judge.predict(part) for part in parts])


def directions(bench: Bench) -> list[tuple[int, int]]:
    """Return every ordered pair (source, target) of different modalities."""
    count = len(bench.names)
    return [(s, t) for s in range(count) for t in range(count) if s != t]


def generate_from(bench: Bench, source: int, target: int, config: GenerateConfig) -> Tensor:
    """Return ids of ``target`` made from each clip's ``source`` alone, int64 (B, length)."""
    span = bench.tokens.slices[target]
    seeds = np.random.SeedSequence([bench.seed, GENERATE, source, target])
    ids, given = generate(
        bench.model,
        bench.tokens,
        *bench.given([source]),
        [bench.names[target]],
        config,
        (seeds.generate_state(len(bench), np.uint64) >> 1).tolist(),
    )
    return torch.where(given, ids, TEXT_END)[:, span]


def real_ids(bench: Bench, target: int) -> np.ndarray:
    """Return each clip's own ids of ``target``, int64 (B, length)."""
    span = bench.tokens.slices[target]
    return torch.where(bench.valid_BL, bench.ids_BL, TEXT_END)[:, span].numpy()


def coherence(
    bench: Bench,
    config: GenerateConfig,
    tokenizers: Mapping[str, Tokenizer],
    judges: Mapping[str, Judge],
    upper: Mapping[str, float],
    advance: Callable[[], None],
) -> tuple[list[Direction], dict[str, np.ndarray]]:
    """Fill the matrix.

    Args:
        bench: Model and clips.
        config: Of generation.
        tokenizers, judges: By modality; without judges (a run of one class) only ids are made.
        upper: How often each judge is right on round trips of real media, by modality.
        advance: Called after each direction.

    Returns:
        The cells, and "<source>-><target>" -> uint16 ids (B, length) of what was made.
    """
    cells, made = [], {}
    for source, target in directions(bench):
        names = bench.names[source], bench.names[target]
        ids = generate_from(bench, source, target, config)
        made[f"{names[0]}->{names[1]}"] = ids.numpy().astype(np.uint16)
        if names[1] in judges:
            parts = decode(tokenizers[names[1]], bench.tokens.modalities[target], ids)
            found = predict(judges[names[1]], parts)
            others = derangement(len(bench), bench.rng(SHUFFLE, GENERATE, source, target))
            cell = score(
                found == bench.labels,
                bench.labels,
                len(bench.classes),
                bench.rng(RESAMPLE, GENERATE, source, target),
                bench.resamples,
                upper=upper[names[1]],
                controls={"shuffled": float((found == bench.labels[others]).mean())},
            )
            modality, real = bench.tokens.modalities[target], real_ids(bench, target)
            labels = bench.labels.tolist()
            varied = diversity(ids.numpy(), labels, real, labels, modality)
            cells.append(
                Direction(source=names[0], target=names[1], coherence=cell, diversity=varied)
            )
        advance()
    return cells, made
