"""Continuation: cross-entropy of the second half of a sound or a text, given its first half.

The first half of the frames is the only input. The value is by the chain rule, frame by frame (a
text token by token), with the true earlier ones as inputs, as for the bigram, so the two compare.
Predicting the second half at once is harder and reported too; the controls refer to that.
"""

import numpy as np
import torch
from torch import Tensor

from nano4m.evaluate.cross_entropy import baseline, own_log_probs, uniform_baseline
from nano4m.evaluate.intervals import ratio_interval
from nano4m.evaluate.likelihood_evaluator import BEGINNING, SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.likelihood_results import Continuation
from nano4m.evaluate.ngram import NgramModel
from nano4m.evaluate.stats import derangement
from nano4m.modalities import Modality


def prefix_lengths(modality: Modality, valid_BT: Tensor) -> Tensor:
    """Return how many tokens of each clip are inputs, int64 (B,); 0 if no target would be left.

    Half of the frames with all codebooks, or half of a text's tokens, its end token included.
    """
    if modality.is_text:
        return valid_BT.sum(1) // 2
    frames, books = modality.shape
    return torch.full((len(valid_BT),), frames // 2 * books)


def continuation(
    evaluator: LikelihoodEvaluator, counts: NgramModel, target: int
) -> Continuation | None:
    """Return the continuation of a sound or text; None for others, and of fewer than two clusters.

    Args:
        evaluator: Model and clips.
        counts: N-gram baseline of the modality, from the train split.
        target: Index of the modality.
    """
    modality, span = evaluator.tokens.modalities[target], evaluator.tokens.slices[target]
    valid_BT = evaluator.valid_BL[:, span]
    if modality.layout == "grid" or len(evaluator) < 2:
        return None
    inputs_B = prefix_lengths(modality, valid_BT)
    usable = (inputs_B > 0) & (inputs_B < valid_BT.sum(1))
    clusters = evaluator.clusters([target])[usable.numpy()]
    if len(np.unique(clusters)) < 2:
        return None
    inputs_BT = (torch.arange(modality.length) < inputs_B[:, None]) & usable[:, None]
    rest_BT = valid_BT & ~inputs_BT & usable[:, None]
    inputs_BL = torch.zeros_like(evaluator.valid_BL)
    inputs_BL[:, span] = inputs_BT
    nothing_BL = torch.zeros_like(inputs_BL)

    def nats(rows: Tensor, shown_BL: Tensor) -> np.ndarray:
        """Return the nats of each usable clip's second half, given the first of clip ``rows``."""
        shown_BL = shown_BL & evaluator.valid_BL[rows]
        targets = evaluator.own(target, evaluator.ids_BL[rows] * shown_BL, shown_BL, rest_BT)
        return -targets[usable.numpy()]

    shown_BL = inputs_BL & evaluator.valid_BL
    own = -evaluator.own_autoregressive(target, evaluator.ids_BL * shown_BL, shown_BL, rest_BT)[
        usable.numpy()
    ]
    at_once = own if modality.is_text else nats(torch.arange(len(evaluator)), inputs_BL)
    tokens = rest_BT.sum(1)[usable].numpy()
    log_probs, chosen = own_log_probs(evaluator, counts, target), rest_BT.numpy()
    unigram, bigram = (
        baseline(name, log_probs[name], chosen, counts.choices) for name in ("unigram", "bigram")
    )
    uniform = uniform_baseline(counts.choices)
    baselines = {"value": {"uniform": uniform, "bigram": bigram}}
    if not modality.is_text:
        baselines["at_once"] = {"uniform": uniform, "unigram": unigram}
    total = int(tokens.sum())
    moved = torch.from_numpy(derangement(len(evaluator), evaluator.rng(SHUFFLE, BEGINNING, target)))
    controls = {"shuffled": nats(moved, inputs_BL)}
    # A text's tokens are never predicted without all earlier ones as inputs.
    if not modality.is_text:
        controls["nothing"] = nats(torch.arange(len(evaluator)), nothing_BL)
    return Continuation(
        modality=modality.name,
        value=float(own.sum() / total),
        **ratio_interval(own, tokens, clusters)._asdict(),
        at_once=float(at_once.sum() / total),
        n=int(usable.sum()),
        tokens=total,
        uniform=uniform.value,
        unigram=unigram.value,
        bigram=bigram.value,
        baselines=baselines,
        controls={name: float(found.sum() / total) for name, found in controls.items()},
    )
