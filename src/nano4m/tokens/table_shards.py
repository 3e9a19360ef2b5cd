"""Shards of a token table on disk: names, index, and arrays over several files.

A table of up to SHARD_BYTES is one shard, ``tokens.arrow``; further shards are
``tokens-00001.arrow``, ... Each has its exchange form, ``.parquet``, next to it. ``tokens.json`` is
the index: written last, it lists the shards, their rows, and the highest id of each modality.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nano4m.storage.files import sync
from nano4m.storage.json_files import read_object, write_json

INDEX = "tokens.json"
MAKE_AGAIN = "run: nano4m table PRESET --out OUT --overwrite"
SHARD_BYTES = 256 * 2**20
"""Bytes of ids of a shard; writing holds one shard in memory besides the table."""
OURS = re.compile(r"tokens(-[0-9]{5,})?\.(parquet|arrow)", re.ASCII)
"""Names of shards; files of other names are the user's."""
GROUP_ROWS = 16384
"""Rows of a row group of the exchange form."""


def shard_name(number: int) -> str:
    """Return the name of a shard without its suffix."""
    return f"tokens-{number:05d}" if number else "tokens"


class Sharded:
    """Arrays of several shards, stacked on their first axis but never joined: (n, ...).

    It is indexed like the joined array: by row, slice, mask or row numbers, then by anything that
    the parts accept; an array after the rows is paired with them, as in ``ids[rows, views]``. The
    result is a copy. ``np.asarray`` joins all.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = tuple(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self.shape: tuple[int, ...] = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype, self.ndim = self.parts[0].dtype, self.parts[0].ndim

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of elements."""
        return sum(part.size for part in self.parts)

    def max(self) -> Any:
        """Return the highest element, reading one shard at a time."""
        return max(part.max() for part in self.parts if part.size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        joined = np.concatenate(self.parts)
        return joined if dtype is None else joined.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = np.arange(len(self))[first]  # negative rows, slices, masks, IndexError: as in NumPy
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        if rows.ndim == 0:
            return self.parts[int(shard)][(int(rows - self.starts[shard]), *rest)]
        found: np.ndarray | None = None
        for number in np.unique(shard) if rows.size else (0,):
            where = shard == number
            own = [r[where] if isinstance(r, np.ndarray) and r.ndim else r for r in rest]
            values = self.parts[number][(rows[where] - self.starts[number], *own)]
            if found is None:
                found = np.empty((*rows.shape, *values.shape[1:]), self.dtype)
            found[where] = values
        assert found is not None
        return found


def strings(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of strings as a fixed-width NumPy array, without a Python string a row.

    Repeated strings, such as labels, are converted once each.
    """
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):  # for an empty column, or in a newer pyarrow
        coded = coded.combine_chunks()
    words, places = coded.dictionary, coded.indices.to_numpy(zero_copy_only=False)
    if len(words) < 1024 or not pc.all(pc.string_is_ascii(words)).as_py():
        return np.array(words.to_pylist(), dtype=str)[places] if len(words) else np.zeros(0, str)
    # ASCII bytes in fixed-width cells, which NumPy widens in one operation.
    _, offsets, data = words.buffers()
    ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
    lengths = np.diff(ends)
    laid = np.zeros((len(words), max(1, int(lengths.max()))), np.uint8)
    inside = np.arange(laid.shape[1]) < lengths[:, None]
    laid[inside] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return laid.view(f"S{laid.shape[1]}")[:, 0].astype(str)[places]


def write_shard(folder: Path, number: int, columns: Mapping[str, pa.Array], meta: bytes) -> None:
    """Write both forms of a shard as ``.part``; ``finish`` renames them.

    Raises:
        OSError: The folder cannot be written.
    """
    arrow = pa.table(dict(columns)).replace_schema_metadata({b"nano4m": meta})
    name = shard_name(number)
    pq.write_table(arrow, folder / f"{name}.parquet.part", row_group_size=GROUP_ROWS)
    with pa.ipc.new_file(folder / f"{name}.arrow.part", arrow.schema) as writer:
        writer.write_table(arrow.combine_chunks())


def finish(folder: Path, index: Mapping[str, Any]) -> None:
    """Rename the shards that ``index`` lists, delete older ones, and write the index."""
    (folder / INDEX).unlink(missing_ok=True)  # it must never list shards of two tables
    names = [f"{shard['name']}{end}" for shard in index["shards"] for end in (".parquet", ".arrow")]
    for old in folder.glob("tokens*"):
        if OURS.fullmatch(old.name) and old.name not in names:
            old.unlink()
    for name in names:
        sync(folder / f"{name}.part")
        os.replace(folder / f"{name}.part", folder / name)
    write_json(folder / INDEX, dict(index))


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index; for an older table without one, its single shard and no highest ids."""
    try:
        return read_object(folder / INDEX, MAKE_AGAIN)
    except FileNotFoundError:
        return {"shards": [{"name": shard_name(0), "rows": None}], "highest": None}
