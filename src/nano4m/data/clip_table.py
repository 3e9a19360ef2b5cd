"""The clips table: cut media on disk, one row a clip, and a reader of them for tokenizers.

A folder of ``clips-00000.parquet``, ... written whole or not at all. Columns:

    clip_id, source, video_id, label, caption, split, licence   strings
    start_s    where the window starts in the recording, in seconds; negative if padding comes first
    audio      FLAC bytes, mono PCM16 at the sample rate, exactly the window; null if not kept
    frames     K JPEG bytes; [] if not kept
    depth      K 16-bit greyscale PNG bytes, inverse depth in [0, 1]: clip(near / distance); or []
    normals    K 8-bit RGB PNG bytes of n * 0.5 + 0.5; or []
    crop       K boxes [left, top, size] in pixels of the source, one for all media of a frame
    rms_db, peak_db   level as recorded, of the window without its padding; null if unknown
    audio_fingerprint, image_fingerprints   what duplicates are found by, see ``prints``
    kept, reason      reason is null where kept; a duplicate of a clip of another split is not kept,
                      but its media stay
    left_out   files that could not be read and in whose place others stand, or null

The file metadata says how many shards belong to the table, so that a missing one is noticed.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nano4m.data.clip_media import READERS
from nano4m.data.sources.base import Split
from nano4m.errors import UserError, nearest
from nano4m.modalities import Media
from nano4m.tokens.table_shards import strings

FORMAT = 2
READABLE = {1, FORMAT}
"""Format 1 has no prints: such a table can be read, but not gone on with."""

TEXTS = ("clip_id", "source", "video_id", "label", "caption", "split", "licence")

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in TEXTS]
    + [
        pa.field("start_s", pa.float64()),
        pa.field("audio", pa.binary()),
        *(pa.field(name, pa.list_(pa.binary())) for name in ("frames", "depth", "normals")),
        pa.field("crop", pa.list_(pa.list_(pa.int32(), 3))),
        pa.field("rms_db", pa.float32()),
        pa.field("peak_db", pa.float32()),
        pa.field("audio_fingerprint", pa.binary()),
        pa.field("image_fingerprints", pa.list_(pa.binary())),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("left_out", pa.string()),
    ]
)

MANIFEST_COLUMNS = tuple(
    f.name for f in SCHEMA if not (pa.types.is_binary(f.type) or pa.types.is_list(f.type))
)
"""Columns without media and boxes, in the order of ``manifest.csv``."""

GROUP_ROWS = 64
"""Clips of a row group: what reading one of them costs."""

KEY = b"nano4m.data.build"
"""Of the metadata of a shard."""

_MAKE = "make it with: nano4m clips PRESET"


def shard_path(folder: Path, index: int) -> Path:
    """Return the file of shard ``index``."""
    return folder / f"clips-{index:05d}.parquet"


def to_batch(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows, one mapping a clip with the columns of SCHEMA; a column left out is null."""
    return pa.RecordBatch.from_pydict(
        {name: [row.get(name) for row in rows] for name in SCHEMA.names}, schema=SCHEMA
    )


def write_shard(folder: Path, index: int, rows: Sequence[Mapping[str, Any]], **about: Any) -> Path:
    """Write one shard of rows, see ``to_batch`` and ``write_batches``, which takes ``about``."""
    return write_batches(folder, index, [to_batch(rows)], **about)


