"""The clips that the report shows: as recorded, as tokenizer round trips, and as generated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nano4m.data.clip_table import ClipTable
from nano4m.media.base import Item
from nano4m.modalities import Modality
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenTable

ARROW = "->"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Items of one clip by name of modality; ``made`` by (input, target).

    What the clip lacks is not there, nor what would have been made from it.
    """

    clip_id: str
    label: str
    caption: str
    real: dict[str, Item]
    round_trip: dict[str, Item]
    made: dict[tuple[str, str], Item]


def choose(labels: Sequence[str], count: int) -> list[int]:
    """Return the indices of ``count`` clips, or all if fewer: one a class first, then the next."""
    turns: dict[str, int] = {}
    keys = []
    for place, label in enumerate(labels):
        turns[label] = turns.get(label, -1) + 1
        keys.append((turns[label], label, place))
    return [place for _, _, place in sorted(keys)[:count]]


def directions(generated: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """Return (input, target) of each key that is a direction."""
    pairs = {key: tuple(key.split(ARROW)) for key in generated if ARROW in key}
    return {key: (pair[0], pair[1]) for key, pair in pairs.items()}


def _items(modality: Modality, media: Any, sample_rate: int) -> list[Item]:
    return [Item(media=modality.media, value=value, sample_rate=sample_rate) for value in media]


def decoded(modality: Modality, tokenizer: Tokenizer, ids: np.ndarray, rate: int) -> list[Item]:
    """Return the media of ids (n, length)."""
    shaped = torch.from_numpy(ids.astype(np.int64)).reshape(len(ids), *tokenizer.shape)
    with torch.inference_mode():
        media = tokenizer.decode(shaped)
    if isinstance(media, torch.Tensor):
        media = media.cpu()
    return _items(modality, media, getattr(tokenizer, "sample_rate", rate))


def _decoded_some(
    modality: Modality,
    tokenizers: Mapping[str, Tokenizer],
    ids: np.ndarray,
    wanted: np.ndarray,
    rate: int,
) -> list[tuple[int, Item]]:
    """Return number and decoded item of the clips that are wanted, bool (n,)."""
    numbers = np.flatnonzero(wanted)
    if not len(numbers):
        return []
    items = decoded(modality, tokenizers[modality.name], ids[numbers], rate)
    return list(zip(numbers.tolist(), items, strict=True))


def collect(
    clips: ClipTable,
    tokenizers: Mapping[str, Tokenizer],
    table: TokenTable,
    generated: Mapping[str, np.ndarray],
    count: int,
) -> list[Sample]:
    """Return all items of ``count`` clips, decoded.

    Raises:
        KeyError: A generated clip that is not in the table or not among the clips.
    """
    modalities = {m.name: m for m in table.modalities if m.name in tokenizers}
    clip_rows = {clip: i for i, clip in enumerate(clips.clip_ids.tolist())}
    table_rows = {clip: i for i, clip in enumerate(table.clip_ids.tolist())}
    ids = [str(clip) for clip in generated["clip_ids"]]
    labels = [str(clips.labels[clip_rows[clip]]) for clip in ids]
    places = choose(labels, count)
    if not places:
        return []
    rows = np.array([clip_rows[ids[p]] for p in places])
    token_rows = np.array([table_rows[ids[p]] for p in places])
    rate = clips.sample_rate
    real: list[dict[str, Item]] = [{} for _ in places]
    round_trip: list[dict[str, Item]] = [{} for _ in places]
    made: list[dict[tuple[str, str], Item]] = [{} for _ in places]
    has = {name: table.lengths[name][token_rows, 0] > 0 for name in modalities}
    for name, modality in modalities.items():
        recorded = np.flatnonzero(clips.present(modality.media)[rows])
        if len(recorded):
            media = clips.media(modality.media, rows[recorded], frame=0)
            for i, item in zip(recorded.tolist(), _items(modality, media, rate), strict=True):
                real[i][name] = item
        for i, item in _decoded_some(
            modality, tokenizers, table.ids[name][token_rows, 0], has[name], rate
        ):
            round_trip[i][name] = item
    for key, (source, target) in directions(generated).items():
        if target in modalities:
            both = has[target] & has.get(source, True)
            for i, item in _decoded_some(
                modalities[target], tokenizers, generated[key][places], both, rate
            ):
                made[i][source, target] = item
    return [
        Sample(
            clip_id=ids[place],
            label=labels[place],
            caption=next(iter(clips.captions[rows[i]]), ""),
            real=real[i],
            round_trip=round_trip[i],
            made=made[i],
        )
        for i, place in enumerate(places)
    ]
