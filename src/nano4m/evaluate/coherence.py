"""The any-to-any matrix: is what the model makes from one modality of the clip's class?

Each target is generated from the whole of one source alone, and once from all of them together,
decoded by its tokenizer and shown to a judge that was trained on real media.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.compute.precision import multiplies_bf16
from nano4m.config.run import GenerateConfig
from nano4m.evaluate.bench import GENERATE, RESAMPLE, SHUFFLE, Bench
from nano4m.evaluate.diversity import diversity
from nano4m.evaluate.judges import Judge
from nano4m.evaluate.results import Difference, Direction, Score, Together
from nano4m.evaluate.stats import bootstrap_difference, derangement, score
from nano4m.generation.sampler import generate
from nano4m.modalities import TEXT_END, Modality
from nano4m.tokenizers.base import Tokenizer

DECODE_BATCH = 16
"""Sounds at once: what phase reconstruction holds of them then fits the cache of a core."""
DECODE_BATCH_GPU = 256
"""Media at once on a GPU, which many keep busy."""


def decode_batch(tokenizer: Tokenizer) -> int:
    """Return how many media a tokenizer makes at once where it is."""
    device = getattr(tokenizer, "device", None)
    return DECODE_BATCH if device is None or device.type == "cpu" else DECODE_BATCH_GPU


def decode(tokenizer: Tokenizer, modality: Modality, ids: Tensor) -> list[Any]:
    """Return the media of ids (n, length) on the tokenizer's device, in parts of ``decode_batch``.

    A tokenizer that says where it is gets the ids there, in one transfer.
    """
    device = getattr(tokenizer, "device", None)
    whole = ids if device is None else ids.to(device)
    return [
        tokenizer.decode(part.view(-1, *modality.shape))
        for part in whole.split(decode_batch(tokenizer))
    ]


def predict(judge: Judge, parts: list[Any]) -> np.ndarray:
    """Return the judge's class of each item of all parts, int64 (n,)."""
    return np.concatenate([judge.predict(part) for part in parts])


def generate_from(
    bench: Bench, sources: Sequence[int], target: int, config: GenerateConfig
) -> Tensor:
    """Return ids of ``target`` made from each clip's ``sources`` alone, int64 (B, length)."""
    span = bench.tokens.slices[target]
    seeds = np.random.SeedSequence([bench.seed, GENERATE, *sources, target])
    ids, given = generate(
        bench.model,
        bench.tokens,
        *bench.given(sources),
        [bench.names[target]],
        config,
        (seeds.generate_state(len(bench), np.uint64) >> 1).tolist(),
    )
    return torch.where(given, ids, TEXT_END)[:, span]


def real_ids(bench: Bench, target: int) -> np.ndarray:
    """Return each clip's own ids of ``target``, int64 (B, length)."""
    span = bench.tokens.slices[target]
    return torch.where(bench.valid_BL, bench.ids_BL, TEXT_END)[:, span].numpy()


def sampling_precision(device: torch.device) -> torch.autocast:
    """Return the context in which samples are drawn: bf16 where the machine multiplies it natively.

    Twice as fast; a few tokens in a hundred come out otherwise, as with another seed. Likelihoods
    are always asked for in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device))


def directions_into(
    bench: Bench,
    target: int,
    config: GenerateConfig,
    tokenizers: Mapping[str, Tokenizer],
    judge: Judge | None,
    upper: float | None,
) -> tuple[list[Direction], Together | None, dict[str, np.ndarray]]:
    """Fill one column of the matrix: one target from each source, and from all of them.

    Args:
        bench: Model and clips.
        target: Index of what is made.
        config: Of generation.
        tokenizers: By modality.
        judge: Of the target; without one (a run of one class) only ids are made.
        upper: How often the judge is right on round trips of real media.

    Returns:
        The cells, what all sources together reach (with two or more), and
        "<source>-><target>" -> uint16 ids (B, length) of what was made.
    """
    cells, made = [], {}
    name, modality = bench.names[target], bench.tokens.modalities[target]
    labels, real = bench.labels.tolist(), real_ids(bench, target)
    alone: dict[str, np.ndarray] = {}
    sources = [i for i in range(len(bench.names)) if i != target]

    def judged(given: Sequence[int], ids: Tensor) -> tuple[np.ndarray, Score]:
        assert judge is not None
        found = predict(judge, decode(tokenizers[name], modality, ids))
        others = derangement(len(bench), bench.rng(SHUFFLE, GENERATE, *given, target))
        return found == bench.labels, score(
            found == bench.labels,
            bench.labels,
            len(bench.classes),
            bench.rng(RESAMPLE, GENERATE, *given, target),
            bench.resamples,
            upper=upper,
            controls={"shuffled": float((found == bench.labels[others]).mean())},
        )

    def drawn(given: Sequence[int]) -> Tensor:
        with sampling_precision(bench.model.device):
            return generate_from(bench, given, target, config)

    for source in sources:
        ids = drawn([source])
        made[f"{bench.names[source]}->{name}"] = ids.numpy().astype(np.uint16)
        if judge is None:
            continue
        alone[bench.names[source]], cell = judged([source], ids)
        varied = diversity(ids.numpy(), labels, real, labels, modality)
        cells.append(
            Direction(source=bench.names[source], target=name, coherence=cell, diversity=varied)
        )
    if judge is None or len(sources) < 2:
        return cells, None, made
    hits, cell = judged(sources, drawn(sources))
    rng = bench.rng(RESAMPLE, GENERATE, len(bench.names), target)
    over = {
        source: Difference(**bootstrap_difference(hits, fewer, rng, bench.resamples))
        for source, fewer in alone.items()
    }
    return cells, Together(target=name, coherence=cell, over=over), made
