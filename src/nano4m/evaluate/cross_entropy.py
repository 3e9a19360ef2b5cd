"""Cross-entropy of each modality by inputs, with the n-gram baselines that are given the same.

The tokens of each codebook of the target are predicted at once, with those of the earlier codebooks
as inputs (all codebooks at once where they are decoded together); a text token by token, with the
earlier ones as inputs.

Shapes: B evaluated clips, T slots of the target.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from nano4m.evaluate.likelihood_evaluator import HALF, LEAST_CLIPS, SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.likelihood_results import Baseline, CrossEntropy
from nano4m.evaluate.ngram import BaselineName, NgramModel, Sequences
from nano4m.evaluate.stats import derangement
from nano4m.evaluate.task_results import Recall, compute
from nano4m.modalities import Layout, Modality

OWN_HALF = "half of itself"
"""Condition whose inputs are a part of the target itself."""

UNITS: dict[Layout, str] = {"grid": "picture", "codebooks": "second", "text": "text"}
"""Unit in which the bits of a modality are reported, independent of its vocabulary."""


def units_of(modality: Modality, clips: int, window_seconds: float) -> float:
    """Return the number of units of a modality's layout, see ``UNITS``, in some clips."""
    return clips * window_seconds if modality.layout == "codebooks" else float(clips)


