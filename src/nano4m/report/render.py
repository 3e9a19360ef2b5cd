"""Media to what a person sees and hears: RGB arrays, and HTML with everything inlined.

RENDERERS chooses by kind of media.
"""

import base64
import io
import wave
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from nano4m.modalities import Media
from nano4m.report.markup import Html, tag
from nano4m.report.pixels import PIXELS, ColorScale, Item

LARGEST = 192
"""Pixels a side of a picture in the page; larger ones are made smaller."""


def png_uri(pixels: np.ndarray) -> str:
    """Return uint8 (H, W, 3) as the data URI of a PNG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def wav_uri(sound: Any, sample_rate: int) -> str:
    """Return float (samples,) in [-1, 1] as the data URI of a mono 16-bit WAV."""
    values = torch.as_tensor(sound).double().reshape(-1).numpy()
    pcm = np.clip(np.round(values * 32768), -32767, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(item: Item, scale: ColorScale, alt: str, class_: str) -> Html:
    pixels = PIXELS[item.media](item, scale)
    return tag("img", src=png_uri(pixels), alt=alt, class_=class_)


def _sound_html(item: Item, scale: ColorScale, alt: str) -> Html:
    player = tag("audio", controls="", preload="none", aria_label=alt,
                 src=wav_uri(item.value, item.sample_rate))  # fmt: skip
    return Html(_image(item, scale, f"spectrogram: {alt}", "spectrogram") + player)


def _picture_html(item: Item, scale: ColorScale, alt: str) -> Html:
    return _image(item, scale, alt, "pixels")


RENDERERS: dict[Media, Callable[[Item, ColorScale, str], Html]] = {
    "picture": _picture_html,
    "depth": _picture_html,
    "normals": _picture_html,
    "sound": _sound_html,
    "caption": lambda item, scale, alt: tag("p", item.value.strip() or None, class_="caption"),
}


def render(item: Item, scale: ColorScale, alt: str) -> Html:
    """Return one item as HTML, with ``alt`` for who does not see it."""
    return RENDERERS[item.media](item, scale, alt)
