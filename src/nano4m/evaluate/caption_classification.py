"""Classification by caption likelihood: which class has the most likely captions, given inputs?

The candidates of a class are all distinct captions of its clips in the train split, as tokens of
the token table. Judged are the clips that have an input; their own captions are not looked at, so
they may lack one. A class is scored in two ways, from the same predictions:

    posterior           log sum p(caption | inputs) over its captions, by the chain rule. A class
                        that is common among the train clips is ahead before anything is heard.
    mutual information  The posterior minus its own value without inputs: what the inputs tell. A
                        model that knows only how common classes are finds nothing by it.

Where the captions of a class are too many to look up, the probe is left out and says so; some of
them would not do, as a class is then scored by what was chosen.

Controls of each score:
    shuffled       The inputs are those of another clip.
    caption begun  A positive control, must be near 1. The only input is the beginning of the
                   clip's own caption, up to where it belongs to one class only. The candidates are
                   what follows after as many tokens in the captions of each class, scored by the
                   posterior. Clips whose caption continues as those of other classes do are
                   excluded; if no clip is left, so is the control.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nano4m.evaluate.class_search import ClassSearch, TooCostly
from nano4m.evaluate.controls import control, shuffled_classes
from nano4m.evaluate.likelihood_evaluator import (
    CONTROL,
    LEAST_CLIPS,
    SHUFFLE,
    LikelihoodEvaluator,
)
from nano4m.evaluate.probe_results import Control, LeftOut, Probe
from nano4m.evaluate.stats import derangement, score
from nano4m.evaluate.trie import Text, Trie, count_predictions
from nano4m.tokens.table import TokenTable

MOST_CONTROL = 66
"""Clips of the control "caption begun": it must only be near 1, so few are enough."""

PILOT = 16
"""Clips from which the cost of all is estimated."""

POSTERIOR, INFORMATION = "posterior", "mutual information"
"""Rules by which a class is chosen."""


REMEDY = "allow more with --evaluate.caption_predictions"


class CaptionProbes(NamedTuple):
    """The probes of one condition, and those that were left out."""

    probes: list[Probe]
    left_out: list[LeftOut]


def candidates(
    table: TokenTable, name: str, train_rows: np.ndarray, classes: list[str]
) -> list[list[Text]]:
    """Return the distinct captions of each class, in order of their tokens."""
    found: list[set[Text]] = [set() for _ in classes]
    number = {label: k for k, label in enumerate(classes)}
    for row in train_rows:
        own = found[number[str(table.labels[row])]]
        for ids, length in zip(table.ids[name][row], table.lengths[name][row], strict=True):
            if length:
                own.add(tuple(ids[:length].tolist()))
    return [sorted(own) for own in found]


@dataclass(frozen=True)
class CaptionCandidates:
    """The candidates of all conditions, and what is the same for all of them.

    Attributes:
        evaluator: Model and clips.
        target: Index of the text modality.
        texts: Distinct captions of each class.
        most: Maximum number of predictions of a probe, see ``EvaluateConfig``.
    """

    evaluator: LikelihoodEvaluator
    target: int
    texts: list[list[Text]]
    most: int

    @cached_property
    def predictions(self) -> int:
        """How many beginnings of captions there are: the most predictions that a clip needs."""
        return count_predictions(self.texts)

    @property
    def too_many(self) -> str | None:
        """Why no condition can be measured, or None."""
        if self.predictions <= self.most:
            return None
        return (
            f"the captions of the train split have {self.predictions:,} beginnings, and the value "
            f"of each class without inputs takes a forward pass for each; {REMEDY}, now "
            f"{self.most:,}"
        )

    @property
    def too_costly(self) -> str:
        """Why a condition was not measured that needed more than it may."""
        whole = len(self.evaluator) * self.predictions
        return (
            f"{len(self.evaluator)} clips would take more than {self.most:,} rows of forward "
            f"passes (up to {whole:,} for {sum(map(len, self.texts)):,} captions); {REMEDY}"
        )

    @cached_property
    def trie(self) -> Trie:
        """The candidates as a trie."""
        return Trie(self.texts)

    @cached_property
    def prior_K(self) -> np.ndarray:
        """Log p of each class without inputs, float64 (K,)."""
        inputs = self.evaluator.inputs([], np.zeros(1, dtype=np.int64))
        return ClassSearch(self.evaluator, *inputs, self.target, self.trie).look_up_all()[0]

    @cached_property
    def begun(self) -> Control | None:
        """The control of this name; None if no clip can be used, or it costs too much."""
        try:
            return caption_begun(self.evaluator, self.target, self.texts, self.trie, self.most)
        except TooCostly:
            return None


def caption_begun(
    evaluator: LikelihoodEvaluator,
    target: int,
    texts: list[list[Text]],
    trie: Trie,
    most: int | None = None,
) -> Control | None:
    """Return the control of this name; None if no clip can be used.

    Raises:
        TooCostly: Texts of one length of beginnings need more than ``most`` predictions.
    """
    span = evaluator.tokens.slices[target]
    number = {prefix: i for i, prefix in enumerate(trie.prefixes)}
    cut: dict[int, list[int]] = {}
    chosen = evaluator.rng(CONTROL).permutation(len(evaluator))[:MOST_CONTROL]
    for clip in sorted(chosen.tolist()):
        own = tuple(evaluator.ids_BL[clip, span][evaluator.valid_BL[clip, span]].tolist())
        for length in range(1, len(own)):
            node = number.get(own[:length])
            if node is not None and trie.under_NK[node].sum() == 1:
                cut.setdefault(length, []).append(clip)
                break
    judged, hits = [], []
    for length, clips in cut.items():
        rests = [sorted({text[length:] for text in own if len(text) > length}) for own in texts]
        shared = Counter(rest for own in rests for rest in own)
        told_apart = {k for k, own in enumerate(rests) if any(shared[rest] == 1 for rest in own)}
        rows = np.array(
            [i for i in clips if int(evaluator.labels[i]) in told_apart], dtype=np.int64
        )
        if not len(rows):
            continue
        ids, inputs = evaluator.inputs([target], rows)
        inputs[:, span.start + length : span.stop] = False
        search = ClassSearch(evaluator, ids * inputs, inputs, target, Trie(rests), length, most)
        judged.append(rows)
        hits.append(search.best_class() == evaluator.labels[rows])
    if not judged:
        return None
    clusters = evaluator.clusters([target])[np.concatenate(judged)]
    return control(np.concatenate(hits).astype(np.float64), clusters, 1.0)


def conditions(evaluator: LikelihoodEvaluator, target: int) -> dict[str, list[int]]:
    """Return the input modalities of each condition: each other one alone, and all of them."""
    others = [i for i in range(len(evaluator.names)) if i != target]
    return {evaluator.names[i]: [i] for i in others} | ({"all": others} if len(others) > 1 else {})


def chosen_classes(
    captions: CaptionCandidates, evaluator: LikelihoodEvaluator, inputs: list[int]
) -> dict[str, np.ndarray]:
    """Return the class of each clip, int64 (B,), by each rule.

    Raises:
        TooCostly: A pilot of clips needs more than its share of the predictions.
    """
    target, trie = captions.target, captions.trie
    offsets = {POSTERIOR: None, INFORMATION: captions.prior_K}
    pilot = np.unique(np.linspace(0, len(evaluator) - 1, PILOT).round().astype(np.int64))
    share = math.ceil(captions.most * len(pilot) / len(evaluator))
    found = {}
    for rows, most in ((pilot, share), (None, None)):
        ids, shown = evaluator.inputs(inputs, rows)
        search = ClassSearch(evaluator, ids, shown, target, trie, most=most)
        found = {rule: search.best_class(offset) for rule, offset in offsets.items()}
    return found


def classify(captions: CaptionCandidates, condition: str) -> CaptionProbes:
    """Return the probes of one condition, a key of ``conditions``, by each rule."""
    target = captions.target
    known = conditions(captions.evaluator, target)
    inputs, number = known[condition], list(known).index(condition)
    has_any = captions.evaluator.present_BC[:, inputs].any(axis=1)
    evaluator = captions.evaluator.take(np.flatnonzero(has_any))
    titles = [evaluator.tokens.modalities[i].title for i in inputs]
    title = f"class from {titles[0] if len(titles) == 1 else 'all other modalities'}"
    names = {rule: f"{title}, {rule}" for rule in (POSTERIOR, INFORMATION)}
    reason = captions.too_many
    if len(evaluator) < LEAST_CLIPS:
        reason = f"{len(evaluator)} of the evaluated clips have the input; a probe needs two"
    if reason is None:
        try:
            found = chosen_classes(captions, evaluator, inputs)
        except TooCostly:
            reason = captions.too_costly
    if reason is not None:
        left_out = [LeftOut(probe=name, reason=reason) for name in names.values()]
        return CaptionProbes([], left_out)
    clusters = evaluator.clusters([*inputs, target])
    others = derangement(len(evaluator), evaluator.rng(SHUFFLE, number, target))
    probes = []
    for rule, classes in found.items():
        controls = {"shuffled": shuffled_classes(classes, evaluator.labels, others, clusters)}
        if captions.begun is not None:
            controls["caption begun"] = captions.begun
        probes.append(
            Probe(
                name=names[rule],
                task="classification",
                source=condition,
                target=evaluator.names[target],
                rule=rule,
                score=score(
                    classes == evaluator.labels,
                    evaluator.labels,
                    len(evaluator.classes),
                    clusters,
                    controls=controls,
                ),
            )
        )
    return CaptionProbes(probes, [])
