"""The clips table as tokenizers and evaluation read it: kept clips, media decoded on request."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nano4m.data.clip_shards import GROUP_ROWS, TEXTS, find_shards, read_columns
from nano4m.data.sources.base import Split
from nano4m.errors import UserError, nearest
from nano4m.media import MEDIA, media_kind
from nano4m.storage.damage import reading
from nano4m.tokens.table_shards import strings


@dataclass(frozen=True, kw_only=True)
class ClipTable:
    """The kept clips of a table, in the order of the plan; media are decoded on request.

    Attributes:
        folder: Of the table.
        clip_ids, labels, splits: String arrays (n,).
        texts: The columns of TEXTS as Arrow arrays; video_ids and licences become NumPy arrays on
            request only, because NumPy pads every string to the longest.
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
    presence: Mapping[str, np.ndarray]
    """Kind of media -> which clips have it, bool (n,)."""
    column: Callable[[int, int, str], pa.ChunkedArray]
    """Shard, row group and name -> that column of the row group."""
    places: np.ndarray
    """int64 (n, 3): shard, row group and row in it of each clip."""
    whole_column: Callable[[str], pa.ChunkedArray | None]
    """Name -> that column (n,), null in shards without it, or None where no shard has it."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    @cached_property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each clip, n tuples; empty for a clip without one."""
        texts = self.texts["caption"].to_pylist()
        firsts: list[tuple[str, ...]] = [(text,) if text else () for text in texts]
        stored = self.whole_column("captions")
        if stored is None:
            return firsts
        return [tuple(a or b) for a, b in zip(stored.to_pylist(), firsts, strict=True)]

    @cached_property
    def video_ids(self) -> np.ndarray:
        """String array (n,): the recording that each clip comes from."""
        return strings(self.texts["video_id"])

    @cached_property
    def groups(self) -> np.ndarray:
        """String array (n,): the recording or video of each clip, the unit that repeats."""
        stored, videos = self.whole_column("group"), self.texts["video_id"]
        return strings(videos if stored is None else pc.coalesce(stored, videos))

    @cached_property
    def pictures(self) -> list[tuple[str, ...]]:
        """Identities of the frames of each clip, n tuples; equal for the same picture.

        Of a table of before, that of the frame's fingerprint; empty tuples without fingerprints.
        """
        stored = self.whole_column("picture")
        if stored is not None:
            return [tuple(own or ()) for own in stored.to_pylist()]
        seen = self.whole_column("image_fingerprints")
        cells = [None] * len(self) if seen is None else seen.to_pylist()
        return [tuple(_digits(x) for x in own or () if x) for own in cells]

    @cached_property
    def measure_names(self) -> list[str]:
        """Names of the numbers that are known of any clip, sorted."""
        stored = self._measures
        return [] if stored is None else sorted({n for own in stored.to_pylist() for n, _ in own})

    def measure(self, name: str) -> np.ndarray:
        """Return a number of each clip, float64 (n,); NaN where it is not known.

        Raises:
            UserError: No clip has a number of this name.
        """
        if name not in self.measure_names:
            raise UserError(
                f"the clips in {self.folder} have no measure {name!r}; "
                f"{nearest(name, self.measure_names)}"
            )
        found = pc.map_lookup(self._measures, pa.scalar(name), "first")
        return found.to_numpy().astype(np.float64)

    @cached_property
    def _measures(self) -> pa.ChunkedArray | None:
        return self.whole_column("measures")

    @cached_property
    def licences(self) -> np.ndarray:
        """String array (n,)."""
        return strings(self.texts["licence"])

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64 (m,), possibly empty.

        Raises:
            UserError: There is no split of this name.
        """
        if split not in get_args(Split):
            raise UserError(f"unknown split {split!r}; {nearest(split, get_args(Split))}")
        return np.flatnonzero(self.splits == split)

    def present(self, kind: str) -> np.ndarray:
        """Return which clips have media of this kind, bool (n,).

        Raises:
            UserError: An unknown kind.
        """
        return self.presence[media_kind(kind).name]

    def has(self, kind: str) -> bool:
        """Whether any clip has media of this kind."""
        return bool(self.present(kind).any())

    def require(self, kind: str) -> None:
        """Refuse to go on without media of this kind.

        Raises:
            UserError: An unknown kind, or one that the table does not have.
        """
        if not self.has(kind):
            known = ", ".join(sorted(name for name in self.presence if self.has(name)))
            raise UserError(
                f"the clips in {self.folder} have no {kind}, only {known}; "
                "leave its modality out (--without), or make clips of a source that records it: "
                "nano4m clips PRESET with another --out"
            )

    def media(self, kind: str, rows: np.ndarray | Sequence[int], frame: int | None = None) -> Any:
        """Return the decoded media of some clips, as tokenizers take them.

        Args:
            kind: Name of a kind of ``nano4m.media.MEDIA``.
            rows: n rows of clips that have it, at least one, in any order.
            frame: One frame of each clip; None: all K.

        Returns:
            Planes float32 (n, K, channels, H, W), without K where ``frame`` is given; sounds
            float32 (n, samples) in [-1, 1]; texts a list of n strings, the first of each clip.

        Raises:
            UserError: An unknown kind, or one that the table does not have.
            ValueError: No rows, or a clip that lacks this kind.
            IndexError: A row or a frame does not exist.
        """
        self.require(kind)
        found_kind = media_kind(kind)
        index = np.asarray(rows, np.int64).reshape(-1)
        if not len(index):
            raise ValueError(f"no rows given; {self.folder} has {len(self)} clips")
        lacking = index[~self.present(kind)[index]]
        if len(lacking):
            raise ValueError(f"clip {self.clip_ids[lacking[0]]} of {self.folder} has no {kind}")
        if frame is not None and found_kind.is_plane and not 0 <= frame < self.num_frames:
            raise IndexError(f"frame {frame} of {self.num_frames}")
        places = self.places[index]
        cells: list[Any] = [None] * len(index)
        for shard, group in np.unique(places[:, :2], axis=0).tolist():
            where = np.flatnonzero((places[:, 0] == shard) & (places[:, 1] == group))
            found = (
                self.column(shard, group, found_kind.column)
                .take(pa.array(places[where, 2]))
                .to_pylist()
            )
            for i, cell in zip(where, found, strict=True):
                cells[i] = cell
        return found_kind.part("decode")(cells, frame)


def names_it(media: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return which cells of the column ``media`` name a kind of media, bool (n,)."""
    return pc.match_substring_regex(media, rf"(^| ){re.escape(name)}( |$)").to_numpy()


