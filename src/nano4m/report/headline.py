"""Headline of the page: figures above everything that explains them without a model.

What is not above its chance, commonest class and ceilings is no claim. The weakest direction stands
there all the same, with a word of what it is.
"""

from nano4m.evaluate.probe_results import Probe, Score
from nano4m.evaluate.results import Results
from nano4m.modalities import Modality
from nano4m.report.markup import Html, join, percent, sample_size, tag
from nano4m.report.probes import yardsticks

MOST_CLASSES = 3
"""Cards of classes by caption."""


def card(what: object, score: Score, available: int | None) -> Html:
    """Return a figure with its yardsticks and interval; ``available``: clips of the split."""
    ends = Html(f"[{100 * score.low:.0f}&ndash;{100 * score.high:.0f}]")
    n = f", n = {sample_size(score.n, score.clusters, available)}"
    beside = {name: value for name, value in yardsticks(score).items() if value >= score.chance}
    against = [join([name, " ", percent(value)]) for name, value in beside.items()]
    digits = 0 if score.value >= 0.1 else 1
    return tag(
        "li",
        tag("span", what, class_="what"),
        tag("span", percent(score.value, digits), class_="figure"),
        tag("span", join([join(against, ", "), join([ends, n])], "<br>"), class_="against"),
    )


def _directions(results: Results, titles: dict[str, str]) -> list[Html]:
    ordered = sorted(results.consistencies.items(), key=lambda entry: -entry[1].value)
    chosen = [("best direction", *entry) for entry in ordered if entry[1].is_above][:1]
    for pair, score in ordered[-1:]:
        if not score.is_above:
            chosen.append(("weakest direction, no better than guessing", pair, score))
        elif len(ordered) > 1:
            chosen.append(("weakest direction", pair, score))
    return [
        card(
            join([name, " \u2192 ".join(titles.get(m, m) for m in pair)], "<br>"),
            score,
            results.available,
        )
        for name, pair, score in chosen
    ]


def claims(results: Results, modalities: tuple[Modality, ...]) -> list[Probe]:
    """Return the probes of the headline, each above its yardsticks.

    Of each input one class by caption, and of all retrieval the one that is farthest above.
    """
    # Sound inputs come first: other any-to-any models lack them.
    heard = {m.name for m in modalities if m.layout == "codebooks"}
    above = [p for p in results.probes if p.is_above]
    classes: dict[str, Probe] = {}
    for probe in sorted(above, key=lambda p: p.source not in heard):
        if probe.task == "classification":
            classes.setdefault(probe.source, probe)
    found = [p for p in above if p.task != "classification"]
    best = max(found, key=lambda p: p.score.low - p.score.bar, default=None)
    return list(classes.values())[:MOST_CLASSES] + ([best] if best else [])


def headline(results: Results, modalities: tuple[Modality, ...]) -> Html:
    """Return the headline figures: best and weakest direction, then the claims of probes."""
    cards = _directions(results, {m.name: m.title for m in modalities})
    cards += [
        card(probe.name, probe.score, results.available) for probe in claims(results, modalities)
    ]
    return tag("ul", *cards, class_="cards") if cards else Html("")
