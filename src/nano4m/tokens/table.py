"""The token table: the interface on disk between media and training.

``tokens.parquet`` is the exchange form, with one row a clip: ``clip_id``, ``label``, ``split``, one
fixed-size uint16 list a modality ([views * length], row-major) and ``<name>_length``, a list of the
tokens that each view has: the true length of a text including the end token, 0 where a clip lacks
the modality. A modality other than text that all clips have needs no such column. The file's
metadata has the token spec: modalities and fingerprint of each tokenizer; ``codes.safetensors`` has
the codebooks. Training maps ``tokens.arrow`` (Arrow IPC, the same rows) into memory. A table larger
than one shard continues in further files, see ``table_shards``.

Shapes: n clips of the table, B rows, C modalities, L all token slots.
"""

import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save_file

from nano4m.errors import UserError
from nano4m.modalities import Modality
from nano4m.storage.arrays import map_arrow
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.files import whole_file
from nano4m.storage.json_files import FORMAT, without_format
from nano4m.tokens.spec import TokenSpec as TokenSpec
from nano4m.tokens.table_checks import check_ids, check_lengths
from nano4m.tokens.table_shards import (
    INDEX,
    MAKE_AGAIN,
    SHARD_BYTES,
    Sharded,
    finish,
    read_index,
    shard_name,
    strings,
    write_shard,
)

CODES = "codes.safetensors"
_META = b"nano4m"


FREE = -1
"""View that is still to be drawn, see ``Samples``."""


class Samples(NamedTuple):
    """Clips, and the view of each modality.

    rows: int64 (B,), rows of the table.
    views: int64 (B, C), FREE where any view has as many tokens and one is drawn later.
    """

    rows: np.ndarray
    views: np.ndarray


