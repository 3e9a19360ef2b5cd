"""Batches of a step, from its number only, made in this process or in advance by others."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nano4m.compute.workers import worker_pool
from nano4m.config.masking import MaskingConfig
from nano4m.masking import mask
from nano4m.masking.corruption import corrupt
from nano4m.progress import log_info
from nano4m.tokens.batch import MaskedBatch, TokenSequence
from nano4m.tokens.table import FREE, Samples, TokenTable, open_table
from nano4m.training.batch_sampler import CORRUPTION, MASKS, VIEWS, generator
from nano4m.training.packed_batch import PackedBatch, Packer


def masked_batches(
    table: TokenTable,
    rows: np.ndarray,
    config: MaskingConfig,
    seed: int,
    stream: int,
    index: int,
    progress: float = 1.0,
    views: np.ndarray | None = None,
) -> list[MaskedBatch]:
    """Return ``rows`` with random views, masked; depends on the arguments only.

    Args:
        table: Token table.
        rows: Row numbers (B,).
        config: Masking; each ``group_size`` rows are a group.
        seed, stream, index: Of all random numbers.
        progress: Fraction of training done, in [0, 1].
        views: int64 (B, C), see ``Samples``; None: all are drawn.
    """
    if views is None:
        views = np.full((len(rows), len(table.modalities)), FREE, dtype=np.int64)
    drawn = np.random.default_rng([seed, VIEWS, stream, index])
    ids, valid = table.gather(rows, table.draw_views(Samples(rows, views), drawn))
    tokens = TokenSequence(table.modalities)
    draw = generator(seed, stream, index)
    return mask(torch.from_numpy(ids), torch.from_numpy(valid), tokens, config, draw, progress)


BROKEN = (
    "train: a process that makes batches was killed, most often for lack of memory; they are made "
    "in this process from here on, which takes longer (--train.workers)"
)


@dataclass(frozen=True, kw_only=True)
class BatchMaker:
    """Makes the batches of training steps.

    Attributes:
        masking, seed, steps: Settings of the run.
        packer: Packs the groups of a step.
        passes: Packed batches of a step.
        corruption: Share of the inputs that are replaced by random tokens.
    """

    masking: MaskingConfig
    seed: int
    steps: int
    packer: Packer
    passes: int = 1
    corruption: float = 0.0

    def masked(self, table: TokenTable, number: int, picked: Samples) -> list[MaskedBatch]:
        """Return the groups of step ``number`` (from 0) on the samples ``picked``."""
        progress = number / self.steps
        batches = masked_batches(
            table, picked.rows, self.masking, self.seed, MASKS, number, progress, picked.views
        )
        if not self.corruption:
            return batches
        draw = generator(self.seed, CORRUPTION, number)
        return [corrupt(batch, table.modalities, self.corruption, draw) for batch in batches]

    def packed(self, table: TokenTable, number: int, picked: Samples) -> list[PackedBatch]:
        """Return the packed batches of ``masked``."""
        return self.packer.parts(self.masked(table, number, picked), self.passes)

    def ahead(
        self,
        table: TokenTable,
        folder: Path | None,
        steps: Iterable[tuple[int, Samples]],
        workers: int,
        depth: int,
    ) -> Iterator[tuple[int, Samples, list[PackedBatch]]]:
        """Yield (number, picked, packed batches) of ``steps``, in order.

        Other processes take seconds to start; until one has made a batch, this process makes them.
        It also does when one of them was killed.

        Args:
            table: Token table.
            folder: Folder of the table, which other processes open; None: no other processes.
            steps: (number, picked) of each step.
            workers: Number of processes; 0 makes each batch when requested.
            depth: Number of steps made in advance.
        """
        workers = workers if folder is not None else 0
        with worker_pool(workers, "--train.workers") if workers else nullcontext() as pool:
            running: deque[tuple[int, Samples, Future | None]] = deque()
            coming, has_begun = iter(steps), False
            while True:
                while len(running) < max(1, depth):
                    step = next(coming, None)
                    if step is None:
                        break
                    job = None
                    with suppress(BrokenProcessPool):  # the batches under way tell it, see below
                        job = pool.submit(_make, folder, self, *step) if pool and folder else None
                    running.append((*step, job))
                if not running:
                    return
                number, picked, job = running.popleft()
                has_begun = has_begun or (job is not None and job.done())
                made = None
                if job is not None and has_begun:
                    try:
                        made = job.result()
                    except BrokenProcessPool:
                        if pool is not None:
                            log_info(BROKEN)
                        pool = None
                elif job is not None:
                    job.cancel()
                yield number, picked, made or self.packed(table, number, picked)


@lru_cache(maxsize=1)
def _table(folder: Path) -> TokenTable:
    torch.set_num_threads(1)
    return open_table(folder)


def _make(folder: Path, maker: BatchMaker, number: int, picked: Samples) -> list[PackedBatch]:
    return maker.packed(_table(folder), number, picked)
