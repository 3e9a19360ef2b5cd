"""Cross-entropy of each modality by what is given, beside what counting tokens reaches.

The whole target is asked for at once; a text token by token, each given the ones before it.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from nano4m.evaluate.bench import SHUFFLE, Bench
from nano4m.evaluate.results import CrossEntropy
from nano4m.evaluate.stats import derangement
from nano4m.table import TokenTable

PRIOR = 16.0
"""Weight, in clips, of the frequencies of all positions together in those of one position."""


def unigram(
    train_ids: np.ndarray, train_valid: np.ndarray, ids: np.ndarray, valid: np.ndarray, vocab: int
) -> float:
    """Return the cross-entropy in nats a token of the train frequencies of each position.

    Args:
        train_ids, train_valid: (n, T) tokens that are counted, and which of them are real.
        ids, valid: (m, T) tokens that are judged.
        vocab: Size of the vocabulary.

    A position's frequencies are mixed with those of all positions, add-one smoothed: a baseline
    that is weak for lack of data would flatter the model.
    """
    pooled = np.bincount(train_ids[train_valid].astype(np.int64), minlength=vocab) + 1.0
    pooled /= pooled.sum()
    total = 0.0
    for t in range(ids.shape[1]):
        seen = train_ids[train_valid[:, t], t].astype(np.int64)
        share = np.bincount(seen, minlength=vocab) + PRIOR * pooled
        total -= np.log(share[ids[valid[:, t], t]] / share.sum()).sum()
    return float(total / valid.sum())


def _conditions(bench: Bench, target: int) -> dict[str, Callable[[], np.ndarray]]:
    """Return, by name, what computes log p of each clip's own target, (B,)."""
    others = [i for i in range(len(bench.names)) if i != target]
    is_text = bench.tokens.modalities[target].is_text
    shuffled = derangement(len(bench), bench.rng(SHUFFLE, target))

    def from_sources(sources: list[int], rows: np.ndarray | None = None) -> np.ndarray:
        if is_text or rows is not None or len(sources) > 1:
            return bench.own(target, *bench.given(sources, rows))
        return np.diag(bench.pair(sources[0], target)) if sources else bench.alone(target)

    return (
        {"nothing": partial(from_sources, [])}
        | {bench.names[source]: partial(from_sources, [source]) for source in others}
        | {"all others": partial(from_sources, others)}
        | {"shuffled others": partial(from_sources, others, shuffled)}
    )


def cross_entropy(
    bench: Bench, table: TokenTable, train_rows: np.ndarray, advance: Callable[[], None]
) -> list[CrossEntropy]:
    """Measure every modality on the clips of ``bench``; ``advance`` is called after each one."""
    results = []
    for target, modality in enumerate(bench.tokens.modalities):
        span = bench.tokens.slices[target]
        valid = bench.valid_BL[:, span].numpy()
        train = table.ids[modality.name][train_rows].reshape(-1, modality.length)
        train_valid = np.ones(train.shape, dtype=bool)
        if modality.name in table.lengths:
            lengths = table.lengths[modality.name][train_rows].reshape(-1, 1)
            train_valid = np.arange(modality.length)[None] < lengths
        count = int(valid.sum())
        results.append(
            CrossEntropy(
                modality=modality.name,
                uniform=math.log(modality.vocab_size),
                unigram=unigram(
                    train, train_valid, bench.ids_BL[:, span].numpy(), valid, modality.vocab_size
                ),
                conditions={
                    name: float(-compute().sum() / count)
                    for name, compute in _conditions(bench, target).items()
                },
                tokens=count,
            )
        )
        advance()
    return results
