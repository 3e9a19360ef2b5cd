"""The any-to-any matrix: class consistency of what the model generates from one modality of a clip.

Each target is generated from all tokens of one source, and once from all sources together, decoded
by its tokenizer and classified by a classifier trained on real media. Class consistency is the
share of clips whose class it predicts (cross-modal coherence in the literature).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.compute.precision import multiplies_bf16
from nano4m.config.generation import GenerateConfig
from nano4m.evaluate.classifiers import Classifier
from nano4m.evaluate.controls import shuffled_classes
from nano4m.evaluate.diversity import diversity
from nano4m.evaluate.likelihood_evaluator import (
    GENERATE,
    LEAST_CLIPS,
    SHUFFLE,
    LikelihoodEvaluator,
)
from nano4m.evaluate.probe_results import Score
from nano4m.evaluate.results import AllSources, Direction
from nano4m.evaluate.stats import derangement, difference, score
from nano4m.evaluate.task_results import Recall, compute
from nano4m.generation.sampler import generate
from nano4m.modalities import TEXT_END, Modality
from nano4m.tokenizers.base import Tokenizer

DECODE_BATCH = 16
"""Sounds decoded at once: their phase reconstruction then fits the cache of a core."""
DECODE_BATCH_GPU = 256
"""Media decoded at once on a GPU."""
GENERATED_AT_ONCE = 1024
"""Clips for which ids are generated, and stored, together: a stop costs no more than that."""


def decode_batch(tokenizer: Tokenizer) -> int:
    """Return how many media a tokenizer decodes at once on its device."""
    device = getattr(tokenizer, "device", None)
    return DECODE_BATCH if device is None or device.type == "cpu" else DECODE_BATCH_GPU


def decode(tokenizer: Tokenizer, modality: Modality, ids: Tensor) -> list[Any]:
    """Return the media of ids (n, length) on the tokenizer's device, in parts of ``decode_batch``.

    A tokenizer with a ``device`` gets the ids in one transfer.
    """
    device = getattr(tokenizer, "device", None)
    whole = ids if device is None else ids.to(device)
    return [
        tokenizer.decode(part.view(-1, *modality.shape))
        for part in whole.split(decode_batch(tokenizer))
    ]


def predict(classifier: Classifier, parts: list[Any]) -> np.ndarray:
    """Return the classifier's class of each item of all parts, int64 (n,)."""
    return np.concatenate([classifier.predict(part) for part in parts])


def generate_from(
    evaluator: LikelihoodEvaluator,
    sources: Sequence[int],
    target: int,
    config: GenerateConfig,
    clips: slice = slice(None),
) -> Tensor:
    """Return ids of ``target`` generated from each clip's ``sources`` only, int64 (B, length).

    ``clips`` are those for which it is generated; what is drawn for a clip depends on its place
    among all of them.
    """
    span = evaluator.tokens.slices[target]
    seeds = np.random.SeedSequence([evaluator.seed, GENERATE, *sources, target])
    known_ids, known = evaluator.inputs(sources)
    ids, inputs = generate(
        evaluator.model,
        evaluator.tokens,
        known_ids[clips],
        known[clips],
        [evaluator.names[target]],
        config,
        (seeds.generate_state(len(evaluator), np.uint64) >> 1)[clips].tolist(),
    )
    return torch.where(inputs, ids, TEXT_END)[:, span]


def real_ids(evaluator: LikelihoodEvaluator, target: int) -> np.ndarray:
    """Return each clip's own ids of ``target``, int64 (B, length)."""
    span = evaluator.tokens.slices[target]
    return torch.where(evaluator.valid_BL, evaluator.ids_BL, TEXT_END)[:, span].numpy()


