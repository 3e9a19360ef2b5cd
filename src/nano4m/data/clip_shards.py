"""The shards of a clips table: cut media on disk, one row a clip.

A folder of ``clips-00000.parquet``, ..., each written atomically. Columns:

    clip_id, source, video_id, label, caption, split, licence   strings; caption is the first one of
                      the clip, "" if it has none
    captions   all captions of a clip that has several, else null; only in shards with such a clip
    group      recording or video, the unit that repeats in statistics; video_id where absent
    picture    K strings, the identity of each frame as loaded, before the crop; [] if not kept
    measures   name -> number: what the source drew or knows, see ``ClipPlan``
    start_s    where the window starts in the recording, in seconds; negative if padding comes first
    audio      FLAC bytes, mono PCM16 at the sample rate, exactly the window; null if not kept
    frames     K JPEG bytes; [] if not kept
    depth, normals, ...   K PNG bytes of each other kind of planes, see ``nano4m.media``; or []
    crop       K boxes [left, top, size] in pixels of the source, one for all media of a frame
    rms_db, peak_db   level as recorded, of the window without its padding; null if unknown
    audio_fingerprint, image_fingerprints   for finding duplicates, see ``fingerprints``
    kept, reason      reason is null where kept; a duplicate of a clip of another split is not kept,
                      but its media stay
    media      kinds of media that a kept clip has, by name, with spaces between; null if not kept
    left_out   unreadable files that were replaced by others, or null

The file metadata holds the number of shards of the table, so that a missing one is noticed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nano4m.errors import UserError
from nano4m.media import MEDIA
from nano4m.storage.arrays import read_parquet_schema
from nano4m.storage.damage import reading
from nano4m.storage.files import whole_file

FORMAT = 4
READABLE = {1, 2, 3, FORMAT}
"""1 lacks fingerprints, 2 names them differently, 3 lacks group, picture, measures and media: such
tables are read, but not resumed."""

PLANES = tuple(kind.column for kind in MEDIA.values() if kind.is_plane)
"""Columns with a list of encoded planes, one a frame, ``frames`` (the pictures) included."""

TEXTS = ("clip_id", "source", "video_id", "label", "caption", "split", "licence")

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in TEXTS]
    + [
        pa.field("group", pa.string()),
        pa.field("start_s", pa.float64()),
        pa.field("audio", pa.binary()),
        *(pa.field(name, pa.list_(pa.binary())) for name in PLANES),
        pa.field("crop", pa.list_(pa.list_(pa.int32(), 3))),
        pa.field("rms_db", pa.float32()),
        pa.field("peak_db", pa.float32()),
        pa.field("audio_fingerprint", pa.binary()),
        pa.field("image_fingerprints", pa.list_(pa.binary())),
        pa.field("picture", pa.list_(pa.string())),
        pa.field("measures", pa.map_(pa.string(), pa.float64())),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("media", pa.string()),
        pa.field("left_out", pa.string()),
        pa.field("captions", pa.list_(pa.string())),
    ]
)

MANIFEST_COLUMNS = tuple(
    f.name for f in SCHEMA if not (pa.types.is_binary(f.type) or pa.types.is_list(f.type))
)
"""Columns without media and lists, in the order of ``manifest.csv``."""

GROUP_ROWS = 64
"""Clips per row group: the least that is read at once."""

KEY = b"nano4m.clips"
"""Key of a shard's metadata."""

_MAKE = "make it with: nano4m clips PRESET"


def shard_path(folder: Path, index: int) -> Path:
    """Return the file of shard ``index``."""
    return folder / f"clips-{index:05d}.parquet"


def shard_paths(folder: Path) -> list[Path]:
    """Return the shards in a folder, in order; files of other names are the user's."""
    found = folder.glob("clips-*.parquet") if folder.is_dir() else ()
    return sorted(p for p in found if re.fullmatch(r"clips-[0-9]{5,}\.parquet", p.name, re.ASCII))


