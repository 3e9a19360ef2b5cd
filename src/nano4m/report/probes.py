"""Probes as bars and as tables of the page: classes by caption, retrieval a row a pair."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from nano4m.evaluate.probe_results import Probe, Score
from nano4m.evaluate.results import Results
from nano4m.report.charts import PAGE, plain_axes, svg
from nano4m.report.figures import (
    BOLD,
    SCORE_HEAD,
    arrow,
    control_cell,
    interval,
    legend,
    score_cells,
)
from nano4m.report.markup import Html, html, join, percent, sample_size, section, table, tag


class Pair(NamedTuple):
    """Retrieval of one modality by another: the probes by k and by what the candidates share."""

    source: str
    target: str
    probes: dict[tuple[int | None, str | None], Probe]

    @property
    def gallery(self) -> Probe | None:
        """Recall among all clips at the smallest k."""
        whole = [key for key in self.probes if key[1] is None]
        return self.probes[min(whole, key=lambda key: key[0] or 0)] if whole else None


def retrieval_pairs(probes: Sequence[Probe]) -> list[Pair]:
    """Return the pairs of a run, in order."""
    pairs: dict[tuple[str, str], Pair] = {}
    for probe in probes:
        if probe.task != "classification":
            key = (probe.source, probe.target)
            own = pairs.setdefault(key, Pair(*key, {}))
            own.probes[probe.k, probe.within] = probe
    return list(pairs.values())


def retrieval_columns(pairs: Sequence[Pair]) -> dict[tuple[int | None, str | None], str]:
    """Return the title of each column of a table of pairs."""
    keys = {key for pair in pairs for key in pair.probes}
    ordered = sorted(keys, key=lambda key: (key[1] is not None, key[1] or "", key[0] or 0))
    return {key: f"R@{key[0]}" + (f" within the {key[1]}" if key[1] else "") for key in ordered}


def yardsticks(score: Score) -> dict[str, float]:
    """Return chance, commonest class and ceilings of a score, by name."""
    found = {"chance": score.chance}
    if score.majority is not None:
        found["commonest class"] = score.majority
    return found | {f"{name} known": value for name, value in score.ceilings.items()}


def _retrieval_cell(probe: Probe | None, whole: Score | None) -> Html | None:
    if probe is None:
        return None
    score = probe.score
    beside = [join([name, " ", percent(value)]) for name, value in yardsticks(score).items()]
    if whole is None or (score.n, score.clusters) != (whole.n, whole.clusters):
        beside.append(html(f"n {sample_size(score.n, score.clusters, None)}"))
    shown = interval(score, probe.is_above)
    return join([shown, tag("small", join(beside, ", "))], "<br>")


def _retrieval_table(results: Results, titles: Mapping[str, str]) -> list[Html]:
    pairs = retrieval_pairs(results.probes)
    if not pairs:
        return []
    columns = retrieval_columns(pairs)
    rows: list[list[object]] = []
    for pair in pairs:
        gallery = pair.gallery
        whole = gallery.score if gallery else None
        shuffled = whole.controls.get("shuffled") if whole else None
        rows.append([
            arrow(pair.source, pair.target, titles),
            *(_retrieval_cell(pair.probes.get(key), whole) for key in columns),
            control_cell("R@1", shuffled) if shuffled else None,
            sample_size(whole.n, whole.clusters, results.available) if whole else None,
        ])  # fmt: skip
    how = (
        "Which clip does the input belong to? Beside recall among all clips are chance and the "
        "ceilings: what is reached by knowing of each clip its class, or its caption, and nothing "
        "else. Within the class (and caption) all candidates share the query\u2019s, so only "
        "telling clips apart helps, and chance is one over their number; clips that are alone "
        "there are left out."
    )
    head = ("input \u2192 target", *columns.values(), "shuffled", "n")
    return [tag("h3", "Retrieval"), tag("p", how), table(head, rows, label="Retrieval")]


def _class_table(results: Results, titles: Mapping[str, str]) -> list[Html]:
    rows = [
        [p.name, arrow(p.source, p.target, titles), *score_cells(p.score, results.available)]
        for p in results.probes
        if p.task == "classification"
    ]
    if not rows:
        return []
    how = (
        "Which class has the captions that the model finds likeliest? By the posterior a class "
        "that is common among the train clips is ahead from the beginning; by mutual information "
        "(the posterior minus its value without inputs) only what the input tells counts."
    )
    head = ("probe", "input \u2192 target", *SCORE_HEAD)
    return [
        tag("h3", "Class by caption"), tag("p", how),
        table(head, rows, text=2, label="Class by caption"),
    ]  # fmt: skip


def left_out(results: Results) -> list[Html]:
    """Return the list of probes that were not measured."""
    reasons: dict[str, list[str]] = {}
    for entry in results.left_out:
        reasons.setdefault(entry.reason, []).append(entry.probe)
    lines = [tag("li", "; ".join(names), ": ", why) for why, names in reasons.items()]
    return [tag("h3", "Left out"), tag("ul", *lines)] if lines else []


def probe_chart(probes: Sequence[Probe]) -> Html:
    """Return a bar a probe with its interval, chance, and the highest other yardstick as SVG."""
    figure = Figure(figsize=(9.6, 0.42 * len(probes) + 0.6), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes, PAGE)
    for y, probe in enumerate(probes):
        score = probe.score
        axes.barh(y, 100 * score.value, height=0.52, color=PAGE.accent, alpha=0.35)
        axes.plot([100 * score.low, 100 * score.high], [y, y], color=PAGE.accent, linewidth=2)
        axes.plot([100 * score.chance] * 2, [y - 0.36, y + 0.36], color=PAGE.second, linewidth=2)
        if score.bar > score.chance:
            axes.plot([100 * score.bar] * 2, [y - 0.36, y + 0.36], color=PAGE.second,
                      linewidth=1.4, linestyle=(0, (1, 1)))  # fmt: skip
    axes.set_yticks(range(len(probes)), [p.name for p in probes], fontsize=10, color=PAGE.text)
    axes.set_ylim(len(probes) - 0.4, -0.6)
    axes.set_xlim(0, 101)
    axes.set_xticks(range(0, 101, 20), [f"{x} %" for x in range(0, 101, 20)])
    axes.grid(axis="x", color=PAGE.line, linewidth=0.6)
    axes.set_axisbelow(True)
    return svg(figure, "probes", "Probes, as in the table below")


def drawn(probes: Sequence[Probe]) -> list[Probe]:
    """Return the probes of the chart: classes by caption, and of each pair its first figures."""
    classes = [p for p in probes if p.task == "classification"]
    found = []
    for pair in retrieval_pairs(probes):
        within = [p for (_, name), p in pair.probes.items() if name is not None]
        found += ([pair.gallery] if pair.gallery else []) + within[:1]
    return classes + found


def probes_section(results: Results, titles: Mapping[str, str]) -> Html | None:
    """Return the probes as bars and as tables, and those that were left out."""
    if not results.probes and not results.left_out:
        return None
    marks = legend(("bar", "value"), ("whisker", "95 % interval"), ("tick", "chance"),
                   ("dots", "commonest class, or the higher ceiling"))  # fmt: skip
    how = (
        "What the model knows without generating. A probe means something if its interval is "
        "above all that is drawn as a line, and its controls are as expected. "
    )
    shown = drawn(results.probes)
    return section(
        "probes", "Probes", how + BOLD, *([marks, probe_chart(shown)] if shown else []),
        *_class_table(results, titles), *_retrieval_table(results, titles), *left_out(results),
    )  # fmt: skip