def half_inputs(evaluator: LikelihoodEvaluator, target: int) -> torch.Tensor:
    """Return which tokens of each clip's target are inputs of the other half, bool (B, T).

    The half is drawn at random for each clip: of a sound that is decoded in levels whole frames, as
    a given part of one has all its codebooks. A text's input is its first half, the only half that
    is ever input.
    """
    span = evaluator.tokens.slices[target]
    length = span.stop - span.start
    if evaluator.tokens.modalities[target].is_text:
        half_B = evaluator.valid_BL[:, span].sum(1, keepdim=True) // 2
        return torch.arange(length) < half_B
    units = length // evaluator.levels(target)
    drawn = evaluator.rng(HALF, target).random((len(evaluator), units))
    rank = torch.from_numpy(drawn.argsort(1).argsort(1))
    return (rank < units // 2).repeat_interleave(length // units, 1)


def half_of_itself(evaluator: LikelihoodEvaluator, target: int) -> tuple[float, int]:
    """Return the nats and number of tokens of one half of each clip's target, given the other."""
    span = evaluator.tokens.slices[target]
    inputs = torch.zeros_like(evaluator.valid_BL)
    inputs[:, span] = half_inputs(evaluator, target)
    targets_BT = evaluator.valid_BL[:, span] & ~inputs[:, span]
    log_p = evaluator.own(target, evaluator.ids_BL * inputs, inputs, targets_BT)
    return float(-log_p.sum()), int(targets_BT.sum())


def own_log_probs(
    evaluator: LikelihoodEvaluator, counts: NgramModel, target: int
) -> dict[BaselineName, np.ndarray]:
    """Return the log-probabilities of each clip's target by baseline, float64 (B, T)."""
    span = evaluator.tokens.slices[target]
    ids, valid = evaluator.ids_BL[:, span].numpy(), evaluator.valid_BL[:, span].numpy()
    return counts.log_probs(Sequences(ids, valid, evaluator.labels))


def baseline(name: str, log_p_BT: np.ndarray, chosen_BT: np.ndarray, choices: int) -> Baseline:
    """Return a baseline on some tokens; uniform, and named so, where that is better."""
    value, uniform = float(-log_p_BT[chosen_BT].mean()), math.log(choices)
    return Baseline(value=value, used=name) if value <= uniform else uniform_baseline(choices)


def uniform_baseline(choices: int) -> Baseline:
    """Return the cross-entropy of equal probabilities."""
    return Baseline(value=math.log(choices), used="uniform")


def _same_information(
    evaluator: LikelihoodEvaluator,
    counts: NgramModel,
    target: int,
    log_probs: dict[BaselineName, np.ndarray],
) -> dict[str, dict[str, Baseline]]:
    """Return, by condition and name, the baselines that are given what the model is given."""
    modalities = evaluator.tokens.modalities
    valid = evaluator.valid_BL[:, evaluator.tokens.slices[target]].numpy()
    inputs = half_inputs(evaluator, target).numpy()
    uniform = uniform_baseline(counts.choices)
    if modalities[target].is_text:
        bigram = log_probs["bigram"]
        return {
            "nothing": {
                "uniform": uniform,
                "bigram": baseline("bigram", bigram, valid, counts.choices),
            },
            OWN_HALF: {"bigram": baseline("bigram", bigram, valid & ~inputs, counts.choices)},
        }
    seen = counts.previous(inputs)
    half = np.where(seen, log_probs["bigram"], log_probs["unigram"])
    found = {
        "nothing": {
            "uniform": uniform,
            "unigram": baseline("unigram", log_probs["unigram"], valid, counts.choices),
        },
        OWN_HALF: {"bigram": baseline("bigram", half, valid & ~inputs, counts.choices)},
    }
    texts = [m.name for m in modalities if m.is_text]
    of_class = log_probs.get("class unigram")
    if texts and of_class is not None:
        others = [i for i, m in enumerate(modalities) if m is not modalities[target]]
        given = {name: [evaluator.tokens.index(name)] for name in texts} | {"all others": others}
        for name, sources in given.items():
            clips = evaluator.clips_for(sources, target)
            if len(clips) >= LEAST_CLIPS:
                own = baseline("class unigram", of_class[clips], valid[clips], counts.choices)
                found[name] = {"class unigram": own}
    return found


class _Condition(NamedTuple):
    """Nats and tokens of the target, and clips, of one condition."""

    nats: float
    tokens: int
    clips: int


def _from_sources(
    evaluator: LikelihoodEvaluator, target: int, sources: list[int], is_shuffled: bool = False
) -> _Condition | None:
    """Return the figure of the clips that have any of ``sources``; None of too few."""
    clips = evaluator.clips_for(sources, target)
    if len(clips) < LEAST_CLIPS:
        return None
    part = evaluator.of(*sources, target) if len(sources) == 1 else evaluator.take(clips)
    rows = derangement(len(part), part.rng(SHUFFLE, target)) if is_shuffled else None
    log_p = part.own_given(target, sources, rows)
    tokens = int(part.valid_BL[:, part.tokens.slices[target]].sum())
    return _Condition(float(-log_p.sum()), tokens, len(part))


def _conditions(
    evaluator: LikelihoodEvaluator, target: int, recall: Recall
) -> dict[str, _Condition]:
    """Return the figure of each condition by name, but of those with too few clips."""
    others = [i for i in range(len(evaluator.names)) if i != target]

    def figure(title: str, sources: list[int], is_shuffled: bool = False) -> _Condition | None:
        def make() -> np.ndarray:
            own = _from_sources(evaluator, target, sources, is_shuffled)
            return np.array([] if own is None else own, dtype=np.float64)

        found = recall(f"entropy-{title}-{evaluator.names[target]}", make)
        return _Condition(float(found[0]), *map(int, found[1:])) if len(found) else None

    found = {"nothing": figure("nothing", [])}
    found |= {evaluator.names[i]: figure(evaluator.names[i], [i]) for i in others}
    found["all others"] = figure("all", others)
    found["shuffled others"] = figure("shuffled", others, is_shuffled=True)
    return {name: own for name, own in found.items() if own is not None}


def cross_entropy(
    evaluator: LikelihoodEvaluator,
    counts: NgramModel,
    target: int,
    window_seconds: float,
    recall: Recall = compute,
) -> CrossEntropy:
    """Return the cross-entropy of one modality on the clips of ``evaluator``.

    Args:
        evaluator: Model and clips, two or more, that have the modality.
        counts: N-gram baseline of the modality, from the train split.
        target: Index of the modality.
        window_seconds: Length of a sound.
        recall: Returns the figure of a condition, stored by an earlier attempt or made now.
    """
    modality, span = evaluator.tokens.modalities[target], evaluator.tokens.slices[target]
    valid = evaluator.valid_BL[:, span].numpy()
    count = int(valid.sum())
    log_probs = own_log_probs(evaluator, counts, target)
    per_token = {"uniform": math.log(counts.choices)}
    for name in ("unigram", "bigram"):
        per_token[name] = baseline(name, log_probs[name], valid, counts.choices).value
    measured = _conditions(evaluator, target, recall)
    units = units_of(modality, len(evaluator), window_seconds)
    half, half_count = half_of_itself(evaluator, target)
    conditions = {name: own.nats / own.tokens for name, own in measured.items()}
    bits = {
        name: value * count / units / math.log(2)
        for name, value in (per_token | conditions).items()
    }
    conditions = {"nothing": conditions.pop("nothing"), OWN_HALF: half / half_count} | conditions
    return CrossEntropy(
        modality=modality.name,
        **per_token,
        baselines=_same_information(evaluator, counts, target, log_probs),
        conditions=conditions,
        clips={name: own.clips for name, own in measured.items()},
        tokens=count,
        unit=UNITS[modality.layout],
        bits=bits,
    )
