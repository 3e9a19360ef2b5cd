"""Retrieval by likelihood: which clip's target belongs to this source?

Candidates are rated by pointwise mutual information, log p(target | source) - log p(target):
without the second term the candidates that are likely with any source win every query.

Texts are sources only: clips of one class share their caption, so a caption has no one right clip;
how well captions are found is what classification measures.
"""

from collections.abc import Callable

import numpy as np

from nano4m.evaluate.bench import RESAMPLE, SHUFFLE, Bench
from nano4m.evaluate.results import Probe
from nano4m.evaluate.stats import derangement, hits_at, recall_at

DEPTHS = (1, 5)
"""Candidates that are looked at."""


def pairs(bench: Bench) -> list[tuple[int, int]]:
    """Return the ordered pairs (source, target) that are probed."""
    modalities = bench.tokens.modalities
    return [
        (s, t)
        for s in range(len(modalities))
        for t in range(len(modalities))
        if s != t and not modalities[t].is_text
    ]


def information(bench: Bench, source: int, target: int) -> np.ndarray:
    """Return pointwise mutual information in nats, (B, B): source of clip i, target of clip j."""
    return bench.pair(source, target) - bench.alone(target)[None]


def retrieval(bench: Bench, advance: Callable[[], None]) -> list[Probe]:
    """Probe every pair; ``advance`` is called after each one."""
    probes = []
    for source, target in pairs(bench):
        rated = information(bench, source, target)
        stream = (source, target)
        shuffled = derangement(len(bench), bench.rng(SHUFFLE, *stream))
        titles = [bench.tokens.modalities[i].title for i in stream]
        for k in DEPTHS:
            controls = {"shuffled": float(hits_at(rated[shuffled], k).mean())}
            rng = bench.rng(RESAMPLE, *stream)
            probes.append(
                Probe(
                    name=f"{titles[0]} -> {titles[1]}, R@{k}",
                    task="retrieval",
                    source=bench.names[source],
                    target=bench.names[target],
                    score=recall_at(rated, k, rng, bench.resamples, controls),
                )
            )
        advance()
    return probes