def write_batches(
    folder: Path,
    index: int,
    batches: Sequence[pa.RecordBatch],
    *,
    sample_rate: int,
    num_shards: int | None = None,
    fingerprint: str = "",
) -> Path:
    """Write one shard, whole or not at all, and return its path.

    Args:
        folder, index: The table, made if missing, and the number of the shard, from 0.
        batches: Its clips in order, in one batch or more, see ``to_batch``; how they are cut into
            batches changes nothing.
        sample_rate: Of the FLAC bytes, in Hz.
        num_shards: Shards of the whole table; None: this is the last one.
        fingerprint: Of everything that the table depends on; shards of two fingerprints do not mix.

    Raises:
        ValueError: Kept rows differ in their number of frames.
        OSError: The folder cannot be written.
    """
    table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
    kept = table.filter(table["kept"])
    pictures = {
        name: np.unique(pc.fill_null(pc.list_value_length(kept[name]), 0).to_numpy())
        for name in ("frames", "depth", "normals")
    }
    frames = pictures["frames"].tolist()
    if len(frames) > 1:
        raise ValueError(f"kept rows have {frames} frames; every clip needs the same number")
    about = {
        "format": FORMAT,
        "sample_rate": sample_rate,
        "num_shards": index + 1 if num_shards is None else num_shards,
        "fingerprint": fingerprint,
        "kept": kept.num_rows,
        "frames": max(frames, default=0),
        "depth": bool(pictures["depth"].all()),
        "normals": bool(pictures["normals"].all()),
    }
    table = table.replace_schema_metadata({KEY: json.dumps(about).encode()})
    path = shard_path(folder, index)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pq.write_table(table, partial, compression="zstd", row_group_size=GROUP_ROWS)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_about(path: Path) -> dict[str, Any]:
    """Return what a shard says of its table: sample_rate, num_shards, fingerprint, kept, ...

    Raises:
        UserError: The file is not a whole shard of this format.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and {_MAKE}") from error
    about = json.loads(metadata.get(KEY, b"{}"))
    if about.get("format") not in READABLE:
        raise UserError(
            f"{path} is not a shard of clips of format {FORMAT}; delete its folder and {_MAKE}"
        )
    return about


def find_shards(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the shards of a complete table with what they say of it, in order.

    Raises:
        UserError: No table, a shard is missing, or shards of two tables are mixed.
    """
    paths = sorted(folder.glob("clips-*.parquet")) if folder.is_dir() else []
    if not paths:
        raise UserError(f"no clips in {folder} (clips-00000.parquet, ...); {_MAKE}")
    shards = [(path, read_about(path)) for path in paths]
    count = max(about["num_shards"] for _, about in shards)
    missing = [i for i in range(count) if not shard_path(folder, i).exists()]
    if missing:
        raise UserError(
            f"the clips in {folder} are not finished: {len(missing)} of {count} shards are missing "
            f"(first {shard_path(folder, missing[0]).name}); run the same nano4m clips PRESET "
            "again, it goes on where it stopped"
        )
    prints = {(about["fingerprint"], about["sample_rate"]) for _, about in shards}
    if len(prints) > 1:
        raise UserError(f"{folder} mixes shards of different settings {sorted(prints)}; "
                        f"delete the folder and {_MAKE}")  # fmt: skip
    return shards


