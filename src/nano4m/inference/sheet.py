"""Contact sheets: inputs beside the samples made from them, and the spectrograms of all sounds."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nano4m.media.base import Item
from nano4m.report.color_scale import ColorScale, has_pixels, pixels_of, shared_color_scale

MOST_COLUMNS = 16
MOST_ROWS = 24
"""Most tiles of a sheet; further samples are only in the files."""

INCHES = 1.6
"""Side of a tile in inches."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a sheet: the name of the input, a title, the inputs, and the samples."""

    source: str
    title: str
    inputs: list[Item]
    made: list[Item]


def _draw(axes: Axes, item: Item, scale: ColorScale, is_given: bool) -> None:
    if has_pixels(item):
        pixels = pixels_of(item, scale)
        # Pixels stay visible in pictures; a spectrogram has no square pixels to show.
        is_square = pixels.shape[0] == pixels.shape[1]
        axes.imshow(pixels, aspect="auto", interpolation="nearest" if is_square else "bilinear")
    else:
        text = textwrap.shorten(str(item.value), 80, placeholder=" ...") or "-"
        axes.text(0.5, 0.5, "\n".join(textwrap.wrap(text, 16)), ha="center", va="center",
                  fontsize=8, transform=axes.transAxes, parse_math=False)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(is_given)
        spine.set_color("tab:orange")
        spine.set_linewidth(2)


def write_sheet(path: Path, rows: Sequence[Row]) -> str | None:
    """Write a PNG: a line a row, input tiles framed, at most MOST_ROWS by MOST_COLUMNS.

    Returns:
        The name of the file, or None if there is nothing to show.
    """
    shown = [row for row in rows if row.inputs or row.made][:MOST_ROWS]
    if not shown:
        return None
    scale = shared_color_scale(item for row in shown for item in row.inputs or row.made)
    columns = min(MOST_COLUMNS, max(len(row.inputs) + len(row.made) for row in shown))
    figure = Figure(figsize=((columns + 1) * INCHES, len(shown) * INCHES), dpi=100)
    for y, row in enumerate(shown):
        title = figure.add_subplot(len(shown), columns + 1, y * (columns + 1) + 1)
        title.set_axis_off()
        title.text(0.95, 0.5, "\n".join(textwrap.wrap(row.title, 18)), ha="right", va="center",
                   fontsize=8, parse_math=False)  # fmt: skip
        items = [(item, True) for item in row.inputs] + [(item, False) for item in row.made]
        for x, (item, is_given) in enumerate(items[:columns]):
            place = y * (columns + 1) + x + 2
            _draw(figure.add_subplot(len(shown), columns + 1, place), item, scale, is_given)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99, 0.06, 0.06)
    figure.savefig(path, format="png", metadata={"Software": None})
    return path.name


def only(rows: Sequence[Row], media: str) -> list[Row]:
    """Return one row an input with its items of one kind, without inputs that have none."""
    found: dict[str, Row] = {}
    for row in rows:
        made = [item for item in row.made if item.media == media]
        if row.source in found:
            made = found[row.source].made + made
        inputs = [item for item in row.inputs if item.media == media]
        if inputs or made:
            found[row.source] = Row(source=row.source, title=row.source, inputs=inputs, made=made)
    return list(found.values())
