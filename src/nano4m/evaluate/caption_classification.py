"""Classification by caption likelihood: which class has the most likely captions, given inputs?

The candidates are the distinct captions of the train split, as tokens of the token table; the score
of a class is log sum p(caption | inputs) over its captions, by the chain rule.

Controls of each score:
    shuffled       The inputs are those of another clip: must fall to chance.
    caption begun  A positive control, must be near 1. The only input is the beginning of the
                   clip's own caption, up to where it belongs to one class only. The candidates are
                   what follows after as many tokens in the captions of each class, scored in the
                   same way. Clips whose caption continues as those of other classes do are
                   excluded; if no clip is left, so is the control.
"""

from collections import Counter

import numpy as np

from nano4m.evaluate.likelihood_evaluator import CONTROL, SHUFFLE, LikelihoodEvaluator
from nano4m.evaluate.results import Probe
from nano4m.evaluate.stats import derangement, score
from nano4m.evaluate.trie import Search, Text, Trie
from nano4m.tokens.table import TokenTable

MOST_CAPTIONS = 64
"""Maximum candidates a class: its most common captions."""

MOST_CONTROL = 66
"""Clips of a control: it must only be near a bound, so few are enough."""


def candidates(
    table: TokenTable, name: str, train_rows: np.ndarray, classes: list[str]
) -> list[list[Text]]:
    """Return the distinct captions of each class, at most MOST_CAPTIONS, most common first."""
    counts: list[Counter[Text]] = [Counter() for _ in classes]
    for row in train_rows:
        own = counts[classes.index(str(table.labels[row]))]
        for ids, length in zip(table.ids[name][row], table.lengths[name][row], strict=True):
            own[tuple(ids[:length].tolist())] += 1
    # Equal counts are ordered by tokens, so that the choice does not depend on the row order.
    ordered = [sorted(own, key=lambda text: (-own[text], text)) for own in counts]
    return [texts[:MOST_CAPTIONS] for texts in ordered]


def caption_begun(
    evaluator: LikelihoodEvaluator, target: int, texts: list[list[Text]]
) -> float | None:
    """Return the control of this name; None if no clip can be used."""
    span = evaluator.tokens.slices[target]
    trie = Trie(texts)
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
    counted, correct = 0, 0
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
        found = Search(evaluator, ids * inputs, inputs, target, Trie(rests), length).best_class()
        counted, correct = (
            counted + len(rows),
            correct + int((found == evaluator.labels[rows]).sum()),
        )
    return correct / counted if counted else None


def conditions(evaluator: LikelihoodEvaluator, target: int) -> dict[str, list[int]]:
    """Return the input modalities of each condition: each other one alone, and all of them."""
    others = [i for i in range(len(evaluator.names)) if i != target]
    return {evaluator.names[i]: [i] for i in others} | ({"all": others} if len(others) > 1 else {})


def classify(
    evaluator: LikelihoodEvaluator, trie: Trie, begun: float | None, target: int, condition: str
) -> Probe:
    """Return the probe of one condition.

    Args:
        evaluator: Model and clips.
        trie: The candidates.
        begun: The control "caption begun", the same for all conditions.
        target: Index of the text modality.
        condition: Key of ``conditions``.
    """
    known = conditions(evaluator, target)
    inputs, number = known[condition], list(known).index(condition)
    found = Search(evaluator, *evaluator.inputs(inputs), target, trie).best_class()
    rng = evaluator.rng(SHUFFLE, number, target)
    own = rng.permutation(len(evaluator))[:MOST_CONTROL]
    shown = derangement(len(evaluator), rng)[own]
    mistaken = Search(evaluator, *evaluator.inputs(inputs, shown), target, trie).best_class()
    controls = {"shuffled": float((mistaken == evaluator.labels[own]).mean())}
    if begun is not None:
        controls["caption begun"] = begun
    titles = [evaluator.tokens.modalities[i].title for i in inputs]
    return Probe(
        name=f"class from {titles[0] if len(titles) == 1 else 'all other modalities'}",
        task="classification",
        source=condition,
        target=evaluator.names[target],
        score=score(
            found == evaluator.labels,
            evaluator.labels,
            len(evaluator.classes),
            evaluator.clusters([*inputs, target]),
            controls=controls,
        ),
    )
