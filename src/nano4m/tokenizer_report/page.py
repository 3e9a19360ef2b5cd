"""The page of a comparison: figures, the chain, and round trips side by side."""

from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from nano4m.report.color_scale import shared_color_scale
from nano4m.report.markup import Html, facts, html, join, section, table, tag
from nano4m.report.render import render
from nano4m.storage.files import write_text
from nano4m.tokenizer_report.compare import Comparison, Shown
from nano4m.tokenizer_report.rows import about, tables

HOW = {
    "Cost": (
        "cost",
        "Bits are tokens times log2 of the ids of a codebook. Used codes and perplexity are of "
        "each codebook, coarse first. Speeds are of one thread, in seconds of sound (or items) a "
        "second.",
    ),
    "Round trip": (
        "round-trip",
        "Decoded clips against the originals. SI-SDR compares samples, so a made-up phase is far "
        "below 0 however it sounds; LSD, STFT and mel compare spectra: lower is nearer. Clicks of "
        "the originals are in brackets. Class: what a classifier of real media finds in the round "
        "trips, accuracy / balanced.",
    ),
    "Class in the tokens": (
        "class",
        "Accuracy / balanced, in percent, of a linear probe and of five nearest neighbours on the "
        "ids, trained on the train split and judged on recordings that it does not have. The "
        "media's own probe is what tokens could keep.",
    ),
    "Where the class gets lost": (
        "chain",
        "The same clips at every link from the media to the model. What falls between two links "
        "is lost there: in the tokenizer, or in the training.",
    ),
}
"""Title of a table -> its key and how to read it."""


def _heard(shown: list[Shown]) -> Html:
    scale = shared_color_scale(own.original for own in shown)
    names = list(shown[0].made)
    head = tag("tr", tag("th", "", scope="col"), tag("th", "original", scope="col"),
               *(tag("th", name, scope="col") for name in names))  # fmt: skip
    rows = []
    for own in shown:
        cells = [render(own.original, scale, f"original, {own.title}")]
        cells += [render(own.made[name], scale, f"{name}, {own.title}") for name in names]
        label, _, clip = own.title.partition(", ")
        rows.append(
            tag("tr", tag("th", label, tag("small", clip), scope="row"),
                *(tag("td", cell) for cell in cells))
        )  # fmt: skip
    body = tag("table", tag("thead", head), tag("tbody", *rows))
    sheet = tag("div", body, class_="sheet", tabindex="0", role="region",
                aria_label="round trips side by side")  # fmt: skip
    how = (
        "Each row is one clip, first as recorded, then through each tokenizer and back. All "
        "pictures of a kind share one colour scale."
    )
    return section("heard", "Seen and heard", how, tag("div", sheet, class_="clip"))


def _settings(report: dict[str, Any]) -> Html:
    entries = {
        entry["name"]: (
            f"{entry['kind']} {'x'.join(map(str, entry['shape']))}, "
            f"{entry.get('parameters', 0) / 1e6:.2f} M parameters, fingerprint "
            f"{entry['fingerprint']}, licence: {entry['licence']}. "
            + ", ".join(f"{k} {v}" for k, v in entry["settings"].items())
        )
        for entry in report["tokenizers"]
    }
    entries["made by"] = report["provenance"]["command"]
    list_ = facts(entries)
    return section("settings", "Settings", "What each tokenizer is.",
                   Html(list_.replace('class="facts"', 'class="facts wide"')))  # fmt: skip


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Write ``folder/index.html``, whole or not at all, and return its path."""
    report = comparison.report
    sections = [_heard(comparison.shown)] if comparison.shown else []
    for title, (head, rows) in tables(report).items():
        key, how = HOW[title]
        sections.append(section(key, title, how, table(head, rows, label=title)))
    broken = [e for e in report["tokenizers"] if e["verdict"] == "broken"]
    said = [tag("p", f"{e['name']} is broken: {e['verdict_reason']}") for e in broken]
    sections.append(_settings(report))
    links = {"heard": "Seen and heard", **{key: t for t, (key, _) in HOW.items()},
             "settings": "Settings"}  # fmt: skip
    there = [
        tag("a", title, href=f"#{key}")
        for key, title in links.items()
        if any(s.startswith(f'<section id="{key}"') for s in sections)
    ]
    files = resources.files("nano4m.report")
    text = Template(files.joinpath("template.html").read_text(encoding="utf-8")).substitute(
        title=html(f"Tokenizers of {report['media']}, compared"),
        style=files.joinpath("style.css").read_text(encoding="utf-8"),
        lead=html(about(report)),
        headline=join(said),
        contents=join(there),
        main=join(sections, "\n"),
        footer=html(f"nano4M-Audio, commit {report['provenance'].get('commit', 'unknown')}"),
    )
    path = folder / "index.html"
    write_text(path, text)
    return path
