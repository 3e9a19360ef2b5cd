"""Validation: the same clips and masks in every run on a table, so that losses can be compared.

Clips are drawn by a fixed seed, equally many of each class where that is possible. Masks are those
of generation's own steps, whatever the weights of the strategies; they are the same in runs with
equal ``decode_steps``, ``decode_orders``, ``codebooks``, ``num_inputs_weights`` and ``prefixes``.
"""

import numpy as np

from nano4m.config.masking import STRATEGY_NAMES, MaskingConfig
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


def validation_masks(config: MaskingConfig) -> MaskingConfig:
    """Return the masks of generation's steps, with the settings of ``config``.

    Few samples share a draw, so that each target is drawn many times.
    """
    weights = {name: float(name == "inference_aligned") for name in STRATEGY_NAMES}
    apart = {"end_weights": {}, "paired_totals": False, "group_size": GROUP}
    return config.model_copy(update=weights | apart)


def validation_batches(
    table: TokenTable, rows: np.ndarray, config: MaskingConfig
) -> list[MaskedBatch]:
    """Return ``rows`` masked in groups of equal token counts; all groups but the last of each are
    full.

    Args:
        table: Token table.
        rows: Row numbers (B,), in any order; some may come up several times.
        config: Masking of the run.
    """
    config = validation_masks(config)
    drawn = np.random.default_rng([SEED, VIEWS, VALIDATION, 0])
    free = np.full((len(rows), len(table.modalities)), FREE, dtype=np.int64)
    views = table.draw_views(Samples(rows, free), drawn)
    key_B = rank_keys(table.counts(rows, views))
    size = config.group_size
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
            table, rows[part], config, SEED, VALIDATION, index, views=views[part]
        )
    ]
