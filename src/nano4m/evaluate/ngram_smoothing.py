"""Fit of the n-gram baselines: their smoothing is chosen by likelihood on held-out train clips.

Held out are whole groups of sequences, so that a copy is never on both sides: copies of one
sequence and, where that leaves enough groups, all views of one recording. Captions are held out by
recording alone: repeated texts are what new clips will have too, so their copies must count.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from nano4m.evaluate.clusters import connected_clusters
from nano4m.evaluate.ngram import (
    CHAINS,
    BaselineName,
    KeyCounts,
    Level,
    NgramModel,
    Sequences,
    SmoothedCounts,
    Smoothing,
    TokenKeys,
    mixed,
)
from nano4m.modalities import Modality
from nano4m.tokens.table import TokenTable

STRENGTHS = (math.inf, 4096.0, 1024.0, 256.0, 64.0, 16.0, 4.0, 1.0, 0.25, 0.0625)
"""Strengths of a prior to choose from; the first leaves the level out."""
LEAST_GAIN = 1e-9
"""Nats a token by which a weaker prior must be better: where the held-out tokens say nothing of a
level (each class is one recording), it is left out."""
FOLDS = 5
MOST_TOKENS = 1 << 22
"""Most tokens that are counted; of more clips a sample is drawn."""
MOST_SCORED = 1 << 17
"""Most held-out tokens by which the smoothing is chosen."""


def _numbers(values: np.ndarray) -> np.ndarray:
    axis = 0 if values.ndim > 1 else None
    return np.unique(values, axis=axis, return_inverse=True)[1].reshape(-1)


def held_out_groups(copies_N: np.ndarray, recordings_N: np.ndarray) -> np.ndarray:
    """Return the group of each sequence, int64 (N,): groups are held out as a whole.

    Copies of one sequence are in one group, and so are all sequences of a recording, unless that
    joins nearly everything (pictures that are drawn for each clip anew).

    Args:
        copies_N: int64, equal for equal sequences.
        recordings_N: int64, equal for sequences of one recording.
    """
    joined_N = connected_clusters(copies_N.astype(str), recordings_N.astype(str))
    fewest = min(copies_N.max(), recordings_N.max()) + 1
    return joined_N if 2 * (joined_N.max() + 1) >= fewest else copies_N


def _folds(groups_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count = int(groups_N.max()) + 1
    return (rng.permutation(count) % FOLDS)[groups_N]


def choose_smoothing(
    keys: TokenKeys,
    levels: Sequence[Level],
    tokens: Sequences,
    weights: Sequence[np.ndarray],
    folds_N: np.ndarray,
    scored_N: np.ndarray,
) -> Smoothing:
    """Return the smoothing of a chain that gives held-out tokens the highest likelihood.

    Levels are chosen in pairs, by trying all strengths of both.

    Args:
        keys: Of the modality.
        levels: Of the chain.
        tokens: Train sequences.
        weights: Weight of each sequence (N,), with copies in full and counted once.
        folds_N: int64, the fold in which a sequence is held out.
        scored_N: bool, sequences whose tokens are rated.
    """
    lengths_N = tokens.valid_NT.sum(1)
    fold, scored = np.repeat(folds_N, lengths_N), np.repeat(scored_N, lengths_N)
    numbered = [keys(level, tokens) for level in levels]
    found: list[tuple[float, Smoothing]] = []
    for is_distinct, weights_N in enumerate(weights):
        each = np.repeat(weights_N, lengths_N)
        p = np.full(int(scored.sum()), 1 / keys.choices)
        best: tuple[float, tuple[float, ...]] = (-math.inf, ())
        for first in range(0, len(levels), 2):
            coarser, before = p, best[1]
            best = (-math.inf, ())
            rates = [
                [_without_fold(KeyCounts(k, each), fold, scored) for k in pair]
                for pair in numbered[first : first + 2]
            ]
            for one, two in itertools.product(STRENGTHS, STRENGTHS):
                middle = mixed(rates[0][1], rates[0][0], one, coarser)
                fine = mixed(rates[1][1], rates[1][0], two, middle)
                gain = float(np.log(fine).mean())
                if gain > best[0] + LEAST_GAIN:
                    best, p = (gain, (*before, one, two)), fine
        found.append((best[0], Smoothing(best[1], bool(is_distinct))))
    return max(found, key=lambda entry: entry[0])[1]


def _without_fold(counts: KeyCounts, fold: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return each scored token's count among the tokens of the other folds."""
    found = np.empty(len(fold))
    for number in range(FOLDS):
        own = fold == number
        wanted = own & scored
        rest = (counts.counts - counts.of(own)).clip(min=0)
        found[wanted] = rest[counts.number[wanted]]
    return found[scored]


