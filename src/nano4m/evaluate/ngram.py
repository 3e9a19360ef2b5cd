"""N-gram baselines of the train split: unigram and bigram, by position and codebook.

Both are as strong as the data allow, because a baseline that is weak for lack of data would flatter
the model: counts of one position are mixed with those of all positions of the same codebook, those
with the unigram, and that with add-one smoothed counts, each step with the Dirichlet prior of
MacKay and Peto (1995, https://doi.org/10.1017/S1351324900000218).

The previous token is the one before in reading order; in sound, that of the same codebook one frame
earlier. The bigram always has the true one, also where a model must do without it.

Shapes: n clips, T slots of one modality.
"""

from dataclasses import dataclass

import numpy as np

from nano4m.modalities import Modality
from nano4m.tokens.table import TokenTable

PRIOR = 16.0
"""Weight, in clips, of the coarser distribution in the mixture with counts."""


class KeyCounts:
    """Number of occurrences of keys, which are int64 arrays of any shape."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Return the count of each key, float64 of the same shape; 0 for unseen ones."""
        if not len(self.keys):
            return np.zeros(keys.shape)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.counts[place], 0).astype(np.float64)


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities in nats, float64 (n, T) each; slots that are not valid hold 0."""

    unigram: np.ndarray
    bigram: np.ndarray


class NgramModel:
    """N-gram baseline of the tokens of one modality.

    Args:
        modality: Its layout defines the codebook and the previous slot of each slot.
        ids: int (n, T), of the train split.
        valid: bool (n, T), real tokens.
    """

    def __init__(self, modality: Modality, ids: np.ndarray, valid: np.ndarray) -> None:
        is_coded = modality.layout == "codebooks"
        self.books = modality.shape[1] if is_coded else 1
        self.vocab = modality.vocab_size
        slots = np.arange(ids.shape[1])
        # Keys of single slots, followed by one key for all slots of each codebook.
        self.slot, self.any_slot = slots, ids.shape[1] + slots % self.books
        self.tallies = {}
        for name, keys in self._keys(ids.astype(np.int64)).items():
            usable = valid & self._has_previous(valid) if "after" in name else valid
            self.tallies[name] = KeyCounts(keys[usable])

    @property
    def choices(self) -> int:
        """Number of ids that a slot may hold: those of its own codebook."""
        return self.vocab // self.books

    def _previous(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:, : self.books], values[:, : -self.books]], axis=1)

    def _has_previous(self, valid: np.ndarray) -> np.ndarray:
        return self._previous(valid) & (self.slot >= self.books)

    def _keys(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        before = self._previous(ids)
        keys: dict[str, np.ndarray] = {}
        for name, place in (("slot", self.slot), ("book", self.any_slot)):
            where = np.broadcast_to(place, ids.shape)
            after = where * self.vocab + before
            keys |= {
                name: where,
                f"{name}, id": where * self.vocab + ids,
                f"{name} after": after,
                f"{name} after, id": after * self.vocab + ids,
            }
        return keys

    def log_probs(self, ids: np.ndarray, valid: np.ndarray) -> LogProbs:
        """Return the log-probabilities of tokens, see ``LogProbs``.

        Args:
            ids: int (n, T).
            valid: bool (n, T).
        """
        count = {
            name: self.tallies[name](k) for name, k in self._keys(ids.astype(np.int64)).items()
        }

        def mixed(name: str, coarser: np.ndarray) -> np.ndarray:
            return (count[f"{name}, id"] + PRIOR * coarser) / (count[name] + PRIOR)

        share = (count["book, id"] + 1) / (count["book"] + self.choices)
        unigram = mixed("slot", share)
        bigram = mixed("slot after", mixed("book after", unigram))
        bigram = np.where(self._has_previous(valid), bigram, unigram)
        return LogProbs(np.log(unigram) * valid, np.log(bigram) * valid)


def fit_ngrams(table: TokenTable, modality: Modality, rows: np.ndarray) -> NgramModel:
    """Return the n-gram baseline of a modality, from all views in ``rows`` of the table."""
    ids = table.ids[modality.name][rows].reshape(-1, modality.length)
    valid = np.ones(ids.shape, dtype=bool)
    if modality.name in table.lengths:
        lengths = table.lengths[modality.name][rows].reshape(-1, 1)
        valid = np.arange(modality.length)[None] < lengths
    return NgramModel(modality, ids, valid)
