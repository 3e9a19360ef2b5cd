"""Media to pixels on shared colour scales, so that two spectrograms, or two depth maps, compare."""

from collections.abc import Iterable, Mapping

import numpy as np

from nano4m.media import MEDIA, media_kind
from nano4m.media.base import Item

ColorScale = Mapping[str, float]
"""Kind of media -> top of the colour scale that all its pictures share."""


def shared_color_scale(items: Iterable[Item]) -> ColorScale:
    """Return the scales for a page whose real media are ``items``."""
    tops: dict[str, float] = {}
    for item in items:
        limit = media_kind(item.media).limit
        if limit is not None:
            top = limit(item)
            tops[item.media] = max(top, tops.get(item.media, top))
    return {name: kind.default_limit for name, kind in MEDIA.items()} | tops


def has_pixels(item: Item) -> bool:
    """Whether an item is shown as pixels; a text is not."""
    return media_kind(item.media).pixels is not None


def pixels_of(item: Item, scale: ColorScale) -> np.ndarray:
    """Return an item as uint8 (H, W, 3)."""
    return media_kind(item.media).part("pixels")(item, scale[item.media])