def manifest_shards(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each shard of a complete table, kept or not, without media
    (MANIFEST_COLUMNS)."""
    for path, _ in find_shards(folder):
        yield _read(path, MANIFEST_COLUMNS).to_pylist()


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    # Half the time of pq.read_table, which looks for the files of a data set first.
    with pq.ParquetFile(path) as file:
        return file.read(columns=list(columns), use_threads=False)


@dataclass(frozen=True, kw_only=True)
class ClipTable:
    """The kept clips of a table, in the order of the plan; media are decoded on request.

    Attributes:
        folder: Where it lies.
        clip_ids, labels, splits: String arrays (n,).
        texts: The columns of TEXTS as they lie in the table; NumPy would hold every caption at the
            width of the longest, so captions, video_ids and licences are converted when asked for.
        sample_rate: Of the sounds, in Hz.
        num_frames: Pictures a clip, K.
        classes: Labels, sorted.
        fingerprint: Of the settings that made the table.
    """

    folder: Path
    clip_ids: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    texts: Mapping[str, pa.ChunkedArray]
    sample_rate: int
    num_frames: int
    classes: list[str]
    fingerprint: str
    kinds: frozenset[Media]
    column: Callable[[int, int, str], pa.ChunkedArray]
    """Reads a column of a row group: shard, row group, name."""
    places: np.ndarray
    """int64 (n, 3): shard, row group and row in it of each clip."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    @cached_property
    def captions(self) -> np.ndarray:
        """String array (n,)."""
        return strings(self.texts["caption"])

    @cached_property
    def video_ids(self) -> np.ndarray:
        """String array (n,): the recording that each clip comes from."""
        return strings(self.texts["video_id"])

    @cached_property
    def licences(self) -> np.ndarray:
        """String array (n,)."""
        return strings(self.texts["licence"])

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64 (m,), perhaps none.

        Raises:
            UserError: There is no split of this name.
        """
        if split not in get_args(Split):
            raise UserError(f"unknown split {split!r}; {nearest(split, get_args(Split))}")
        return np.flatnonzero(self.splits == split)

    def has(self, kind: Media) -> bool:
        """Whether every clip has media of this kind."""
        return kind in self.kinds

    def media(self, kind: Media, rows: np.ndarray | Sequence[int], frame: int | None = None) -> Any:
        """Decode the media of some clips, as tokenizers take them.

        Args:
            kind: One of ``nano4m.modalities.Media``.
            rows: n rows, at least one, in any order.
            frame: One frame of each clip; None: all K.

        Returns:
            picture float32 (n, K, 3, H, W) in [0, 1]; depth float32 (n, K, 1, H, W) in [0, 1];
            normals float32 (n, K, 3, H, W) unit vectors; all three without K where ``frame`` is
            given; sound float32 (n, samples) in [-1, 1]; caption list of n strings.

        Raises:
            UserError: An unknown kind, or one that the table does not have.
            ValueError: No rows.
            IndexError: A row or a frame that is not there.
        """
        if kind not in READERS:
            raise UserError(f"unknown media {kind!r}; {nearest(kind, READERS)}")
        if not self.has(kind):
            raise UserError(
                f"the clips in {self.folder} have no {kind}, only {', '.join(sorted(self.kinds))}; "
                "take its modality out of the tokenizers, or use a source that records it"
            )
        index = np.asarray(rows, np.int64).reshape(-1)
        if not len(index):
            raise ValueError(f"no rows given; {self.folder} has {len(self)} clips")
        if frame is not None and not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} of {self.num_frames}")
        name, reader = READERS[kind]
        places = self.places[index]
        cells: list[Any] = [None] * len(index)
        for shard, group in np.unique(places[:, :2], axis=0).tolist():
            where = np.flatnonzero((places[:, 0] == shard) & (places[:, 1] == group))
            found = self.column(shard, group, name).take(pa.array(places[where, 2])).to_pylist()
            for i, cell in zip(where, found, strict=True):
                cells[i] = cell
        return reader(cells, frame)


def open_clips(folder: Path) -> ClipTable:
    """Open a complete table; rows that were not kept are invisible.

    Raises:
        UserError: No table, an unfinished one, or one in which no clip was kept.
    """
    folder = Path(folder)
    shards = find_shards(folder)
    tables, places = [], []
    for number, (path, _) in enumerate(shards):
        table = _read(path, [*TEXTS, "kept"])
        kept = np.flatnonzero(table["kept"].to_numpy())
        tables.append(table.take(pa.array(kept)))
        places.append(np.stack([np.full_like(kept, number), *np.divmod(kept, GROUP_ROWS)], axis=1))
    whole = pa.concat_tables(tables)
    if not whole.num_rows:
        raise UserError(
            f"no clip in {folder} was kept; see the reasons in {folder / 'manifest.csv'}"
        )

    @lru_cache(maxsize=16)
    def column(shard: int, group: int, name: str) -> pa.ChunkedArray:
        with pq.ParquetFile(shards[shard][0]) as file:
            return file.read_row_group(group, columns=[name]).column(name)

    abouts = [about for _, about in shards if about["kept"]]
    flags: dict[Media, str] = {"picture": "frames", "depth": "depth", "normals": "normals"}
    kinds: set[Media] = {kind for kind, flag in flags.items() if all(a[flag] for a in abouts)}
    return ClipTable(
        folder=folder,
        clip_ids=strings(whole["clip_id"]),
        labels=strings(whole["label"]),
        splits=strings(whole["split"]),
        texts={name: whole[name] for name in TEXTS},
        sample_rate=abouts[0]["sample_rate"],
        num_frames=abouts[0]["frames"],
        classes=sorted(pc.unique(whole["label"]).to_pylist()),
        fingerprint=abouts[0]["fingerprint"],
        kinds=frozenset(kinds | {"sound", "caption"}),
        column=column,
        places=np.concatenate(places),
    )
