"""Retrieval by likelihood: which clip's target belongs to a source?

Candidates are scored by pointwise mutual information, log p(target | source) - log p(target):
without the second term, candidates that are likely with any source win every query.

Texts are sources only: clips of one class share their captions, so a caption has no unique correct
clip; classification measures how well captions are found.

A retriever that knows a clip's class, and nothing else, is right in min(1, k / n) of the queries of
a class of n clips. That is the ceiling of class knowledge; the ceiling of caption knowledge is the
same for clips of one caption. Only what lies above both shows that a clip was found.

Instance retrieval asks for just that: all candidates are of the query's own class (and have its
caption), so neither helps, and chance is 1 / n. Clips that are alone there are left out.
"""

from collections.abc import Mapping

import numpy as np

from nano4m.evaluate.controls import control
from nano4m.evaluate.intervals import share_interval
from nano4m.evaluate.likelihood_evaluator import LEAST_CLIPS, SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.probe_results import Control, Probe, Score
from nano4m.evaluate.stats import derangement, hits_at

DEPTHS = (1, 5)
"""Values of k in recall at k."""

CLASS, CAPTION, BOTH = "class", "caption", "class and caption"


def information(evaluator: LikelihoodEvaluator, source: int, target: int) -> np.ndarray:
    """Return pointwise mutual information in nats, (B, B): source of clip i, target of clip j."""
    return evaluator.pairwise(source, target) - evaluator.unconditional(target)[None]


def knowledge(evaluator: LikelihoodEvaluator) -> dict[str, np.ndarray]:
    """Return the group of each clip, int (B,), of what one may know: class, caption, or both.

    Without a text there is class alone; of several texts the captions are all of them together.
    """
    groups = {CLASS: evaluator.labels}
    tokens = evaluator.tokens
    spans = [s for m, s in zip(tokens.modalities, tokens.slices, strict=True) if m.is_text]
    if spans:
        texts = [
            np.where(evaluator.valid_BL[:, span], evaluator.ids_BL[:, span], -1) for span in spans
        ]
        whole = np.concatenate(texts, axis=1)
        both = np.concatenate([evaluator.labels[:, None], whole], axis=1)
        for name, rows in ((CAPTION, whole), (BOTH, both)):
            groups[name] = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return groups


def ceiling(group: np.ndarray, k: int) -> float:
    """Return recall at k of one who knows of each clip only its group, int (n,)."""
    _, which, sizes = np.unique(group, return_inverse=True, return_counts=True)
    return float(np.minimum(1.0, k / sizes[which]).mean())


def members_of(group: np.ndarray) -> list[np.ndarray]:
    """Return the clips of each group, int (n,), that has more than one."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    return [own for own in np.split(order, starts) if len(own) > 1]


def _score(
    hits: np.ndarray,
    clusters: np.ndarray,
    chance: float,
    ceilings: Mapping[str, float],
    controls: Mapping[str, Control],
) -> Score:
    return Score(
        value=float(hits.mean()), **share_interval(hits, clusters)._asdict(), n=len(hits),
        chance=chance, ceilings=dict(ceilings), controls=dict(controls),
    )  # fmt: skip


def _gallery(
    rated: np.ndarray,
    k: int,
    groups: Mapping[str, np.ndarray],
    clusters: np.ndarray,
    rng: np.random.Generator,
) -> Score:
    """Return recall at k of every clip among all."""
    hits = hits_at(rated, k)
    mistaken = hits_at(rated[derangement(len(rated), rng)], k)
    expected = (min(k, len(hits)) - hits) / (len(hits) - 1)
    return _score(
        hits, clusters, min(1.0, k / len(hits)),
        {name: ceiling(group, k) for name, group in groups.items() if name != BOTH},
        {"shuffled": control(mistaken, clusters, expected)},
    )  # fmt: skip


def _instance(
    rated: np.ndarray, within: str, groups: Mapping[str, np.ndarray], clusters: np.ndarray,
    rng: np.random.Generator,
) -> Score | None:  # fmt: skip
    """Return recall at 1 of every clip among those that share a group; None if all are alone."""
    members = members_of(groups[within])
    if not members:
        return None
    hits, mistaken = [], []
    for own in members:
        part = rated[np.ix_(own, own)]
        hits.append(hits_at(part, 1))
        mistaken.append(hits_at(part[derangement(len(own), rng)], 1))
    rows, size = np.concatenate(members), np.array([len(own) for own in members for _ in own])
    found = np.concatenate(hits)
    # Who knows the captions too has fewer candidates left.
    ceilings = (
        {CAPTION: ceiling(groups[BOTH][rows], 1)} if within == CLASS and BOTH in groups else {}
    )
    return _score(
        found, clusters[rows], float((1 / size).mean()), ceilings,
        {"shuffled": control(np.concatenate(mistaken), clusters[rows], (1 - found) / (size - 1))},
    )  # fmt: skip


def retrieval_of(evaluator: LikelihoodEvaluator, target: int) -> list[Probe]:
    """Return the probes of retrieving ``target`` by each other modality; none for a text.

    Recall at k of each source is followed by that within the query's class, if there are several
    classes, and within its class and caption, if the source is no text.
    """
    modalities, probes = evaluator.tokens.modalities, []
    if modalities[target].is_text:
        return []
    for source in (i for i in range(len(modalities)) if i != target):
        part = evaluator.of(source, target)
        if len(part) < LEAST_CLIPS:
            continue
        groups, clusters = knowledge(part), part.clusters([source, target])
        rated = information(part, source, target)
        pair = f"{modalities[source].title} -> {modalities[target].title}"
        names = {"source": evaluator.names[source], "target": evaluator.names[target]}
        for k in DEPTHS:
            rng = evaluator.rng(SHUFFLE, source, target)
            score = _gallery(rated, k, groups, clusters, rng)
            probes.append(Probe(name=f"{pair}, R@{k}", task="retrieval", k=k, score=score, **names))
        for within in groups_to_search(groups, modalities[source].is_text):
            rng = evaluator.rng(SHUFFLE, source, target, len(within))
            found = _instance(rated, within, groups, clusters, rng)
            if found is not None:
                probes.append(
                    Probe(
                        name=f"{pair} within its {within}, R@1",
                        task="instance retrieval",
                        k=1,
                        within=within,
                        score=found,
                        **names,
                    )  # fmt: skip
                )
    return probes


def groups_to_search(groups: Mapping[str, np.ndarray], is_text: bool) -> list[str]:
    """Return the names of the groups within which a source is asked for instances."""
    has_classes = len(np.unique(groups[CLASS])) > 1
    return [CLASS] * has_classes + [BOTH] * (BOTH in groups and not is_text)
