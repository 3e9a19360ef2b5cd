"""The token table: the seam on disk between media and training.

``tokens.parquet`` is the exchange form: one row a clip; ``clip_id``, ``label``, ``split``, one
fixed-size uint16 list a modality ([views * length], row-major) and, for text, ``<name>_length``,
the true length with its end token. The file's metadata carry the modalities and the fingerprint of
each tokenizer; ``codes.safetensors`` holds their codebooks. Training maps ``tokens.arrow`` (Arrow
IPC, the same rows) into memory.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nano4m.errors import UserError
from nano4m.modalities import TEXT_END, Modality

_META = b"nano4m"


@dataclass(frozen=True)
class Vocabulary:
    """What ids mean: the modalities of a run and the fingerprint of each one's tokenizer.

    A table and a checkpoint belong together when their vocabularies are equal.
    """

    modalities: tuple[Modality, ...]
    tokenizers: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """Return a plain dictionary; ``from_json`` is its inverse."""
        return {
            "modalities": [m.to_json() for m in self.modalities],
            "tokenizers": dict(self.tokenizers),
        }

    @classmethod
    def from_json(cls, entry: dict) -> "Vocabulary":
        """Read what ``to_json`` wrote."""
        return cls(tuple(Modality.from_json(m) for m in entry["modalities"]), entry["tokenizers"])

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits: equal means that ids mean the same."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def require_same(self, other: "Vocabulary", mine: str, theirs: str) -> None:
        """Refuse to go on when the ids of ``other`` mean something else.

        Raises:
            UserError: With both fingerprints, the modalities that differ, and what to run.
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
        vocabulary: Modalities and tokenizer fingerprints.
        clip_ids, labels, splits: String arrays (n,).
        ids: Modality name -> uint16 (n, views, length).
        lengths: Name of a text modality -> int64 (n, views), true lengths with the end token.
        codes: Name -> float32 (vocab_size, width), the vector that each id stands for, where its
            tokenizer has one: what a model's table may start from.
    """

    vocabulary: Vocabulary
    clip_ids: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    ids: Mapping[str, np.ndarray]
    lengths: Mapping[str, np.ndarray]
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for modality in self.vocabulary.modalities:
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
            if ids.size and int(ids.max()) >= modality.vocab_size:
                clip = int(np.argmax((ids >= modality.vocab_size).any(axis=(1, 2))))
                raise UserError(
                    f"token table: {modality.name} of clip {str(self.clip_ids[clip])!r} has id "
                    f"{int(ids[clip].max())}, its vocabulary ends at {modality.vocab_size - 1}; "
                    f"tokenise again: nano4m table PRESET --out OUT --overwrite"
                )
        for name, lengths in self.lengths.items():
            ends = np.take_along_axis(self.ids[name], (lengths - 1)[..., None].clip(0), axis=2)[
                ..., 0
            ]
            bad = (lengths < 1) | (lengths > self.ids[name].shape[2]) | (ends != TEXT_END)
            if bad.any():
                clip = int(np.argmax(bad.any(axis=1)))
                raise UserError(
                    f"token table: {name} of clip {str(self.clip_ids[clip])!r} has length "
                    f"{lengths[clip].tolist()} and does not end there with the end token"
                )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, in the order of the model's sequence."""
        return self.vocabulary.modalities

    @property
    def classes(self) -> list[str]:
        """Sorted class labels."""
        return sorted(set(self.labels.tolist()))

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of a split, in table order."""
        return np.flatnonzero(self.splits == split)

    def text_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Length of the first view of the caption of each row; zeros without a text modality."""
        for lengths in self.lengths.values():
            return lengths[rows, 0]
        return np.zeros(len(rows), dtype=np.int64)

    def gather(
        self, rows: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of ``rows``, all modalities side by side.

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
            key = (modality.views, ids.shape[1])
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


def write_table(table: TokenTable, folder: Path) -> None:
    """Write ``tokens.parquet`` and ``tokens.arrow``, each whole or not at all."""
    columns: dict[str, pa.Array] = {
        "clip_id": pa.array(table.clip_ids.tolist(), pa.string()),
        "label": pa.array(table.labels.tolist(), pa.string()),
        "split": pa.array(table.splits.tolist(), pa.string()),
    }
    views = {}
    for name, ids in table.ids.items():
        views[name] = ids.shape[1]
        flat = pa.array(np.ascontiguousarray(ids, dtype=np.uint16).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, ids.shape[1] * ids.shape[2])
    for name, lengths in table.lengths.items():
        flat = pa.array(np.ascontiguousarray(lengths, dtype=np.uint16).reshape(-1))
        columns[f"{name}_length"] = pa.FixedSizeListArray.from_arrays(flat, lengths.shape[1])
    meta = table.vocabulary.to_json() | {"views": views}
    arrow = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow, folder / "tokens.parquet.part")
    with pa.ipc.new_file(folder / "tokens.arrow.part", arrow.schema) as writer:
        writer.write_table(arrow.combine_chunks())
    save_file({n: np.ascontiguousarray(c) for n, c in table.codes.items()}, folder / "codes.part")
    os.replace(folder / "codes.part", folder / "codes.safetensors")
    for name in ("tokens.parquet", "tokens.arrow"):
        os.replace(folder / f"{name}.part", folder / name)


def open_table(folder: Path) -> TokenTable:
    """Map the table of ``folder`` into memory.

    Raises:
        UserError: No table there, or one that contradicts itself (an id out of range, a caption
            without an end); the message names the clip.
    """
    path = folder / "tokens.arrow"
    if not path.exists():
        raise UserError(
            f"no token table at {folder} (tokens.arrow); run: nano4m table PRESET --out OUT"
        )
    try:
        arrow = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a whole Arrow file ({error}); run: nano4m table PRESET --out OUT "
            f"--overwrite"
        ) from error
    if _META not in (arrow.schema.metadata or {}):
        raise UserError(f"{path} is an Arrow file, but no token table of nano4m")
    meta = json.loads(arrow.schema.metadata[_META])
    vocabulary = Vocabulary.from_json(meta)

    def column(name: str, *shape: int) -> np.ndarray:
        chunks = [c.values.to_numpy(zero_copy_only=True) for c in arrow.column(name).chunks]
        flat = chunks[0] if len(chunks) == 1 else np.concatenate([*chunks, np.zeros(0, np.uint16)])
        return flat.reshape(arrow.num_rows, *shape)

    ids = {m.name: column(m.name, meta["views"][m.name], m.length) for m in vocabulary.modalities}
    lengths = {
        m.name: column(f"{m.name}_length", meta["views"][m.name]).astype(np.int64)
        for m in vocabulary.modalities
        if m.is_text
    }
    texts = [
        np.array(arrow.column(c).to_pylist(), dtype=str) for c in ("clip_id", "label", "split")
    ]
    try:
        codes = load_file(folder / "codes.safetensors")
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(
            f"{folder / 'codes.safetensors'} is missing or damaged ({error}); run: nano4m table "
            f"PRESET --out OUT --overwrite"
        ) from error
    return TokenTable(vocabulary, texts[0], texts[1], texts[2], ids, lengths, codes)
