"""Validation: the same clips and masks in every run on a table, so that losses can be compared.

Clips are drawn by a fixed seed, equally many of each class where that is possible. Masks are those
of generation's own steps, whatever masks a run is trained with; only another order of generation,
or codebooks that it decodes together, changes them.
"""

import numpy as np

from nano4m.config.masking import STRATEGY_NAMES, MaskingConfig
from nano4m.config.run import Config
from nano4m.tokens.batch import MaskedBatch
from nano4m.tokens.table import FREE, Samples, TokenTable
from nano4m.training.batch_sampler import VALIDATION, VIEWS, rank_keys
from nano4m.training.batches import masked_batches

SEED = 0
"""Of clips and masks; that of the run plays no role, so that runs of several seeds compare too."""

GROUP = 4
"""Samples that share a draw of masks."""


def validation_rows(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` of ``rows``, as many of each class as of any other if there are enough.

    Fewer rows than ``count`` are repeated, all equally often (up to one).

    Args:
        rows: Row numbers (n,), one or more.
        labels: Class of each, (n,).
        count: Number of rows to return.
    """
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(rows))
    rank = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    # The first of each class, then the second of each, ...; random inside a turn.
    turns = order[np.argsort(rank[order], kind="stable")]
    chosen = np.resize(turns, count)
    return rows[rng.permutation(chosen)]


def validation_masks(config: Config) -> MaskingConfig:
    """Return the masks of the run's generation: they follow ``generate`` and no masking setting.

    Few samples share a draw, so that each target is drawn many times.
    """
    weights = {name: float(name == "inference_aligned") for name in STRATEGY_NAMES}
    plain = MaskingConfig(**weights, group_size=GROUP, prefixes=1)
    return config.model_copy(update={"masking": plain}).masks


def validation_batches(table: TokenTable, rows: np.ndarray, config: Config) -> list[MaskedBatch]:
    """Return ``rows`` masked in groups of equal token counts; all groups but the last of each are
    full.

    Args:
        table: Token table.
        rows: Row numbers (B,), in any order; some may come up several times.
        config: Of the run; its settings of generation are used.
    """
    masks = validation_masks(config)
    drawn = np.random.default_rng([SEED, VIEWS, VALIDATION, 0])
    free = np.full((len(rows), len(table.modalities)), FREE, dtype=np.int64)
    views = table.draw_views(Samples(rows, free), drawn)
    key_B = rank_keys(table.counts(rows, views))
    size = masks.group_size
    full: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for key in range(int(key_B.max(initial=-1)) + 1):
        own = np.flatnonzero(key_B == key)
        whole = len(own) // size * size
        full.append(own[:whole])
        rest += [own[whole:]] if whole < len(own) else []
    parts = [np.concatenate(full)] if sum(map(len, full)) else []
    return [
        batch
        for index, part in enumerate(parts + rest)
        for batch in masked_batches(
            table, rows[part], masks, SEED, VALIDATION, index, views=views[part]
        )
    ]
