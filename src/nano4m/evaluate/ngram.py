"""N-gram baselines of the train split: unigram, bigram and class unigram, by slot and codebook.

A baseline that is weak for lack of data, or for counting one picture a thousand times, would
flatter the model. So each is a chain of ever finer distributions, from uniform over the ids of a
codebook to the counts of one slot after one token; each is mixed with the coarser one by a
Dirichlet prior (MacKay and Peto 1995, https://doi.org/10.1017/S1351324900000218). The strengths of
the priors, and whether copies of a sequence count once, are chosen by ``ngram_smoothing``.

The previous token is the one before in reading order; in sound, that of the same codebook one frame
earlier. The bigram always has the true one, also where a model must do without it.

Shapes: N sequences, T slots of one modality, M real tokens of all sequences.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from nano4m.modalities import Modality

DENSE_KEYS = 1 << 22
"""Largest key space that is counted in an array; larger ones are sorted."""

BaselineName = Literal["unigram", "bigram", "class unigram"]


class Level(NamedTuple):
    """Counts of one level: of each slot or of all slots of a codebook, in one context."""

    place: Literal["codebook", "slot"]
    context: Literal["nothing", "previous", "class"]


_PLAIN = (Level("codebook", "nothing"), Level("slot", "nothing"))
CHAINS: dict[BaselineName, tuple[Level, ...]] = {
    "unigram": _PLAIN,
    "bigram": (*_PLAIN, Level("codebook", "previous"), Level("slot", "previous")),
    "class unigram": (*_PLAIN, Level("codebook", "class"), Level("slot", "class")),
}
"""Levels of each baseline, the coarsest first; before the first stands the uniform one."""


@dataclass(frozen=True)
class Sequences:
    """Token sequences of one modality.

    Attributes:
        ids_NT: Integer ids.
        valid_NT: bool, real tokens.
        labels_N: Class of each sequence, int64 in [0, number of classes).
    """

    ids_NT: np.ndarray
    valid_NT: np.ndarray
    labels_N: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_NT)

    def take(self, rows: np.ndarray) -> "Sequences":
        """Return some of the sequences."""
        return Sequences(self.ids_NT[rows], self.valid_NT[rows], self.labels_N[rows])


@dataclass(frozen=True)
class Smoothing:
    """How a chain is smoothed.

    Attributes:
        strengths: Weight of the coarser distribution at each level, in tokens; ``inf``: the level
            is not used.
        is_distinct: Whether copies of a sequence count once.
    """

    strengths: tuple[float, ...]
    is_distinct: bool


class Keys(NamedTuple):
    """Keys of M tokens; a token that has no such context has the key ``size``."""

    keys: np.ndarray
    size: int


class TokenKeys:
    """Keys of the contexts and events that are counted, for one modality."""

    def __init__(self, modality: Modality, num_classes: int) -> None:
        self.books = modality.shape[1] if modality.layout == "codebooks" else 1
        self.vocab, self.num_classes = modality.vocab_size, num_classes
        self.length = modality.length

    @property
    def choices(self) -> int:
        """Number of ids that a slot may hold: those of its own codebook."""
        return self.vocab // self.books

    def previous(self, values_NT: np.ndarray) -> np.ndarray:
        """Return the value of the previous slot of each slot; of the first ones any."""
        return np.roll(values_NT, self.books, axis=1)

    @property
    def has_previous(self) -> np.ndarray:
        """Which slots have a previous one, bool (T,)."""
        return np.arange(self.length) >= self.books

    def __call__(self, level: Level, tokens: Sequences) -> tuple[Keys, Keys]:
        """Return keys of the contexts and of the ids in them, of all valid tokens in order."""
        valid = tokens.valid_NT
        ids = tokens.ids_NT.astype(np.int64)
        slots = np.arange(self.length)
        in_codebook = level.place == "codebook"
        place = np.broadcast_to(slots % self.books if in_codebook else slots, ids.shape)
        places = self.books if in_codebook else self.length
        usable = valid
        if level.context == "nothing":
            context, contexts = np.zeros_like(ids), 1
        elif level.context == "class":
            context = np.broadcast_to(tokens.labels_N[:, None], ids.shape)
            contexts = self.num_classes
        else:
            context, contexts = self.previous(ids), self.vocab
            usable = valid & self.previous(valid) & self.has_previous
        where = (place * contexts + context)[valid]
        event = where * self.vocab + ids[valid]
        is_usable, size = usable[valid], places * contexts
        return (
            Keys(np.where(is_usable, where, size), size),
            Keys(np.where(is_usable, event, size * self.vocab), size * self.vocab),
        )


class KeyCounts:
    """Weighted number of occurrences of keys.

    Args:
        keys: Keys that are counted.
        weights: Weight of each, float (M,).
    """

    def __init__(self, keys: Keys, weights: np.ndarray) -> None:
        self.known: np.ndarray | None = None
        number = keys.keys
        if keys.size > DENSE_KEYS:
            self.known, number = np.unique(keys.keys, return_inverse=True)
        self.number = number
        self.weights = np.where(keys.keys < keys.size, weights, 0.0)
        self.bins = keys.size + 1 if self.known is None else len(self.known)
        self.counts = self.of(np.ones(len(number), dtype=bool))

    def of(self, chosen: np.ndarray) -> np.ndarray:
        """Return the counts by number of key of some of the counted tokens, bool (M,)."""
        return np.bincount(self.number[chosen], self.weights[chosen], minlength=self.bins)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Return the count of each key, float64 of the same shape; 0 for unseen ones."""
        if self.known is None:
            return self.counts[keys]
        if not len(self.known):
            return np.zeros(keys.shape)
        place = np.searchsorted(self.known, keys).clip(max=len(self.known) - 1)
        return np.where(self.known[place] == keys, self.counts[place], 0.0)