def fit_sequences(
    modality: Modality,
    tokens: Sequences,
    num_classes: int,
    recordings_N: np.ndarray,
    rng: np.random.Generator,
) -> NgramModel:
    """Return the n-gram baselines of train sequences.

    Args:
        modality: Its layout defines the codebook and the previous slot of each slot.
        tokens: Train sequences.
        num_classes: With one, there is no class unigram.
        recordings_N: Recording of each sequence, any values.
        rng: Draws the folds and the rated sequences.
    """
    keys = TokenKeys(modality, num_classes)
    plain = np.where(tokens.valid_NT, tokens.ids_NT.astype(np.int64), -1)
    copies_N = _numbers(plain)
    recordings_N = _numbers(recordings_N)
    groups_N = recordings_N if modality.is_text else held_out_groups(copies_N, recordings_N)
    weights = np.ones(len(tokens)), 1.0 / np.bincount(copies_N)[copies_N]
    # A repeated picture says as much of new ones as one that is there once; a text says more.
    order = rng.permutation(len(tokens))
    if not modality.is_text:
        order = order[np.unique(copies_N[order], return_index=True)[1]]
        order = rng.permutation(order)
    scored_N = np.zeros(len(tokens), dtype=bool)
    scored_N[order[: max(1, MOST_SCORED // modality.length)]] = True
    folds_N = _folds(groups_N, rng)
    chains: dict[BaselineName, SmoothedCounts] = {}
    for name, levels in CHAINS.items():
        if num_classes < 2 and any(level.context == "class" for level in levels):
            continue
        chosen = choose_smoothing(keys, levels, tokens, weights, folds_N, scored_N)
        own = weights[int(chosen.is_distinct)]
        chains[name] = SmoothedCounts(keys, levels, chosen, tokens, own)
    return NgramModel(keys, chains, len(tokens))


def fit_ngrams(
    table: TokenTable,
    modality: Modality,
    rows: np.ndarray,
    seed: int = 0,
    recordings: np.ndarray | None = None,
) -> NgramModel:
    """Return the n-gram baselines of a modality, from all views in ``rows`` of the table.

    Args:
        table: The tokens.
        modality: Of the table.
        rows: Clips of the train split; of more than MOST_TOKENS tokens a sample is drawn.
        seed: Of the sample and of the held-out parts.
        recordings: Recording of each of ``rows``; None: each clip is one.
    """
    rng = np.random.default_rng([seed, len(rows)])
    views = table.ids[modality.name].shape[1]
    most = max(1, MOST_TOKENS // (views * modality.length))
    chosen = np.sort(rng.permutation(len(rows))[:most])
    own = rows[chosen]
    ids = np.asarray(table.ids[modality.name][own]).reshape(-1, modality.length)
    valid = np.arange(modality.length) < table.lengths[modality.name][own].reshape(-1, 1)
    labels = np.searchsorted(table.classes, table.labels[own])
    recorded = chosen if recordings is None else np.asarray(recordings)[chosen]
    tokens = Sequences(ids, valid, np.repeat(labels, views))
    there = np.flatnonzero(valid.any(1))
    recorded = np.repeat(recorded, views)[there]
    return fit_sequences(modality, tokens.take(there), len(table.classes), recorded, rng)
