"""Clips as they would be cut, of each class, to look at and listen to on a page."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano4m.config.run import Config
from nano4m.data.build import make_piece
from nano4m.data.clip_shards import write_batches
from nano4m.data.clip_table import open_clips
from nano4m.data.sources.base import ClipPlan
from nano4m.media import MEDIA
from nano4m.media.base import Item
from nano4m.report.samples import choose

MOST_CLIPS = 24
MOST_FRAMES = 4
"""Pictures of a clip that are shown."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip of the sheet: its media in the order of the registry, or why it has none."""

    plan: ClipPlan
    items: tuple[Item, ...] = ()
    reason: str = ""


def sheet(config: Config, plans: Sequence[ClipPlan]) -> list[Shown]:
    """Return some of the clips, one a class first, decoded and cut as a run does it."""
    chosen = [plans[i] for i in choose([plan.label for plan in plans], MOST_CLIPS)]
    if not chosen:
        return []
    piece = make_piece(
        chosen, name=config.dataset.name, settings=config.dataset, clips=config.clips
    )
    reasons = dict(zip(piece["clip_id"].to_pylist(), piece["reason"].to_pylist(), strict=True))
    items: dict[str, tuple[Item, ...]] = {}
    if sum(reason is None for reason in reasons.values()):
        with tempfile.TemporaryDirectory(prefix="nano4m-check-data-") as made:
            folder = Path(made)
            write_batches(
                folder,
                0,
                [piece],
                sample_rate=config.clips.sample_rate,
                num_shards=1,
                fingerprint="",
            )
            items = _items(folder)
    return [
        Shown(plan=plan, items=items.get(plan.clip_id, ()), reason=reasons[plan.clip_id] or "")
        for plan in chosen
    ]


def _items(folder: Path) -> dict[str, tuple[Item, ...]]:
    """Return the media of all clips of a table that can be seen or heard."""
    clips = open_clips(folder)
    found: dict[str, tuple[Item, ...]] = {}
    for row, clip in enumerate(clips.clip_ids.tolist()):
        items: list[Item] = []
        for kind in MEDIA.values():
            if kind.pixels is None or not clips.present(kind.name)[row]:
                continue
            value = clips.media(kind.name, [row])[0]
            values = _different(value)[:MOST_FRAMES] if kind.is_plane else [value]
            items += [
                Item(media=kind.name, value=own, sample_rate=clips.sample_rate) for own in values
            ]
        found[clip] = tuple(items)
    return found


def _different(frames: Any) -> list[Any]:
    """Return the frames of a clip, each picture once; one with few repeats them."""
    return list({frame.numpy().tobytes(): frame for frame in frames}.values())