def sampling_precision(device: torch.device) -> torch.autocast:
    """Return the context for sampling: bf16 where the machine multiplies it natively.

    It is twice as fast; a few tokens in a hundred differ, as with another seed. Likelihoods are
    always computed in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device))


def directions_into(
    evaluator: LikelihoodEvaluator,
    target: int,
    config: GenerateConfig,
    tokenizers: Mapping[str, Tokenizer],
    classifier: Classifier | None,
    round_trip: float | None,
    recall: Recall = compute,
) -> tuple[list[Direction], AllSources | None, dict[str, np.ndarray]]:
    """Return one column of the matrix: one target from each source, and from all of them.

    Args:
        evaluator: Model and clips.
        target: Index of the target modality.
        config: Generation settings.
        tokenizers: By modality.
        classifier: Of the target; None (a run of one class): cells have diversity alone.
        round_trip: Accuracy of the classifier on tokenizer round trips of real media.
        recall: Returns ids and classes of a direction, stored by an earlier attempt or made now.

    Returns:
        The cells, the result of all sources together (with two or more), and "<source>-><target>"
        -> generated ids, uint16 (B, length), zeros of the clips that lack either.
    """
    cells, made = [], {}
    name, modality = evaluator.names[target], evaluator.tokens.modalities[target]
    alone: dict[int, np.ndarray] = {}
    sources = [i for i in range(len(evaluator.names)) if i != target]

    def classified(
        part: LikelihoodEvaluator, inputs: Sequence[int], title: str, ids: Tensor
    ) -> tuple[np.ndarray, Score]:
        assert classifier is not None
        found = recall(
            f"classified-{title}-{name}",
            lambda: predict(classifier, decode(tokenizers[name], modality, ids)),
        )
        others = derangement(len(part), part.rng(SHUFFLE, GENERATE, *inputs, target))
        clusters = part.clusters([*inputs, target])
        shuffled = shuffled_classes(found, part.labels, others, clusters)
        return found == part.labels, score(
            found == part.labels,
            part.labels,
            len(part.classes),
            clusters,
            round_trip=round_trip,
            controls={"shuffled": shuffled},
        )

    def drawn(part: LikelihoodEvaluator, inputs: Sequence[int], title: str) -> Tensor:
        def make(clips: slice) -> np.ndarray:
            with sampling_precision(evaluator.model.device):
                ids = generate_from(part, inputs, target, config, clips)
            return ids.numpy().astype(np.uint16)

        found = []
        for begin in range(0, len(part), GENERATED_AT_ONCE):
            clips = slice(begin, begin + GENERATED_AT_ONCE)
            found.append(recall(f"generated-{title}-{name}-{begin}", partial(make, clips)))
        return torch.from_numpy(np.concatenate(found).astype(np.int64))

    for source in sources:
        clips, part = evaluator.clips_with(source, target), evaluator.of(source, target)
        whole = np.zeros((len(evaluator), modality.length), dtype=np.uint16)
        made[f"{evaluator.names[source]}->{name}"] = whole
        if len(part) < LEAST_CLIPS:
            continue
        title = evaluator.names[source]
        ids = drawn(part, [source], title)
        whole[clips] = ids.numpy()
        cell = None
        if classifier is not None:
            alone[source], cell = classified(part, [source], title, ids)
        labels, real = part.labels.tolist(), real_ids(part, target)
        varied = diversity(ids.numpy(), labels, real, labels, modality)
        cells.append(
            Direction(
                source=evaluator.names[source],
                target=name,
                class_consistency=cell,
                diversity=varied,
            )
        )
    clips = evaluator.clips_for(sources, target)
    if classifier is None or len(sources) < 2 or len(clips) < LEAST_CLIPS:
        return cells, None, made
    part = evaluator.take(clips)
    hits, cell = classified(part, sources, "all", drawn(part, sources, "all"))
    clusters = part.clusters([*sources, target])
    gain_over = {}
    for source, fewer in alone.items():  # on the clips that have this source too
        own = part.clips_with(source)
        gain_over[evaluator.names[source]] = difference(hits[own], fewer, clusters[own])
    return cells, AllSources(target=name, class_consistency=cell, gain_over=gain_over), made
