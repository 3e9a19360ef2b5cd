"""What is generated beside the train clips that it is nearest to, and how often it is too near."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nano4m.evaluate.results import Results
from nano4m.evaluate.sample_results import ClosestPair, Memorization
from nano4m.media.base import Item
from nano4m.modalities import Modality
from nano4m.report.color_scale import shared_color_scale
from nano4m.report.markup import Html, join, percent, sample_size, section, table, tag
from nano4m.report.render import render
from nano4m.report.samples import ARROW, decoded
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenTable

MOST_BYTES = 2_000_000
"""Most bytes of media of the pairs; further ones are left out."""


class Pair(NamedTuple):
    """The media of a closest pair, both decoded from tokens."""

    pair: ClosestPair
    made: Item
    train: Item


def pairs_of(
    figure: Memorization,
    modality: Modality,
    tokenizer: Tokenizer,
    table: TokenTable,
    generated: Mapping[str, np.ndarray],
    sample_rate: int,
) -> list[Pair]:
    """Return the closest pairs of one target with their media.

    Raises:
        KeyError: A clip that is not in the table, or was not generated.
    """
    if not figure.closest:
        return []
    place = {str(clip): i for i, clip in enumerate(generated["clip_ids"])}
    row = {clip: i for i, clip in enumerate(table.clip_ids.tolist())}
    made = [
        generated[f"{p.source}{ARROW}{figure.target}"][place[p.clip_id]] for p in figure.closest
    ]
    train = [table.ids[figure.target][row[p.train_clip_id], p.train_view] for p in figure.closest]
    items = decoded(modality, tokenizer, np.stack([*made, *train]).astype(np.int64), sample_rate)
    half = len(figure.closest)
    return [Pair(*parts) for parts in zip(figure.closest, items[:half], items[half:], strict=True)]


def _shown(pairs: list[Pair], title: str, titles: Mapping[str, str]) -> list[Html]:
    scale = shared_color_scale(item for pair in pairs for item in (pair.made, pair.train))
    shown: list[Html] = []
    for known, made, train in pairs:
        source = titles.get(known.source, known.source)
        row = tag(
            "tr",
            tag("th", title, tag("small", f"from {source}, clip {known.clip_id}"), scope="row"),
            tag("td", percent(known.equal)),
            tag("td", render(made, scale, f"{title} made from {source}")),
            tag("td", render(train, scale, f"{title} of the train clip {known.train_clip_id}")),
            tag("td", tag("small", known.train_clip_id)),
        )
        if shown and sum(map(len, shown)) + len(row) > MOST_BYTES:
            break
        shown.append(row)
    return shown


def memorization_section(
    results: Results,
    tokenizers: Mapping[str, Tokenizer],
    table_: TokenTable,
    generated: Mapping[str, np.ndarray],
    sample_rate: int,
) -> Html | None:
    """Return the memorisation figures and the closest pairs of each modality.

    Args:
        results: Their ``memorization`` is shown.
        tokenizers: By name of modality; pairs of one without are not shown.
        table_: Ids of the train clips.
        generated: As for the report.
        sample_rate: Of sounds, in Hz.
    """
    if not results.memorization:
        return None
    titles = {m.name: m.title for m in table_.modalities}
    modalities = {m.name: m for m in table_.modalities}
    rows: list[list[object]] = []
    pairs: list[Html] = []
    seen: set[str] = set()
    for figure in results.memorization:
        title = titles.get(figure.target, figure.target)
        source = (
            "each other alone"
            if figure.source is None
            else titles.get(figure.source, figure.source)
        )
        ends = tag("small", Html(f"[{100 * figure.low:.1f}&ndash;{100 * figure.high:.1f}]"))
        rows.append([
            f"{source} \u2192 {title}", join([percent(figure.value), ends], " "),
            percent(figure.made_equal), percent(figure.real_equal),
            sample_size(figure.n, figure.clusters, None),
        ])  # fmt: skip
        if figure.target not in seen and figure.target in tokenizers:
            found = pairs_of(figure, modalities[figure.target], tokenizers[figure.target], table_,
                             generated, sample_rate)  # fmt: skip
            pairs += _shown(found, title, titles)
        seen.add(figure.target)
    how = (
        "How often what was made is nearer to its nearest train sequence, by equal tokens at equal "
        "places, than the real clip is to its own. About 50 % if nothing is copied, 100 % for a "
        "model that copies; more typical samples than real ones are above 50 % too, noisy ones "
        "below it."
    )
    if any(figure.is_text for figure in results.memorization):
        how += " Texts that come from few templates are equal to train texts, real ones too."
    head = ("given \u2192 made", "nearer than the clip", "tokens in common",
            "of the real clip", "n")  # fmt: skip
    parts = [table(head, rows, label="Nearness to the train split")]
    if pairs:
        heads = ("made", "equal tokens", "generated", "nearest train clip", "its name")
        titles_row = [tag("th", text, scope="col") for text in heads]
        sheet = tag("table", tag("thead", tag("tr", *titles_row)), tag("tbody", *pairs))
        parts += [
            tag("h3", "The closest pairs"),
            tag("p", "Of all samples, those nearest to a train clip; both decoded from tokens."),
            tag("div", sheet, class_="sheet", tabindex="0", role="region",
                aria_label="The closest pairs"),
        ]  # fmt: skip
    return section("memorization", "Copies of train clips", how, *parts)