def mixed(
    events: np.ndarray, contexts: np.ndarray, strength: float, coarser: np.ndarray
) -> np.ndarray:
    """Return probabilities of counts, mixed with those of the coarser level."""
    if np.isinf(strength):
        return coarser
    return (events + strength * coarser) / (contexts + strength)


class SmoothedCounts:
    """One chain with its smoothing, counted on train sequences.

    Args:
        keys: Of the modality.
        levels: Of the chain.
        smoothing: Its strengths.
        tokens: Train sequences.
        weights_N: Weight of each sequence.
    """

    def __init__(
        self,
        keys: TokenKeys,
        levels: tuple[Level, ...],
        smoothing: Smoothing,
        tokens: Sequences,
        weights_N: np.ndarray,
    ) -> None:
        self.keys, self.smoothing = keys, smoothing
        each = np.repeat(weights_N, tokens.valid_NT.sum(1))
        self.levels = []
        for level, strength in zip(levels, smoothing.strengths, strict=True):
            if not np.isinf(strength):
                context, event = (KeyCounts(k, each) for k in keys(level, tokens))
                self.levels.append((level, strength, context, event))

    def log_probs(self, tokens: Sequences) -> np.ndarray:
        """Return log-probabilities in nats, float64 (N, T); slots that are not valid hold 0."""
        p = np.full(int(tokens.valid_NT.sum()), 1 / self.keys.choices)
        for level, strength, contexts, events in self.levels:
            context, event = self.keys(level, tokens)
            p = mixed(events(event.keys), contexts(context.keys), strength, p)
        found = np.zeros(tokens.valid_NT.shape)
        found[tokens.valid_NT] = np.log(p)
        return found


@dataclass(frozen=True)
class NgramModel:
    """The n-gram baselines of one modality.

    Attributes:
        keys: Of the modality.
        chains: By name; "class unigram" only with several classes.
        sequences: Number of train sequences that were counted.
    """

    keys: TokenKeys
    chains: Mapping[BaselineName, SmoothedCounts] = field(repr=False)
    sequences: int

    @property
    def choices(self) -> int:
        """Number of ids that a slot may hold: those of its own codebook."""
        return self.keys.choices

    def previous(self, values_NT: np.ndarray) -> np.ndarray:
        """Return the value of the previous slot of each slot, bool (N, T); False without one."""
        return self.keys.previous(values_NT) & self.keys.has_previous

    def log_probs(self, tokens: Sequences) -> dict[BaselineName, np.ndarray]:
        """Return log-probabilities in nats by baseline, float64 (N, T); 0 where not valid."""
        return {name: chain.log_probs(tokens) for name, chain in self.chains.items()}
