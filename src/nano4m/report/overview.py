"""One picture of a run for a README: what is made from each modality alone, and the matrix."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nano4m.data.clip_table import ClipTable
from nano4m.evaluate.results import Results
from nano4m.media.base import Item
from nano4m.modalities import Modality
from nano4m.report.charts import PAPER, draw_matrix
from nano4m.report.color_scale import ColorScale, has_pixels, pixels_of, shared_color_scale
from nano4m.report.samples import Sample, collect
from nano4m.storage.files import whole_file
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenTable

WIDTH = 1600
"""Pixels."""


def _caption(axes: Axes, item: Item) -> None:
    text = textwrap.shorten(item.value, 66, placeholder=" \u2026") or "\u2013"
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0.5, 0.5, "\n".join(textwrap.wrap(text, 13)), ha="center", va="center", fontsize=12.5,
              color=PAPER.text, linespacing=1.25, parse_math=False)  # fmt: skip


def _draw(axes: Axes, item: Item, scale: ColorScale) -> None:
    if has_pixels(item):
        pixels = pixels_of(item, scale)
        # Pixels stay visible in pictures; a spectrogram has no square pixels to show.
        smooth = "nearest" if pixels.shape[0] == pixels.shape[1] else "bilinear"
        axes.imshow(pixels, aspect="auto", interpolation=smooth)
    else:
        _caption(axes, item)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def overview_png(
    results: Results,
    clips: ClipTable,
    tokenizers: Mapping[str, Tokenizer],
    table: TokenTable,
    generated: Mapping[str, np.ndarray],
    path: Path,
) -> Path:
    """Write one PNG, 1600 pixels wide: a row an input modality, each of another clip.

    Raises:
        ValueError: Nothing was generated.
    """
    modalities = [m for m in table.modalities if m.name in tokenizers]
    samples = collect(clips, tokenizers, table, generated, len(modalities))
    if not samples:
        raise ValueError("no generated clip to show")
    made_from = {source for sample in samples for source, _ in sample.made}
    sources = [m for m in modalities if m.name in made_from]
    gap, left, top = 10, 112, 92
    size = min(240, 800 // len(modalities) - gap)
    height = top + len(sources) * (size + gap) + 34
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / WIDTH, 1 - (y + h) / height, w / WIDTH, h / height

    def write(x: float, y: float, text: str, **more: Any) -> None:
        style: dict[str, Any] = {"color": PAPER.text, "parse_math": False} | more
        figure.text(x / WIDTH, 1 - y / height, text, **style)

    scale = shared_color_scale(item for sample in samples for item in sample.real.values())
    heading: dict[str, Any] = {"fontsize": 15, "fontweight": "bold", "va": "center"}
    write(left, 30, "input (framed) \u2192 made from it alone", **heading)
    for x, target in enumerate(modalities):
        write(left + x * (size + gap) + size / 2, top - 14, target.title, fontsize=14, ha="center",
              va="center")  # fmt: skip
    for y, source in enumerate(sources):
        own = [s for s in samples if any(given == source.name for given, _ in s.made)]
        sample = samples[y % len(samples)] if samples[y % len(samples)] in own else own[0]
        middle = top + y * (size + gap) + size / 2
        write(left - 14, middle - 11, source.title, fontsize=14, ha="right", va="center",
              color=PAPER.accent, fontweight="bold")  # fmt: skip
        write(left - 14, middle + 11, sample.label, fontsize=12, ha="right", va="center",
              color=PAPER.muted)  # fmt: skip
        for x, target in enumerate(modalities):
            item = _item(sample, source, target)
            if item is None:
                continue
            box = place(left + x * (size + gap), top + y * (size + gap), size, size)
            axes = figure.add_axes(box)
            _draw(axes, item, scale)
            if source is target:
                axes.add_patch(
                    Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, clip_on=False,
                              edgecolor=PAPER.accent, linewidth=5)
                )  # fmt: skip
    x = left + len(modalities) * (size + gap) + 34
    if scores := results.consistencies:
        chances = {s.chance for s in scores.values()}
        chance = f" (chance {100 * min(chances):.0f} %)" if len(chances) == 1 else ""
        write(x, 30, f"how often its class is recognised in it{chance}", **heading)
        axes = figure.add_axes(place(x, 52, WIDTH - x - 10, height - 80))
        draw_matrix(axes, results, {m.name: m.title for m in modalities}, PAPER, zoom=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
    return path


def _item(sample: Sample, source: Modality, target: Modality) -> Item | None:
    if source is target:
        return sample.real.get(source.name) or sample.round_trip.get(source.name)
    return sample.made.get((source.name, target.name))
