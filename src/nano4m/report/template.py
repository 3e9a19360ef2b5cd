"""A page from its parts: one self-contained HTML file that needs no network."""

from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template

from nano4m.report.markup import Html, html, join, tag


def page_text(
    *,
    title: str,
    lead: object,
    headline: Html,
    links: Mapping[str, str],
    sections: Sequence[Html | None],
    footer: str,
) -> str:
    """Return the text of a page.

    Args:
        title: Of the page.
        lead: The sentence below it.
        headline: What stands above all sections.
        links: Key of a section -> its name in the contents; those that are not there are left out.
        sections: See ``markup.section``; None is left out.
        footer: Last line.
    """
    shown = [section for section in sections if section is not None]
    there = [
        tag("a", name, href=f"#{key}")
        for key, name in links.items()
        if any(section.startswith(f'<section id="{key}"') for section in shown)
    ]
    files = resources.files("nano4m.report")
    return Template(files.joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=html(title),
        style=files.joinpath("style.css").read_text(encoding="utf-8"),
        lead=html(lead),
        headline=headline,
        contents=join(there),
        main=join(shown, "\n"),
        footer=html(footer),
    )
