"""Cross-entropy of each modality by inputs, with n-gram baselines.

All tokens of the target are predicted at once; a text token by token, with the earlier ones as
inputs.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from nano4m.evaluate.likelihood_evaluator import HALF, SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.ngram import NgramModel
from nano4m.evaluate.results import CrossEntropy
from nano4m.evaluate.stats import derangement
from nano4m.modalities import Layout, Modality

OWN_HALF = "half of itself"
"""Condition whose inputs are a part of the target itself."""

UNITS: dict[Layout, str] = {"grid": "picture", "codebooks": "second", "text": "text"}
"""Unit in which the bits of a modality are reported, independent of its vocabulary."""


def units_of(modality: Modality, clips: int, window_seconds: float) -> float:
    """Return the number of units of a modality's layout, see ``UNITS``, in some clips."""
    return clips * window_seconds if modality.layout == "codebooks" else float(clips)


def half_of_itself(evaluator: LikelihoodEvaluator, target: int) -> tuple[float, int]:
    """Return the nats and number of tokens of one half of each clip's target, given the other.

    The half is drawn at random for each clip. A text's input is its first half, the only half that
    is ever input.
    """
    span = evaluator.tokens.slices[target]
    inputs = torch.zeros_like(evaluator.valid_BL)
    if evaluator.tokens.modalities[target].is_text:
        half_B = evaluator.valid_BL[:, span].sum(1, keepdim=True) // 2
        inputs[:, span] = torch.arange(span.stop - span.start) < half_B
    else:
        drawn = evaluator.rng(HALF, target).random((len(evaluator), span.stop - span.start))
        rank = torch.from_numpy(drawn.argsort(1).argsort(1))
        inputs[:, span] = rank < (span.stop - span.start) // 2
    targets_BT = evaluator.valid_BL[:, span] & ~inputs[:, span]
    log_p = evaluator.own(target, evaluator.ids_BL * inputs, inputs, targets_BT)
    return float(-log_p.sum()), int(targets_BT.sum())


def _conditions(evaluator: LikelihoodEvaluator, target: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return, by name, functions that compute log p of each clip's own target, (B,)."""
    others = [i for i in range(len(evaluator.names)) if i != target]
    is_text = evaluator.tokens.modalities[target].is_text
    shuffled = derangement(len(evaluator), evaluator.rng(SHUFFLE, target))

    def from_sources(sources: list[int], rows: np.ndarray | None = None) -> np.ndarray:
        if is_text or rows is not None or len(sources) > 1:
            return evaluator.own(target, *evaluator.inputs(sources, rows))
        return (
            np.diag(evaluator.pairwise(sources[0], target))
            if sources
            else evaluator.unconditional(target)
        )

    return (
        {"nothing": partial(from_sources, [])}
        | {evaluator.names[source]: partial(from_sources, [source]) for source in others}
        | {"all others": partial(from_sources, others)}
        | {"shuffled others": partial(from_sources, others, shuffled)}
    )


def cross_entropy(
    evaluator: LikelihoodEvaluator, counts: NgramModel, target: int, window_seconds: float
) -> CrossEntropy:
    """Return the cross-entropy of one modality on the clips of ``evaluator``.

    Args:
        evaluator: Model and clips.
        counts: N-gram baseline of the modality, from the train split.
        target: Index of the modality.
        window_seconds: Length of a sound.
    """
    modality, span = evaluator.tokens.modalities[target], evaluator.tokens.slices[target]
    valid = evaluator.valid_BL[:, span].numpy()
    count = int(valid.sum())
    baselines = counts.log_probs(evaluator.ids_BL[:, span].numpy(), valid)
    nats = {
        "uniform": count * math.log(counts.choices),
        "unigram": float(-baselines.unigram.sum()),
        "bigram": float(-baselines.bigram.sum()),
    }
    targets = {name: float(-own().sum()) for name, own in _conditions(evaluator, target).items()}
    units = units_of(modality, len(evaluator), window_seconds)
    half, half_count = half_of_itself(evaluator, target)
    conditions = {name: value / count for name, value in targets.items()}
    conditions = {"nothing": conditions.pop("nothing"), OWN_HALF: half / half_count} | conditions
    return CrossEntropy(
        modality=modality.name,
        **{name: value / count for name, value in nats.items()},
        conditions=conditions,
        tokens=count,
        unit=UNITS[modality.layout],
        bits={name: v / units / math.log(2) for name, v in (nats | targets).items()},
    )