@dataclass(frozen=True)
class TokenTable:
    """A token table in memory or mapped from disk.

    Attributes:
        token_spec: Modalities and tokenizer fingerprints.
        clip_ids, labels, splits: String arrays (n,).
        ids: Modality name -> uint16 (n, views, length); for several shards a ``Sharded``, which is
            indexed by rows like an array. Ids of an absent modality mean nothing; they are 0.
        lengths: Modality name -> int64 (n, views), the tokens of each view: of a text with its end
            token, of other modalities all or none; 0: the clip lacks the modality. Of modalities
            that are left out when the table is made, all clips have all tokens.
        codebooks: Name -> float32 (vocab_size, width), the vector of each id, if its tokenizer has
            one; the model's embedding table may start from it.
        highest: Modality name -> highest id, if known; None: all ids are checked.
    """

    token_spec: TokenSpec
    clip_ids: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    ids: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    codebooks: Mapping[str, np.ndarray] = field(default_factory=dict)
    highest: InitVar[Mapping[str, int] | None] = None

    def __post_init__(self, highest: Mapping[str, int] | None) -> None:
        check_ids(self.clip_ids, self.modalities, self.ids, highest)
        # Views of one number, without memory.
        whole = {
            m.name: np.broadcast_to(np.int64(m.length), self.ids[m.name].shape[:2])
            for m in self.modalities
        }
        object.__setattr__(self, "lengths", whole | dict(self.lengths))
        check_lengths(self.clip_ids, self.modalities, self.ids, self.lengths)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, in the order of the token sequence."""
        return self.token_spec.modalities

    @property
    def classes(self) -> list[str]:
        """Sorted class labels."""
        return sorted(set(self.labels.tolist()))

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, in table order."""
        return np.flatnonzero(self.splits == split)

    def present(self, name: str) -> np.ndarray:
        """Return which clips have a modality in any view, bool (n,)."""
        return np.asarray((self.lengths[name] > 0).any(axis=1))

    @cached_property
    def _view_groups(self) -> list[tuple[int, list[int]]]:
        """Number of views, and modalities that always take the same one, for each of these."""
        found: dict[tuple[str, int], list[int]] = {}
        for index, modality in enumerate(self.modalities):
            number = self.ids[modality.name].shape[1]
            found.setdefault((modality.frame_group, number), []).append(index)
        return [(number, indices) for (_, number), indices in found.items()]

    def variants(self, rows: np.ndarray) -> Samples:
        """Return ``rows`` once for each combination of views in which numbers of tokens differ.

        Every row comes up equally often, usually once: views with equal numbers stay FREE.
        """
        samples = Samples(rows, np.full((len(rows), len(self.modalities)), FREE, dtype=np.int64))
        for number, indices in self._view_groups:
            lengths = (self.lengths[self.modalities[index].name] for index in indices)
            if all((own[rows] == own[rows, :1]).all() for own in lengths):
                continue
            count = len(samples.rows)
            samples = Samples(*(np.tile(part, (number, 1)[: part.ndim]) for part in samples))
            samples.views[:, indices] = np.repeat(np.arange(number), count)[:, None]
        return samples

    def draw_views(self, samples: Samples, rng: np.random.Generator) -> np.ndarray:
        """Return the views of ``samples`` with a random one instead of each FREE, int64 (B, C)."""
        views = samples.views.copy()
        for number, indices in self._view_groups:
            drawn = rng.integers(number, size=len(views))[:, None]
            views[:, indices] = np.where(views[:, indices] == FREE, drawn, views[:, indices])
        return views

    def counts(self, rows: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Return how many tokens ``rows`` have of each modality, int64 (B, C).

        Args:
            rows: Row numbers (B,).
            views: int64 (B, C), the view of each modality; None or FREE: the first.
        """
        views = np.zeros((len(rows), len(self.modalities)), np.int64) if views is None else views
        return np.stack(
            [
                self.lengths[modality.name][rows, view.clip(min=0)]
                for modality, view in zip(self.modalities, views.T, strict=True)
            ],
            axis=1,
        )

    def gather(
        self, rows: np.ndarray, views: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of ``rows``, all modalities concatenated.

        Args:
            rows: Row numbers (B,).
            views: int64 (B, C), the view of each modality, see ``draw_views``; None: the first.

        Returns:
            ids int64 (B, L) and valid bool (B, L), L the summed length of the modalities. Not valid
            are positions behind the end of a caption and modalities that a clip lacks; ids are 0
            there.
        """
        views = np.zeros((len(rows), len(self.modalities)), np.int64) if views is None else views
        parts, valids = [], []
        counts = self.counts(rows, views)
        for modality, view, count in zip(self.modalities, views.T, counts.T, strict=True):
            valids.append(np.arange(modality.length) < count[:, None])
            parts.append(self.ids[modality.name][rows, view].astype(np.int64) * valids[-1])
        return np.concatenate(parts, axis=1), np.concatenate(valids, axis=1)


def write_table(table: TokenTable, folder: Path, shard_rows: int | None = None) -> None:
    """Write the shards of a table in both forms, then their index.

    Besides the table one shard is in memory at a time.

    Args:
        table: The table to write.
        folder: Target folder; created if missing.
        shard_rows: Clips a shard; None: as many as SHARD_BYTES of ids.

    Raises:
        OSError: The folder cannot be written.
    """
    count = len(table.clip_ids)
    row_bytes = sum(2 * ids.shape[1] * ids.shape[2] for ids in table.ids.values())
    step = shard_rows or max(1, SHARD_BYTES // row_bytes)
    views = {name: ids.shape[1] for name, ids in table.ids.items()}
    meta = json.dumps({"format": FORMAT} | table.token_spec.to_json() | {"views": views}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, start in enumerate(range(0, max(count, 1), step)):
        own = slice(start, min(start + step, count))
        write_shard(folder, number, _columns(table, own), meta)
        shards.append({"name": shard_name(number), "rows": own.stop - own.start})
    with whole_file(folder / CODES) as part:
        save_file({n: np.ascontiguousarray(c) for n, c in table.codebooks.items()}, part)
    highest = {name: int(ids.max()) if ids.size else 0 for name, ids in table.ids.items()}
    finish(folder, {"rows": count, "shards": shards, "highest": highest})


def _columns(table: TokenTable, own: slice) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {
        "clip_id": pa.array(table.clip_ids[own], pa.string()),
        "label": pa.array(table.labels[own], pa.string()),
        "split": pa.array(table.splits[own], pa.string()),
    }

    def lists(cells: np.ndarray) -> pa.Array:
        flat = np.ascontiguousarray(cells, dtype=np.uint16).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), int(np.prod(cells.shape[1:])))

    columns |= {name: lists(ids[own]) for name, ids in table.ids.items()}
    columns |= {f"{m.name}_length": lists(table.lengths[m.name][own]) for m in _measured(table)}
    return columns


def _measured(table: TokenTable) -> list[Modality]:
    """Return the modalities with a column of lengths: texts, and those that a clip lacks."""
    return [
        m for m in table.modalities if m.is_text or bool((table.lengths[m.name] < m.length).any())
    ]


def open_table(folder: Path) -> TokenTable:
    """Return a table whose shards are mapped into memory; ids are read when accessed.

    The index has the highest id of each modality, found when the ids were written; in an older
    table without an index, all ids are checked.

    Raises:
        UserError: No table, a missing or damaged shard, or an inconsistent table (an id out of
            range, a caption without an end, a clip without tokens); the message names the clip.
    """
    index = _index(folder)
    mapped = [_map_shard(folder / f"{shard['name']}.arrow", shard) for shard in index["shards"]]
    if any(shard.schema.metadata[_META] != mapped[0].schema.metadata[_META] for shard in mapped):
        raise UserError(f"the shards in {folder} are not of one token table; {MAKE_AGAIN}")
    first = folder / f"{index['shards'][0]['name']}.arrow"
    with reading(first, MAKE_AGAIN):
        meta = without_format(json.loads(mapped[0].schema.metadata[_META]), folder)
        token_spec = TokenSpec.from_json(meta)
        lacking = {"clip_id", "label", "split", *(m.name for m in token_spec.modalities)} - set(
            mapped[0].schema.names
        )
        if lacking:
            raise ValueError(f"it has no column {sorted(lacking)[0]}")

    def column(name: str, *shape: int) -> np.ndarray:
        parts = [
            chunk.values.to_numpy(zero_copy_only=True)[
                chunk.offset * int(np.prod(shape)) :
            ].reshape(-1, *shape)[: len(chunk)]
            for shard in mapped
            for chunk in shard.column(name).chunks
        ]
        if len(parts) == 1:
            return parts[0]
        # It is indexed like an array; joining the shards might exceed the memory.
        return cast(np.ndarray, Sharded(parts or [np.zeros((0, *shape), np.uint16)]))

    ids = {m.name: column(m.name, meta["views"][m.name], m.length) for m in token_spec.modalities}
    lengths = {
        m.name: np.asarray(column(f"{m.name}_length", meta["views"][m.name]), dtype=np.int64)
        for m in token_spec.modalities
        if f"{m.name}_length" in mapped[0].schema.names
    }
    texts = [
        strings(pa.chunked_array([c for shard in mapped for c in shard.column(name).chunks]
                                 or [pa.array([], pa.string())]))
        for name in ("clip_id", "label", "split")
    ]  # fmt: skip
    try:
        with reading(folder / CODES, MAKE_AGAIN):
            codes = load_file(folder / CODES)
    except FileNotFoundError as error:
        raise DamagedFile(folder / CODES, "it is missing", MAKE_AGAIN) from error
    return TokenTable(
        token_spec, texts[0], texts[1], texts[2], ids, lengths, codes, index["highest"]
    )


def _index(folder: Path) -> dict[str, Any]:
    index = read_index(folder)
    with reading(folder / INDEX, MAKE_AGAIN):
        if not [(shard["name"], shard["rows"]) for shard in index["shards"]]:
            raise ValueError("it lists no shard")
        if index["highest"] is not None and not all(
            isinstance(highest, int) for highest in index["highest"].values()
        ):
            raise ValueError("highest ids that are no numbers")
    return index


def _map_shard(path: Path, shard: Mapping[str, Any]) -> pa.Table:
    if not path.exists():
        raise UserError(
            f"no token table at {path.parent} ({path.name}); run: nano4m table PRESET --out OUT"
        )
    arrow = map_arrow(path, MAKE_AGAIN)
    if _META not in (arrow.schema.metadata or {}):
        raise DamagedFile(path, "it is an Arrow file, but no token table of nano4m", MAKE_AGAIN)
    if shard["rows"] not in (None, arrow.num_rows):
        raise DamagedFile(
            path, f"it has {arrow.num_rows} clips, its index says {shard['rows']}", MAKE_AGAIN
        )
    return arrow
