"""Small pieces of HTML: every value is escaped here, and numbers are written in one way."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

DASH = "&ndash;"
"""Shown where there is no value."""


VOID = {"img", "meta"}
"""Elements without an end tag."""


class Html(str):
    """Text that is HTML already; every other text is escaped on its way into the page."""


def html(value: object) -> Html:
    """Return ``value`` as HTML: escaped unless it is ``Html``; a dash for None."""
    if value is None:
        return Html(DASH)
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *inner: object, **attributes: object) -> Html:
    """Return an element; ``_`` in the name of an attribute is ``-``, ``class_`` is ``class``."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"')
    if name in VOID:
        return Html(f"<{' '.join(parts)}>")
    body = "".join(html(part) for part in inner)
    return Html(f"<{' '.join(parts)}>{body}</{name}>")


def join(parts: Sequence[object], between: str = "") -> Html:
    """Join pieces; ``between`` is HTML."""
    return Html(between.join(html(part) for part in parts))


def percent(share: float | None, digits: int = 1) -> Html:
    """Return a share in [0, 1] as percent."""
    return Html(DASH if share is None else f"{100 * share:.{digits}f}&nbsp;%")


def short(value: Any) -> str:
    """Return a number with thousands separated, or three significant digits if it is no integer."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def sample_size(n: int, clusters: int | None, available: int | None) -> str:
    """Return ``220 of 20,000, 18 clusters``: how many clips a figure is of.

    Args:
        n: Clips of the figure.
        clusters: Clusters of clips that are not independent; named if fewer than clips.
        available: Clips of the split; named if more than those of the figure.
    """
    of = f" of {short(available)}" if available and available > n else ""
    alike = f", {short(clusters)} clusters" if clusters and clusters < n else ""
    return f"{short(n)}{of}{alike}"


def words(name: str) -> str:
    """Return the name of a field as words."""
    return re.sub(r"[_\s]+", " ", name).strip()


def span(seconds: float) -> str:
    """Return a duration as readable text."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], *, text: int = 1, label: str
) -> Html:
    """Return a table that scrolls on a narrow screen.

    Args:
        head: Titles of the columns.
        rows: Cells; the first of a row is its heading.
        text: Number of text columns, from the left; the others are numbers.
        label: For screen readers.
    """

    def kind(i: int) -> str | None:
        return None if i < text else "number"

    titles = [tag("th", t, scope="col", class_=kind(i)) for i, t in enumerate(head)]
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    body = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *lines))
    return scroll(body, label)


def scroll(body: Html, label: str, class_: str = "scroll") -> Html:
    """Return ``body`` in a region that scrolls sideways, also with the keyboard."""
    return tag("div", body, class_=class_, tabindex="0", role="region", aria_label=label)


def facts(entries: Mapping[str, object]) -> Html:
    """Return names and values as a definition list."""
    pairs = [tag("div", tag("dt", k), tag("dd", v)) for k, v in entries.items()]
    return tag("dl", *pairs, class_="facts")


def section(key: str, title: str, how_to_read: object, *inner: object) -> Html:
    """Return a section with its heading and a sentence on how to read it."""
    lead = tag("p", how_to_read, class_="how")
    return tag("section", tag("h2", title, id=f"{key}-title"), lead, *inner, id=key,
               aria_labelledby=f"{key}-title")  # fmt: skip
