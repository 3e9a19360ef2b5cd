"""The token table: the interface on disk between media and training.

``tokens.parquet`` is the exchange form, with one row a clip: ``clip_id``, ``label``, ``split``, one
fixed-size uint16 list a modality ([views * length], row-major) and, for text, ``<name>_length``,
the true length including the end token. The file's metadata has the token spec: modalities and
fingerprint of each tokenizer; ``codes.safetensors`` has the codebooks. Training maps
``tokens.arrow`` (Arrow IPC, the same rows) into memory. A table larger than one shard continues in
further files, see ``table_shards``.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nano4m.errors import UserError
from nano4m.json_files import FORMAT, without_format
from nano4m.modalities import TEXT_END, Modality
from nano4m.tokens.table_shards import (
    INDEX,
    SHARD_BYTES,
    Sharded,
    finish,
    read_index,
    shard_name,
    strings,
    write_shard,
)

_META = b"nano4m"
_MAKE_AGAIN = "run: nano4m table PRESET --out OUT --overwrite"


@dataclass(frozen=True)
class TokenSpec:
    """What ids mean: the modalities of a run and the fingerprint of each one's tokenizer.

    A table and a checkpoint match if their token specs are equal.
    """

    modalities: tuple[Modality, ...]
    tokenizers: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return a JSON object; ``from_json`` is the inverse."""
        return {
            "modalities": [m.to_json() for m in self.modalities],
            "tokenizers": dict(self.tokenizers),
        }

    @classmethod
    def from_json(cls, entry: dict) -> "TokenSpec":
        """Return the token spec that ``to_json`` wrote."""
        return cls(tuple(Modality.from_json(m) for m in entry["modalities"]), entry["tokenizers"])

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits, equal if ids have the same meaning.

        They depend on name, layout, shape, vocabulary size and tokenizer fingerprint of each
        modality, not on how it is displayed.
        """
        parts = [
            [m.name, m.layout, list(m.shape), m.vocab_size, self.tokenizers.get(m.name)]
            for m in self.modalities
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def require_same(self, other: "TokenSpec", mine: str, theirs: str) -> None:
        """Raise an error if the ids of ``other`` have another meaning.

        Raises:
            UserError: Names both fingerprints, the modalities that differ, and what to run.
        """
        if self.fingerprint == other.fingerprint:
            return
        here, there = dict(self.tokenizers), dict(other.tokenizers)
        differ = [
            f"{n}: {here.get(n, 'absent')} / {there.get(n, 'absent')}"
            for n in sorted(here.keys() | there.keys())
            if here.get(n) != there.get(n)
        ] or ["the shapes or vocabulary sizes of the modalities"]
        raise UserError(
            f"{mine} ({self.fingerprint}) and {theirs} ({other.fingerprint}) do not belong "
            f"together; tokenizers that differ: {'; '.join(differ)}. Tokenise again with the "
            f"tokenizers of the checkpoint, or train again on this table: "
            f"nano4m train PRESET --out OUT --overwrite"
        )


@dataclass(frozen=True)
class TokenTable:
    """A token table in memory or mapped from disk.

    Attributes:
        token_spec: Modalities and tokenizer fingerprints.
        clip_ids, labels, splits: String arrays (n,).
        ids: Modality name -> uint16 (n, views, length); for several shards a ``Sharded``, which is
            indexed by rows like an array.
        lengths: Name of a text modality -> int64 (n, views), true lengths including the end token.
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
        for modality in self.token_spec.modalities:
            ids = self.ids[modality.name]
            if (
                ids.ndim != 3
                or ids.shape[0] != len(self.clip_ids)
                or ids.shape[2] != modality.length
            ):
                raise UserError(
                    f"token table: {modality.name} has shape {ids.shape}, expected "
                    f"({len(self.clip_ids)}, views, {modality.length})"
                )
            if highest and highest.get(modality.name, modality.vocab_size) < modality.vocab_size:
                continue
            if ids.size and int(ids.max()) >= modality.vocab_size:
                ids = np.asarray(ids)
                clip = int(np.argmax((ids >= modality.vocab_size).any(axis=(1, 2))))
                raise UserError(
                    f"token table: {modality.name} of clip {str(self.clip_ids[clip])!r} has id "
                    f"{int(ids[clip].max())}, its vocabulary ends at {modality.vocab_size - 1}; "
                    f"tokenise again: nano4m table PRESET --out OUT --overwrite"
                )
        for name, lengths in self.lengths.items():
            bad = (lengths < 1) | (lengths > self.ids[name].shape[2])
            row, view = np.indices(lengths.shape).reshape(2, -1)
            last = (lengths.reshape(-1) - 1).clip(0, self.ids[name].shape[2] - 1)
            bad |= (self.ids[name][row, view, last] != TEXT_END).reshape(lengths.shape)
            if bad.any():
                clip = int(np.argmax(bad.any(axis=1)))
                raise UserError(
                    f"token table: {name} of clip {str(self.clip_ids[clip])!r} has length "
                    f"{lengths[clip].tolist()} and does not end there with the end token"
                )

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

    def text_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the first view's caption length of each row; zeros without a text modality."""
        for lengths in self.lengths.values():
            return lengths[rows, 0]
        return np.zeros(len(rows), dtype=np.int64)

    def gather(
        self, rows: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of ``rows``, all modalities concatenated.

        Args:
            rows: Row numbers (B,).
            rng: Draws a view of each clip; None takes the first.

        Returns:
            ids int64 (B, L) and valid bool (B, L), L the summed length of the modalities. Only
            positions behind the end of a caption are not valid.
        """
        draws: dict[tuple[str, int], np.ndarray] = {}
        parts, valids = [], []
        for modality in self.modalities:
            ids = self.ids[modality.name]
            key = (modality.frame_group, ids.shape[1])
            if key not in draws:
                zero = np.zeros(len(rows), dtype=np.int64)
                draws[key] = zero if rng is None else rng.integers(ids.shape[1], size=len(rows))
            view = draws[key]
            parts.append(ids[rows, view].astype(np.int64))
            valid = np.ones(parts[-1].shape, dtype=bool)
            if modality.name in self.lengths:
                length = self.lengths[modality.name][rows, view]
                valid = np.arange(modality.length)[None] < length[:, None]
            valids.append(valid)
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
    save_file(
        {n: np.ascontiguousarray(c) for n, c in table.codebooks.items()}, folder / "codes.part"
    )
    os.replace(folder / "codes.part", folder / "codes.safetensors")
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
    columns |= {f"{name}_length": lists(found[own]) for name, found in table.lengths.items()}
    return columns


def open_table(folder: Path) -> TokenTable:
    """Return a table whose shards are mapped into memory; ids are read when accessed.

    The index has the highest id of each modality, found when the ids were written; in an older
    table without an index, all ids are checked.

    Raises:
        UserError: No table, a missing or damaged shard, or an inconsistent table (an id out of
            range, a caption without an end); the message names the clip.
    """
    index = _index(folder)
    mapped = [_map_shard(folder / f"{shard['name']}.arrow", shard) for shard in index["shards"]]
    if any(shard.schema.metadata[_META] != mapped[0].schema.metadata[_META] for shard in mapped):
        raise UserError(f"the shards in {folder} are not of one token table; {_MAKE_AGAIN}")
    meta = without_format(json.loads(mapped[0].schema.metadata[_META]), folder)
    token_spec = TokenSpec.from_json(meta)

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
        if m.is_text
    }
    texts = [
        strings(pa.chunked_array([c for shard in mapped for c in shard.column(name).chunks]
                                 or [pa.array([], pa.string())]))
        for name in ("clip_id", "label", "split")
    ]  # fmt: skip
    try:
        codes = load_file(folder / "codes.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(
            f"{folder / 'codes.safetensors'} is missing or damaged ({error}); {_MAKE_AGAIN}"
        ) from error
    return TokenTable(
        token_spec, texts[0], texts[1], texts[2], ids, lengths, codes, index["highest"]
    )


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = read_index(folder)
        assert index["shards"] and "highest" in index
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error!r}); {_MAKE_AGAIN}") from error
    return index


def _map_shard(path: Path, shard: Mapping[str, Any]) -> pa.Table:
    if not path.exists():
        raise UserError(
            f"no token table at {path.parent} ({path.name}); run: nano4m table PRESET --out OUT"
        )
    try:
        arrow = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole Arrow file ({error}); {_MAKE_AGAIN}") from error
    if _META not in (arrow.schema.metadata or {}):
        raise UserError(f"{path} is an Arrow file, but no token table of nano4m")
    if shard["rows"] not in (None, arrow.num_rows):
        raise UserError(
            f"{path} has {arrow.num_rows} clips, its index says {shard['rows']}; {_MAKE_AGAIN}"
        )
    return arrow
