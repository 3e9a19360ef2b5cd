"""Tiny tables whose clips lack modalities, and what absent tokens are marked with; no tests."""

import dataclasses

import numpy as np

from conftest import tiny_table
from nano4m.tokens.table import TokenTable

MARKED = {"rgb": 10, "depth": 6, "normals": 8, "sound": 15, "caption": 12}
"""An id of each modality that only slots without a token have, see ``with_gaps``."""


def with_gaps(
    missing: float, num_clips: int = 96, seed: int = 0, keep: tuple[str, ...] = ("rgb",)
) -> TokenTable:
    """Return the tiny table with each modality taken from a share of the clips, but for ``keep``.

    Every clip keeps at least one.
    Slots of modalities that a clip lacks hold the ids of MARKED, and no other slot does: a token
    that is read from there is a leak.
    """
    table = tiny_table(num_clips)
    rng = np.random.default_rng([seed, 1])
    ids, lengths = {}, {}
    kept = rng.integers(len(table.modalities), size=num_clips)
    for index, modality in enumerate(table.modalities):
        name = modality.name
        is_gone = (rng.random(num_clips) < missing) & (kept != index) & (name not in keep)
        ids[name] = np.where(table.ids[name] == MARKED[name], MARKED[name] - 1, table.ids[name])
        ids[name][is_gone] = MARKED[name]
        lengths[name] = np.where(is_gone[:, None], 0, table.lengths[name])
    return dataclasses.replace(table, ids=ids, lengths=lengths)


def with_captions(table: TokenTable, captions: int = 3, seed: int = 0) -> TokenTable:
    """Return the table with several captions a clip, of unequal lengths; some views are absent."""
    rng = np.random.default_rng([seed, 2])
    length = table.ids["caption"].shape[2]
    lengths = rng.integers(0, length + 1, (len(table.clip_ids), captions))
    ids = rng.integers(1, 12, (*lengths.shape, length), dtype=np.uint16)
    ids[np.arange(length) >= lengths[..., None] - 1] = 0
    return dataclasses.replace(
        table,
        ids=dict(table.ids) | {"caption": ids},
        lengths=dict(table.lengths) | {"caption": lengths},
    )
