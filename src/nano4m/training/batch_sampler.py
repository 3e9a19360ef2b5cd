"""Batch sampler, and seeds of all random numbers of a step.

Both depend on the seed and the step number only, so resuming needs no saved state for them.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from nano4m.tokens.table import Samples

# Random streams: one name, one number, never reused for another purpose.
ORDER, VIEWS, MASKS, WEIGHTS, VALIDATION, DROPOUT, CORRUPTION = range(7)


def derive_seed(seed: int, stream: int, index: int = 0) -> int:
    """Return an independent seed for (seed, stream, index)."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, stream: int, index: int = 0) -> torch.Generator:
    """Return a torch generator for (seed, stream, index)."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, index))


def rank_keys(counts: np.ndarray) -> np.ndarray:
    """Return, for each row, the number of its distinct row of ``counts``: int64 (E,), from 0.

    Args:
        counts: Integers >= 0 (E, C), such as tokens by modality.
    """
    ranks = np.zeros(len(counts), dtype=np.int64)
    for column in counts.T:
        ranks = ranks * (int(column.max(initial=0)) + 1) + column
        ranks = np.unique(ranks, return_inverse=True)[1]
    return ranks


def balanced_rows(rows: np.ndarray, labels: np.ndarray, balance: float, seed: int) -> np.ndarray:
    """Return ``rows``, those of small classes several times.

    A row of a class of n, where the largest has N, comes up (N / n) ** balance times; the fraction
    of that is given to as many rows of the class, drawn with the seed.

    Args:
        rows: Row numbers (E,).
        labels: Class of each, (E,).
        balance: 0: every row once. 1: every class as often as the largest.
        seed: Of which rows get one more.
    """
    if not balance:
        return rows
    found, index_E, count_C = np.unique(labels, return_inverse=True, return_counts=True)
    times_C = (count_C.max() / count_C) ** balance
    random = np.random.default_rng([seed, ORDER, 2]).random(len(rows))
    whole_E = np.floor(times_C).astype(np.int64)[index_E]
    for number in range(len(found)):
        own = np.flatnonzero(index_E == number)
        more = round(float(times_C[number] % 1) * len(own))
        whole_E[own[np.argsort(random[own])[:more]]] += 1
    return np.repeat(rows, whole_E)


@dataclass(frozen=True)
class BatchSampler:
    """Endless order of samples in groups of equal token counts, every sample equally often.

    Groups of equal counts stay dense when all tokens of a modality are inputs or targets, and take
    one pass whatever modalities their clips lack. Samples of equal counts have an endless sequence,
    permuted anew for every pass, and an epoch takes the whole groups of it that are due. The
    sequence begins at a random place of its first group: samples of rare counts, which give a group
    (of themselves only) once in several epochs, are expected as often as others in a run of any
    length.

    Attributes:
        samples: What is ordered, E samples.
        counts: int64 (E, C), their tokens by modality.
        group_size, groups_per_step: Samples of a group, and groups of a step.
        seed: Of the order.
    """

    samples: Samples
    counts: np.ndarray
    group_size: int
    groups_per_step: int
    seed: int

    @cached_property
    def _order(self) -> np.ndarray:
        """Samples sorted by their counts, int64 (E,)."""
        return np.argsort(self._keys, kind="stable")

    @cached_property
    def _keys(self) -> np.ndarray:
        return rank_keys(self.counts)

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Number of samples of each distinct row of counts, int64 (K,)."""
        return np.bincount(self._keys)

    @cached_property
    def _begun(self) -> np.ndarray:
        """Place in its first group where each sequence begins, int64 (K,)."""
        rng = np.random.default_rng([self.seed, ORDER])
        return rng.integers(self.group_size, size=len(self._sizes))

    def _groups_before(self, epoch: int) -> np.ndarray:
        return (epoch * self._sizes + self._begun) // self.group_size

    def groups_before(self, epoch: int) -> int:
        """Return the number of groups in all epochs before ``epoch``."""
        return int(self._groups_before(epoch).sum())

    def _epoch_of(self, index: int) -> int:
        """Return the epoch of a group."""
        most = (index + len(self._sizes) + 1) * self.group_size // len(self.counts) + 1
        return bisect_right(range(most + 1), index, key=self.groups_before) - 1

    def _epoch(self, epoch: int) -> np.ndarray:
        """Return the groups of an epoch, places in ``samples``, int64 (groups, group_size)."""
        first_K = self._groups_before(epoch)
        due_K = self._groups_before(epoch + 1) - first_K
        key_G = np.repeat(np.arange(len(due_K)), due_K)
        number_G = np.arange(len(key_G)) + np.repeat(first_K - np.cumsum(due_K) + due_K, due_K)
        # Place of each element in the endless sequence of its key, then pass and place in it.
        place_GS = number_G[:, None] * self.group_size + np.arange(self.group_size)
        pass_GS, rank_GS = np.divmod(place_GS, self._sizes[key_G][:, None])
        start_K = np.cumsum(self._sizes) - self._sizes
        rank_GS += start_K[key_G][:, None]
        found = np.empty_like(place_GS)
        for number in np.unique(pass_GS).tolist():
            is_own_GS = pass_GS == number
            found[is_own_GS] = self._pass(number, key_G[is_own_GS.any(1)])[rank_GS[is_own_GS]]
        return np.random.default_rng([self.seed, ORDER, epoch, 0]).permutation(found)

    def _pass(self, number: int, keys: np.ndarray) -> np.ndarray:
        """Return ``_order`` with the samples of ``keys`` permuted, each within its key."""
        is_used_K = np.zeros(len(self._sizes), dtype=bool)
        is_used_K[keys] = True
        key_E = np.repeat(np.arange(len(self._sizes)), self._sizes)  # as sorted in _order
        places = np.flatnonzero(is_used_K[key_E])
        random = np.random.default_rng([self.seed, ORDER, number, 1]).random(len(self.counts))
        order = self._order.copy()
        # Sorts by key, then at random; below 1 also when rounded, so no sample gets to another key.
        order[places] = order[places[np.argsort(key_E[places] + 0.999 * random[places])]]
        return order

    def steps(self, start: int, stop: int) -> Iterator[Samples]:
        """Yield the groups_per_step * group_size samples of steps ``start`` to ``stop``."""
        first, groups = 0, np.zeros((0, self.group_size), dtype=np.int64)
        for step in range(start, stop):
            picked = []
            for index in range(step * self.groups_per_step, (step + 1) * self.groups_per_step):
                if not 0 <= index - first < len(groups):
                    epoch = self._epoch_of(index)
                    first, groups = self.groups_before(epoch), self._epoch(epoch)
                picked.append(groups[index - first])
            places = np.concatenate(picked)
            yield Samples(*(part[places] for part in self.samples))
