"""Retrieval by likelihood: which clip's target belongs to a source?

Candidates are scored by pointwise mutual information, log p(target | source) - log p(target):
without the second term, candidates that are likely with any source win every query.

Texts are sources only: clips of one class share their captions, so a caption has no unique correct
clip; classification measures how well captions are found.
"""

import numpy as np

from nano4m.evaluate.likelihood_evaluator import SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.results import Probe
from nano4m.evaluate.stats import derangement, hits_at, recall_at

DEPTHS = (1, 5)
"""Values of k in recall at k."""


def information(evaluator: LikelihoodEvaluator, source: int, target: int) -> np.ndarray:
    """Return pointwise mutual information in nats, (B, B): source of clip i, target of clip j."""
    return evaluator.pairwise(source, target) - evaluator.unconditional(target)[None]


def retrieval_of(evaluator: LikelihoodEvaluator, target: int) -> list[Probe]:
    """Return the probes of retrieving ``target`` by each other modality; none for a text."""
    modalities = evaluator.tokens.modalities
    if modalities[target].is_text:
        return []
    probes = []
    for source in (i for i in range(len(modalities)) if i != target):
        rated = information(evaluator, source, target)
        stream = (source, target)
        clusters = evaluator.clusters([source, target])
        shuffled = derangement(len(evaluator), evaluator.rng(SHUFFLE, *stream))
        for k in DEPTHS:
            controls = {"shuffled": float(hits_at(rated[shuffled], k).mean())}
            probes.append(
                Probe(
                    name=f"{modalities[source].title} -> {modalities[target].title}, R@{k}",
                    task="retrieval",
                    source=evaluator.names[source],
                    target=evaluator.names[target],
                    score=recall_at(rated, k, clusters, controls),
                )
            )
    return probes
