"""Figures of a run as inline SVG that follows the page's colours, by matplotlib.

The drawing functions take axes and a ``Palette``, so that the page and the overview for the README
draw the same matrix.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nano4m.evaluate.likelihood_results import CrossEntropy
from nano4m.evaluate.results import Results
from nano4m.modalities import Modality
from nano4m.report.markup import Html, scroll


@dataclass(frozen=True)
class Palette:
    """Colours of a figure."""

    text: str
    muted: str
    line: str
    accent: str
    second: str


PAPER = Palette("#1d1d22", "#62636c", "#dcdad4", "#2f62d8", "#c4581c")
"""For a PNG on white."""

# Placeholder colours: the SVG replaces them by the page's own, light or dark.
PAGE = Palette("#010203", "#010204", "#010205", "#010206", "#010207")
_VARIABLES = {
    PAGE.text: "var(--text)",
    PAGE.muted: "var(--muted)",
    PAGE.line: "var(--line)",
    PAGE.accent: "var(--accent)",
    PAGE.second: "var(--second)",
}


def svg(figure: Figure, name: str, label: str) -> Html:
    """Return a figure as one inline SVG element; its identifiers begin with ``name``."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    text = re.sub(r"font: (\d+ )?([\d.]+px) inherit", r"font-size: \2; font-weight: \1", text)
    text = text.replace("font-weight: ;", "").replace('font-weight: "', '"')
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return scroll(Html(text), label, "chart")


def plain_axes(axes: Axes, palette: Palette) -> None:
    """Leave only the left and the lower line of axes, in the colours of a palette."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(palette.line)
    axes.tick_params(colors=palette.muted, labelsize=9, length=0)


# -- the any-to-any matrix ---------------------------------------------------------------------


def draw_matrix(
    axes: Axes, results: Results, titles: Mapping[str, str], palette: Palette, zoom: float = 1.0
) -> None:
    """Draw class consistency by (source, target) with intervals; below, tokenizer round trips.

    Args:
        axes: Axes to fill.
        results: ``matrix`` and ``classifiers`` are drawn.
        titles: Title of each modality, in the order of rows and columns.
        palette: Colours.
        zoom: Of the text.
    """
    cells = results.consistencies
    classifiers = {j.modality: j.accuracy for j in results.classifiers}
    sources = [m for m in titles if any(s == m for s, _ in cells)]
    targets = [m for m in titles if any(t == m for _, t in cells)]
    below: list[tuple[str, Callable[[str], float | None]]] = []
    if any(classifiers[t].round_trip is not None for t in targets if t in classifiers):
        below.append(
            (
                "tokenizer round trip",
                lambda t: classifiers[t].round_trip if t in classifiers else None,
            )
        )
    if any(t in classifiers for t in targets):
        below.append(("real media", lambda t: classifiers[t].value if t in classifiers else None))
    gap, half = 0.3, 0.47

    def cell(x: float, y: float, share: float, chance: float, colour: str) -> None:
        # No colour at chance, so that a matrix at chance looks empty.
        strength = max(0.0, share - chance) / max(1e-9, 1 - chance)
        box = FancyBboxPatch(
            (x - half, y - half), 2 * half, 2 * half, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour, edgecolor="none", alpha=0.04 + 0.5 * strength,
        )  # fmt: skip
        axes.add_patch(box)

    for x, target in enumerate(targets):
        for y, source in enumerate(sources):
            score = cells.get((source, target))
            if score is None:
                axes.text(x, y, "\u00b7", ha="center", va="center", color=palette.muted)
                continue
            cell(x, y, score.value, score.chance, palette.accent)
            strong = score.is_above
            ends = f"{100 * score.low:.0f}\u2013{100 * score.high:.0f}"
            axes.text(x, y - 0.1, f"{100 * score.value:.0f} %", ha="center", va="center",
                      fontsize=14 * zoom, color=palette.text if strong else palette.muted,
                      fontweight="bold" if strong else "normal")  # fmt: skip
            axes.text(x, y + 0.24, ends, ha="center", va="center", fontsize=9 * zoom,
                      color=palette.text if strong else palette.muted)  # fmt: skip
        for i, (_, value_of) in enumerate(below):
            value, low = value_of(target), len(sources) + gap + i * 0.62 - 0.19
            if value is not None:
                axes.text(x, low, f"{100 * value:.0f} %", ha="center", va="center",
                          fontsize=11 * zoom, color=palette.second)  # fmt: skip
    for x, target in enumerate(targets):
        axes.text(x, -0.62, titles[target], ha="center", va="bottom", fontsize=11 * zoom,
                  color=palette.text)  # fmt: skip
    for y, source in enumerate(sources):
        axes.text(
            -0.62,
            y,
            titles[source],
            ha="right",
            va="center",
            fontsize=11 * zoom,
            color=palette.text,
        )
    for i, (label, _) in enumerate(below):
        axes.text(-0.62, len(sources) + gap + i * 0.62 - 0.19, label, ha="right", va="center",
                  fontsize=9.5 * zoom, color=palette.second)  # fmt: skip
    axes.text(-0.62, -0.68, "input \u2193   target \u2192", ha="right", va="bottom",
              fontsize=9 * zoom, color=palette.muted)  # fmt: skip
    axes.set_xlim(-2.0, len(targets) - 0.45)
    axes.set_ylim(len(sources) - 0.35 + (gap + 0.62 * len(below) if below else 0), -1.1)
    axes.set_axis_off()


def matrix_chart(results: Results, titles: Mapping[str, str]) -> Html:
    """Return the any-to-any matrix as SVG."""
    figure = Figure(figsize=(1.15 * (len(titles) + 1.7), 0.78 * (len(titles) + 2.4)))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_matrix(axes, results, titles, PAGE)
    return svg(figure, "matrix", "Class consistency of each direction, as in the table below")


# -- loss curves -------------------------------------------------------------------------------


def loss_chart(
    log: Sequence[Mapping[str, Any]],
    entropies: Sequence[CrossEntropy],
    modalities: Sequence[Modality],
) -> Html:
    """Return train and validation loss of each modality with its unigram baseline as SVG."""
    base = {c.modality: c.unigram for c in entropies}
    shown = [m for m in modalities if any(m.name in line["loss"] for line in log)]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(9.6, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, modality in zip(grid.flat, shown, strict=False):
        axes.set_axis_on()
        plain_axes(axes, PAGE)
        for key, style in (
            ("loss", {"color": PAGE.accent, "linewidth": 1.0, "alpha": 0.55}),
            ("val", {"color": PAGE.accent, "linewidth": 1.8, "marker": "o", "markersize": 3.2}),
        ):
            points = [
                (e["step"], e[key][modality.name]) for e in log if modality.name in e.get(key, {})
            ]
            if points:
                axes.plot(*zip(*points, strict=True), **style)
        if modality.name in base:
            axes.axhline(
                base[modality.name], color=PAGE.second, linewidth=1.2, linestyle=(0, (4, 3))
            )
        axes.set_title(modality.title, loc="left", fontsize=11, color=PAGE.text)
        axes.grid(axis="y", color=PAGE.line, linewidth=0.6)
        axes.set_ylim(bottom=0)
    return svg(figure, "loss", "Loss by step for each modality")
