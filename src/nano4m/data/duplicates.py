"""Finding clips that occur in two splits, and excluding them from the table.

One recording may have two names: uploaded twice, listed in two data sets, saved again. Such a pair
across splits would inflate the scores.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nano4m.data.clip_shards import GROUP_ROWS, KEY, find_shards
from nano4m.data.fingerprints import same_pictures, same_sounds
from nano4m.storage.files import whole_file

SOUND = "sound"
"""What two clips share, beside a picture."""

DUPLICATE = "duplicate"
"""Beginning of the reason of an excluded clip."""

FILTERS = {
    "duplicates": {
        "description": "a clip with the sound or picture of a clip of another split is not kept; "
        "its reason names that clip",
        "licence": "Apache-2.0",
    }
}
"""The filter of ``exclude_duplicates``."""

EXCLUDED_FIRST = ("train", "val", "test")
"""Among equals, the duplicate in the earlier of these splits is excluded."""

Pair = tuple[int, int, str]
"""Numbers of two clips, and what they share."""


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

    train, val, test = ([i for i in there if splits[i] == name] for name in EXCLUDED_FIRST)
    pairs: list[Pair] = []
    for first, second in ((train, sorted(val + test)), (val, test)):
        pairs += [(*p, SOUND) for p in same_sounds(audio_fingerprint, first, second, sounds)]
        pairs += [(*p, "picture") for p in same_pictures(image_fingerprints, first, second)]
    return pairs


def _read_sounds(
    numbers: Sequence[int], places: Sequence[tuple[Path, int]]
) -> dict[int, np.ndarray]:
    import io

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


def resolve_duplicates(
    pairs: Sequence[Pair], splits: Sequence[str], groups: Sequence[str] | None = None
) -> dict[int, Pair]:
    """Return the clips to exclude so that no pair is left, each with a pair that it is in.

    A clip whose sound is found twice goes with its whole group, as other clips of one recording
    are of the other one too; a picture, which clips may draw from those of their class, costs one
    clip. Who has the most duplicates a clip is excluded first, so that few are lost; among equals,
    one of the train split, the largest.

    Args:
        pairs: See ``find_pairs``.
        splits: Of all clips.
        groups: Group of each clip; None: each is its own.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, name in enumerate(groups or ()):
        members[name, splits[i]].append(i)
    own = {i: unit for m in members.values() for unit in (tuple(m),) for i in m}
    left, excluded = list(pairs), dict[int, Pair]()
    while left:
        found: dict[tuple[int, ...], int] = Counter()
        for first, second, what in left:
            for i in (first, second):
                found[own.get(i, (i,)) if what == SOUND else (i,)] += 1
        worst = max(
            found,
            key=lambda unit: (
                found[unit] / len(unit),
                -EXCLUDED_FIRST.index(splits[unit[0]]),
                -unit[0],
            ),
        )
        pair = next(p for p in left if {*p[:2]} & {*worst} and (p[2] == SOUND or len(worst) == 1))
        excluded |= {i: pair for i in worst if i not in excluded}
        left = [p for p in left if not {*p[:2]} & {*worst}]
    return excluded


def exclude_duplicates(folder: Path) -> dict[str, str]:
    """Exclude duplicates across splits from a complete table; return clip_id -> reason.

    Shards are replaced atomically; a second call changes nothing.

    Raises:
        UserError: The table is not complete.
        OSError: A shard cannot be written.
    """
    shards = [path for path, _ in find_shards(folder)]
    columns = [
        "clip_id",
        "split",
        "video_id",
        "kept",
        "reason",
        "audio_fingerprint",
        "image_fingerprints",
    ]
    tables = [pq.read_table(path, columns=columns) for path in shards]
    places = [
        (path, row) for path, t in zip(shards, tables, strict=True) for row in range(t.num_rows)
    ]
    whole = pa.concat_tables(tables)
    ids, splits = whole["clip_id"].to_pylist(), whole["split"].to_pylist()
    reasons: dict[int, str] = {}
    groups = whole["video_id"].to_pylist()
    kept = whole["kept"].to_pylist()
    for gone, (first, second, what) in resolve_duplicates(
        find_pairs(whole, places), splits, groups
    ).items():
        if gone not in (first, second):
            own, other = (first, second) if groups[first] == groups[gone] else (second, first)
            if kept[gone] or (whole["reason"][gone].as_py() or "").startswith(f"{DUPLICATE}:"):
                reasons[gone] = (
                    f"{DUPLICATE}: of one recording with {ids[own]}, whose {what} is that of "
                    f"{ids[other]} of {splits[other]}"
                )
            continue
        twin = second if gone == first else first
        reasons[gone] = f"{DUPLICATE}: the {what} is that of {ids[twin]} of {splits[twin]}"
    for path in shards:
        rows = {places[i][1]: text for i, text in reasons.items() if places[i][0] == path}
        if rows:
            _rewrite(path, rows)
    return {ids[i]: text for i, text in sorted(reasons.items())}


def _rewrite(path: Path, reasons: dict[int, str]) -> None:
    table = pq.read_table(path)
    changed: dict[str, list[Any]] = {n: table[n].to_pylist() for n in ("kept", "reason")}
    before = list(changed["reason"])
    for row, text in reasons.items():
        changed["kept"][row], changed["reason"][row] = False, text
    if changed["reason"] == before:
        return
    about = json.loads(table.schema.metadata[KEY]) | {"kept": sum(changed["kept"])}
    for name, values in changed.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(
            index, table.schema.field(name), pa.array(values, table[name].type)
        )
    table = table.replace_schema_metadata({KEY: json.dumps(about).encode()})
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd", row_group_size=GROUP_ROWS)
