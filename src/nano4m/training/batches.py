"""Batches of a step, from its number only, made in this process or in advance by others."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nano4m.compute.workers import worker_pool
from nano4m.config.masking import MaskingConfig
from nano4m.masking import mask
from nano4m.tokens.batch import MaskedBatch, TokenSequence
from nano4m.tokens.table import TokenTable, open_table
from nano4m.training.batch_sampler import MASKS, VIEWS, generator
from nano4m.training.packed_batch import PackedBatch, Packer


def masked_batches(
    table: TokenTable,
    rows: np.ndarray,
    config: MaskingConfig,
    seed: int,
    stream: int,
    index: int,
    progress: float = 1.0,
) -> list[MaskedBatch]:
    """Return ``rows`` with random views, masked; depends on the arguments only."""
    ids, valid = table.gather(rows, np.random.default_rng([seed, VIEWS, stream, index]))
    tokens = TokenSequence(table.modalities)
    draw = generator(seed, stream, index)
    return mask(torch.from_numpy(ids), torch.from_numpy(valid), tokens, config, draw, progress)


@dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes the batches of training steps.

    Attributes:
        masking, seed, steps: Settings of the run.
        packer: Packs the groups of a step.
    """

    masking: MaskingConfig
    seed: int
    steps: int
    packer: Packer

    def masked(self, table: TokenTable, number: int, picked: np.ndarray) -> list[MaskedBatch]:
        """Return the groups of step ``number`` (from 0) on the rows ``picked``."""
        progress = number / self.steps
        return masked_batches(table, picked, self.masking, self.seed, MASKS, number, progress)

    def packed(self, table: TokenTable, number: int, picked: np.ndarray) -> list[PackedBatch]:
        """Return the packed batches of ``masked``."""
        return self.packer.parts(self.masked(table, number, picked))

    def ahead(
        self,
        table: TokenTable,
        folder: Path | None,
        steps: Iterable[tuple[int, np.ndarray]],
        workers: int,
        depth: int,
    ) -> Iterator[tuple[int, np.ndarray, list[PackedBatch]]]:
        """Yield (number, picked, packed batches) of ``steps``, in order.

        Other processes take seconds to start; until one has made a batch, this process makes them.

        Args:
            table: Token table.
            folder: Folder of the table, which other processes open; None: no other processes.
            steps: (number, picked) of each step.
            workers: Number of processes; 0 makes each batch when requested.
            depth: Number of steps made in advance.
        """
        workers = workers if folder is not None else 0
        with worker_pool(workers, "--train.workers") if workers else nullcontext() as pool:
            running: deque[tuple[int, np.ndarray, Future | None]] = deque()
            coming, has_begun = iter(steps), False
            while True:
                while len(running) < max(1, depth):
                    step = next(coming, None)
                    if step is None:
                        break
                    job = pool.submit(_make, folder, self, *step) if pool and folder else None
                    running.append((*step, job))
                if not running:
                    return
                number, picked, job = running.popleft()
                has_begun = has_begun or (job is not None and job.done())
                if job is not None and has_begun:
                    made = job.result()
                else:
                    if job is not None:
                        job.cancel()
                    made = self.packed(table, number, picked)
                yield number, picked, made


@lru_cache(maxsize=1)
def _table(folder: Path) -> TokenTable:
    torch.set_num_threads(1)
    return open_table(folder)


def _make(folder: Path, maker: BatchMaker, number: int, picked: np.ndarray) -> list[PackedBatch]:
    return maker.packed(_table(folder), number, picked)