def _digits(fingerprint: bytes) -> str:
    return hashlib.sha256(fingerprint).hexdigest()[:12]


def open_clips(folder: Path) -> ClipTable:
    """Return the table in ``folder``, without the rows that were not kept.

    Raises:
        UserError: No table, an unfinished one, or one in which no clip was kept.
    """
    folder = Path(folder)
    shards = find_shards(folder)
    tables, places = [], []
    for number, (path, _) in enumerate(shards):
        table = read_columns(path, [*TEXTS, "kept"])
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
        path = shards[shard][0]
        with reading(path), pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[name]).column(name)

    def whole_column(name: str) -> pa.ChunkedArray | None:
        there = [name in pq.read_schema(path).names for path, _ in shards]
        if not any(there):
            return None
        parts = [
            read_columns(path, [name, "kept"] if has_it else ["kept"])
            for (path, _), has_it in zip(shards, there, strict=True)
        ]
        kept = [part.filter(part["kept"]) for part in parts]
        return pa.concat_tables(kept, promote_options="default")[name]

    abouts = [about for _, about in shards if about["kept"]]
    media = whole_column("media")
    if media is None:  # a table of before: a kind of planes counts where all clips have it
        always = {
            kind.name: not kind.is_plane or all(about.get(kind.column) for about in abouts)
            for kind in MEDIA.values()
        }
        presence = {name: np.full(whole.num_rows, found) for name, found in always.items()}
    else:
        presence = {name: names_it(media, name) for name in MEDIA}
    return ClipTable(
        folder=folder,
        clip_ids=strings(whole["clip_id"]),
        labels=strings(whole["label"]),
        splits=strings(whole["split"]),
        texts={name: whole[name] for name in TEXTS},
        sample_rate=abouts[0]["sample_rate"],
        num_frames=max(about["frames"] for about in abouts),
        classes=sorted(pc.unique(whole["label"]).to_pylist()),
        fingerprint=abouts[0]["fingerprint"],
        presence=presence,
        column=column,
        places=np.concatenate(places),
        whole_column=whole_column,
    )
