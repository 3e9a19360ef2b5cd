"""The report: one self-contained HTML file of results, clips and generated ids."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nano4m.config.run import Config
from nano4m.data.clip_table import ClipTable
from nano4m.evaluate.results import Results
from nano4m.media.base import Item
from nano4m.modalities import Modality
from nano4m.report import figures, likelihoods
from nano4m.report.color_scale import ColorScale, shared_color_scale
from nano4m.report.headline import headline
from nano4m.report.markup import Html, section, short, span, tag
from nano4m.report.memorization import memorization_section
from nano4m.report.probes import probes_section
from nano4m.report.render import render
from nano4m.report.samples import Sample, collect
from nano4m.report.template import page_text
from nano4m.storage.files import write_text
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenTable
from nano4m.training.tracking import read_log

OPEN_CLIPS = 3
"""Clips that are unfolded at first."""

MOST_BYTES = 9_000_000
"""Most bytes of media in the page; further clips are left out, and the page says so."""


def lead(results: Results, modalities: tuple[Modality, ...]) -> str:
    """Return the sentence that describes the run."""
    names = [m.title for m in modalities]
    training = results.training
    size = training.get("parameters")
    parts = [f"One transformer{f' of {size / 1e6:.1f} M parameters' if size else ''}"]
    steps = training.get("steps")
    if steps:
        parts.append(f"trained for {short(steps)} steps")
        if training.get("train_seconds"):
            parts[-1] += (
                f" ({span(training['train_seconds'])} on {training.get('device', 'a machine')})"
            )
    kinds = f"{len(results.classes)} classes" if results.classes else "one collection"
    return (
        f"{', '.join(parts)}, turns any of {', '.join(names[:-1])} and {names[-1]} into any other; "
        f"here on clips of {kinds} ({results.preset}) from the {results.split} split, which it was "
        f"not trained on."
    )


# -- the any-to-any picture --------------------------------------------------------------------


def _sheet(sample: Sample, modalities: tuple[Modality, ...], scale: ColorScale) -> Html:
    """Return the table of one clip: real media, round trips, then one row an input modality."""
    titles = {m.name: m.title for m in modalities}

    def cell(item: Item | None, alt: str) -> Html:
        return tag("td", render(item, scale, f"{alt}, {sample.label}") if item else None)

    rows = []
    for title, note, items in (
        ("recorded", "the clip itself", sample.real),
        (
            "round trip",
            "through the tokenizer and back",
            sample.round_trip,
        ),
    ):
        cells = [cell(items.get(n), f"{titles[n]}, {title}") for n in titles]
        rows.append(tag("tr", tag("th", title, tag("small", note), scope="row"), *cells))
    for source in titles:
        if not any(given == source for given, _ in sample.made):
            continue
        given = sample.real.get(source) or sample.round_trip[source]
        shown = render(given, scale, f"{titles[source]}, input, {sample.label}")
        cells = [
            tag("td", tag("p", "input", class_="same"))
            if target == source
            else cell(sample.made.get((source, target)),
                      f"{titles[target]} made from {titles[source]} alone")
            for target in titles
        ]  # fmt: skip
        head = tag("th", tag("span", f"from {titles[source]}", class_="given"), shown, scope="row")
        rows.append(tag("tr", head, *cells, class_="made"))
    titles_row = [tag("th", title, scope="col") for title in titles.values()]
    body = tag("table", tag("thead", tag("tr", tag("th", "", scope="col"), *titles_row)),
               tag("tbody", *rows))  # fmt: skip
    return tag("div", body, class_="sheet", tabindex="0", role="region",
               aria_label=f"{sample.label}: everything from everything")  # fmt: skip


def _clip(
    sample: Sample, modalities: tuple[Modality, ...], scale: ColorScale, is_open: bool
) -> Html:
    pictures = (sample.real.get(m.name) for m in modalities if m.layout == "grid")
    first = next((item for item in pictures if item is not None), None)
    thumbnail = render(first, scale, "") if first else ""
    name = tag("span", tag("b", sample.label), tag("small", sample.caption or sample.clip_id))
    return tag(
        "details",
        tag("summary", thumbnail, name),
        _sheet(sample, modalities, scale),
        class_="clip",
        open="" if is_open else None,
    )


def pictures_section(samples: list[Sample], modalities: tuple[Modality, ...]) -> Html | None:
    """Return what is made from each modality alone, of as many clips as fit in the page."""
    if not samples:
        return None
    scale = shared_color_scale(item for sample in samples for item in sample.real.values())
    clips: list[Html] = []
    for i, sample in enumerate(samples):
        clip = _clip(sample, modalities, scale, i < OPEN_CLIPS)
        # One clip is always shown, however long its sound.
        if clips and sum(map(len, clips)) + len(clip) > MOST_BYTES:
            break
        clips.append(clip)
    how = (
        "Each row below the line is made from the one real modality at its left and nothing else. "
        "Above it are the clip as recorded and its tokenizer round trip: what differs between "
        "these two is the tokenizer\u2019s loss, the rest is the model\u2019s. All spectrograms "
        "share one colour scale, all depth maps another."
    )
    if len(clips) < len(samples):
        how += f" {len(clips)} of {len(samples)} clips are shown, to keep the page small."
    return section("any-to-any", "Anything from anything, seen and heard", how, *clips)


def write_report(
    results: Results,
    train_log: Path,
    clips: ClipTable,
    tokenizers: Mapping[str, Tokenizer],
    table: TokenTable,
    generated: Mapping[str, np.ndarray],
    config: Config,
    folder: Path,
) -> Path:
    """Write ``folder/index.html``, whole or not at all, and return its path.

    Args:
        results: Figures to show.
        train_log: ``log.jsonl`` of the training.
        clips: Real media.
        tokenizers: By name of modality; a modality without one is not shown.
        table: Ids of the real media, for the round trips.
        generated: ``clip_ids`` (n,) and for each direction "<input>-><target>" ids (n, L).
        config: Its section ``report`` is used.
        folder: Made if missing.

    Raises:
        KeyError: A generated clip that is not in ``table`` or not among ``clips``.
    """
    modalities = tuple(m for m in table.modalities if m.name in tokenizers)
    titles = {m.name: m.title for m in table.modalities}
    samples = collect(clips, tokenizers, table, generated, config.report.samples)
    sections = [
        pictures_section(samples, modalities),
        figures.matrix_section(results, titles),
        memorization_section(results, tokenizers, table, generated, clips.sample_rate),
        probes_section(results, titles),
        likelihoods.entropy_section(results, titles, modalities),
        figures.tokenizer_section(results, titles, modalities),
        figures.training_section(results, read_log(train_log), modalities),
        figures.clips_section(results, clips),
        figures.provenance_section(results),
    ]
    matrix = "Class consistency" if results.consistencies else "What is made"
    links = {
        "any-to-any": "Seen and heard", "matrix": matrix, "memorization": "Copies",
        "probes": "Probes", "entropy": "Cross-entropy", "tokenizers": "Tokenizers",
        "training": "Training", "clips": "Clips", "provenance": "How it was made",
    }  # fmt: skip
    text = page_text(
        title=f"{results.preset}: any to any",
        lead=lead(results, modalities),
        headline=headline(results, modalities),
        links=links,
        sections=sections,
        footer=f"nano4M-Audio, commit {results.provenance.get('commit', 'unknown')}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_text(path, text)
    return path