def to_batch(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows (mappings with the columns of SCHEMA) as a batch; a missing column is null."""
    cells = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    cells["media"] = [_media(row) if row.get("kept") else None for row in rows]
    cells["measures"] = [list(dict(own or {}).items()) for own in cells["measures"]]
    return pa.RecordBatch.from_pydict(cells, schema=SCHEMA)


def _media(row: Mapping[str, Any]) -> str:
    return " ".join(name for name, kind in MEDIA.items() if row.get(kind.column))


def write_shard(folder: Path, index: int, rows: Sequence[Mapping[str, Any]], **about: Any) -> Path:
    """Write one shard of rows (``to_batch``); ``about`` goes to ``write_batches``."""
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
    """Write one shard atomically and return its path.

    Args:
        folder, index: Folder of the table, created if missing, and number of the shard, from 0.
        batches: Its clips in order, see ``to_batch``; the division into batches does not matter.
        sample_rate: Of the FLAC bytes, in Hz.
        num_shards: Shards of the whole table; None: this is the last one.
        fingerprint: Of everything that the table depends on; shards of two fingerprints do not mix.

    Raises:
        ValueError: Kept rows with frames differ in their number.
        OSError: The folder cannot be written.
    """
    table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
    if table["captions"].null_count == table.num_rows:
        table = table.drop_columns("captions")  # a table with one caption a clip is that of before
    kept = table.filter(table["kept"])
    counts = {
        name: np.unique(pc.fill_null(pc.list_value_length(kept[name]), 0).to_numpy())
        for name in PLANES
    }
    frames = [count for count in counts.pop("frames").tolist() if count]
    if len(frames) > 1:
        raise ValueError(f"kept rows have {frames} frames; every clip needs the same number")
    about = {
        "format": FORMAT,
        "sample_rate": sample_rate,
        "num_shards": index + 1 if num_shards is None else num_shards,
        "fingerprint": fingerprint,
        "kept": kept.num_rows,
        "frames": max(frames, default=0),
        **{name: bool(count.all()) for name, count in counts.items()},
    }
    table = table.replace_schema_metadata({KEY: json.dumps(about).encode()})
    path = shard_path(folder, index)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=GROUP_ROWS)
    return path


def read_about(path: Path) -> dict[str, Any]:
    """Return a shard's metadata: sample_rate, num_shards, fingerprint, kept, ...

    Raises:
        UserError: The file is not a complete shard of a readable format.
    """
    metadata = read_parquet_schema(path).metadata or {}
    with reading(path):
        about = json.loads(metadata.get(KEY, b"{}"))
        if about.get("format") not in READABLE:
            raise ValueError(f"it is not a shard of clips of format {FORMAT}")
    return about


def find_shards(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the shards of a complete table with their metadata, in order.

    Raises:
        UserError: No table, a shard is missing, or shards of two tables are mixed.
    """
    paths = shard_paths(folder)
    if not paths:
        raise UserError(f"no clips in {folder} (clips-00000.parquet, ...); {_MAKE}")
    shards = [(path, read_about(path)) for path in paths]
    count = max(about["num_shards"] for _, about in shards)
    missing = [i for i in range(count) if not shard_path(folder, i).exists()]
    if missing:
        raise UserError(
            f"the clips in {folder} are not finished: {len(missing)} of {count} shards are missing "
            f"(first {shard_path(folder, missing[0]).name}); run the same nano4m clips PRESET "
            "again to resume"
        )
    prints = {(about["fingerprint"], about["sample_rate"]) for _, about in shards}
    if len(prints) > 1:
        raise UserError(f"{folder} mixes shards of different settings {sorted(prints)}; "
                        f"delete the folder and {_MAKE}")  # fmt: skip
    return shards


def manifest_shards(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield MANIFEST_COLUMNS of all rows, kept or not, shard by shard of a complete table."""
    for path, _ in find_shards(folder):
        yield read_columns(path, MANIFEST_COLUMNS).to_pylist()


def read_rows(path: Path) -> pa.Table:
    """Return all rows of a shard with the columns of SCHEMA, as ``write_batches`` takes them."""
    with reading(path):
        table = pq.read_table(path).replace_schema_metadata(None)
    if "captions" not in table.column_names:
        field = SCHEMA.field("captions")
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return columns of a shard."""
    # Takes half the time of pq.read_table, which first searches for the files of a data set.
    with reading(path), pq.ParquetFile(path) as file:
        return file.read(columns=list(columns), use_threads=False)
