"""Batch sampler, and seeds of all random numbers of a step.

Both depend on the seed and the step number only, so resuming needs no saved state for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

# Random streams: one name, one number, never reused for another purpose.
ORDER, VIEWS, MASKS, WEIGHTS, VALIDATION, DROPOUT = range(6)


def derive_seed(seed: int, stream: int, index: int = 0) -> int:
    """Return an independent seed for (seed, stream, index)."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, stream: int, index: int = 0) -> torch.Generator:
    """Return a torch generator for (seed, stream, index)."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, index))


@dataclass(frozen=True)
class BatchSampler:
    """Endless order of rows in groups of equal text length, every row equally often.

    Groups of one length stay dense when all tokens of a caption are inputs or targets. Each length
    has an endless sequence of its rows, permuted anew for every pass, and an epoch takes the whole
    groups of it that are due: a length with one row gives a group (of that row only) every
    ``group_size`` epochs, so rare lengths are not oversampled.
    """

    rows: np.ndarray
    text_lengths: np.ndarray
    group_size: int
    groups_per_step: int
    seed: int

    @cached_property
    def _lengths(self) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(self.text_lengths, return_counts=True)

    def groups_before(self, epoch: int) -> int:
        """Return the number of groups in all epochs before ``epoch``."""
        return int((epoch * self._lengths[1] // self.group_size).sum())

    def _epoch(self, epoch: int) -> np.ndarray:
        groups = [np.zeros((0, self.group_size), dtype=np.int64)]
        for length, count in zip(*self._lengths, strict=True):
            own = self.rows[self.text_lengths == length]
            first = epoch * count // self.group_size * self.group_size
            last = (epoch + 1) * count // self.group_size * self.group_size
            passes = range(first // count, -(-last // count))
            drawn = [
                np.random.default_rng([self.seed, ORDER, int(length), p]).permutation(own)
                for p in passes
            ]
            if drawn:
                start = first - passes[0] * count
                taken = np.concatenate(drawn)[start : start + last - first]
                groups.append(taken.reshape(-1, self.group_size))
        shuffle = np.random.default_rng([self.seed, ORDER, epoch])
        return shuffle.permutation(np.concatenate(groups))

    def steps(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the rows of steps ``start`` to ``stop``, (groups_per_step * group_size,) each."""
        epoch, held, groups = 0, -1, np.zeros((0, self.group_size), dtype=np.int64)
        for step in range(start, stop):
            picked = []
            for index in range(step * self.groups_per_step, (step + 1) * self.groups_per_step):
                while index >= self.groups_before(epoch + 1):
                    epoch += 1
                if held != epoch:
                    held, groups = epoch, self._epoch(epoch)
                picked.append(groups[index - self.groups_before(epoch)])
            yield np.concatenate(picked)
