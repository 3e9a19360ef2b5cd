"""Pairs of clips of different splits that have the same recording or the same picture."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nano4m.data.duplicate_rules import DUPLICATE, SOUND, SPLITS, Pair
from nano4m.data.fingerprints import same_pictures, same_sounds


def find_pairs(table: pa.Table, places: Sequence[tuple[Path, int]]) -> list[Pair]:
    """Return pairs of clips of different splits with the same recording or the same picture.

    Args:
        table: Columns split, kept, reason, audio_fingerprint and image_fingerprints of all clips.
        places: Shard, and row in it, of each clip.
    """
    splits, kept = table["split"].to_pylist(), table["kept"].to_pylist()
    reasons = table["reason"].to_pylist()
    there = [
        i for i in range(len(splits)) if kept[i] or (reasons[i] or "").startswith(f"{DUPLICATE}:")
    ]
    audio_fingerprint = [cell or b"" for cell in table["audio_fingerprint"].to_pylist()]
    image_fingerprints = [cell or [] for cell in table["image_fingerprints"].to_pylist()]

    def sounds(numbers: Sequence[int]) -> dict[int, np.ndarray]:
        return _read_sounds(numbers, places)

    train, val, test = ([i for i in there if splits[i] == name] for name in SPLITS)
    pairs: list[Pair] = []
    for first, second in ((train, sorted(val + test)), (val, test)):
        pairs += [(*p, SOUND) for p in same_sounds(audio_fingerprint, first, second, sounds)]
        pairs += [(*p, "picture") for p in same_pictures(image_fingerprints, first, second)]
    return pairs


def _read_sounds(
    numbers: Sequence[int], places: Sequence[tuple[Path, int]]
) -> dict[int, np.ndarray]:
    import soundfile

    by_shard: dict[Path, list[int]] = {}
    for i in numbers:
        by_shard.setdefault(places[i][0], []).append(i)
    found = {}
    for path, own in by_shard.items():
        column = pq.read_table(path, columns=["audio"]).column("audio")
        for i in own:
            data = io.BytesIO(column[places[i][1]].as_py())
            found[i] = soundfile.read(data, dtype="float32")[0]
    return found
