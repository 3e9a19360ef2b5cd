"""Media as HTML with pictures and sounds inlined."""

import base64
import io

import numpy as np
from PIL import Image

from nano4m.media import media_kind
from nano4m.media.base import Item
from nano4m.report.color_scale import ColorScale, pixels_of
from nano4m.report.markup import Html, tag

LARGEST = 192
"""Most pixels a side of a picture in the page; larger ones are reduced."""


def png_uri(pixels: np.ndarray) -> str:
    """Return uint8 (H, W, 3) as the data URI of a PNG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wav_uri(item: Item) -> str:
    """Return a sound as the data URI of a mono 16-bit WAV."""
    data = media_kind(item.media).part("play")(item)
    return "data:audio/wav;base64," + base64.b64encode(data).decode()


def render(item: Item, scale: ColorScale, alt: str) -> Html:
    """Return one item as HTML, with ``alt`` as its alternative text: a picture, a spectrogram with
    its player, or a text.
    """
    kind = media_kind(item.media)
    if kind.pixels is None:
        return tag("p", item.value.strip() or None, class_="caption")
    source = png_uri(pixels_of(item, scale))
    if kind.play is None:
        return tag("img", src=source, alt=alt, class_="pixels")
    picture = tag("img", src=source, alt=f"spectrogram: {alt}", class_="spectrogram")
    player = tag("audio", controls="", preload="none", aria_label=alt, src=wav_uri(item))
    return Html(picture + player)
