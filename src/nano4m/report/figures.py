"""Results as tables of the page: every figure with its baselines and controls."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nano4m.data.clip_table import ClipTable
from nano4m.evaluate.probe_results import Control, Score
from nano4m.evaluate.results import Results
from nano4m.modalities import Modality
from nano4m.report.charts import loss_chart, matrix_chart
from nano4m.report.markup import (
    DASH,
    Html,
    facts,
    join,
    percent,
    sample_size,
    section,
    short,
    span,
    table,
    tag,
    words,
)

SCORE_HEAD = (
    "value [95 % interval]",
    "chance",
    "majority",
    "balanced",
    "tokenizer round trip",
    "controls",
    "n",
)
BOLD = (
    "Bold: the whole interval lies above chance, above the commonest class and above every "
    "ceiling, and the mean over classes above chance."
)


def interval(score: Score, is_above: bool | None = None) -> Html:
    """Return value and interval of a score, bold if it is above its baselines.

    ``is_above`` says so where a score alone does not tell.
    """
    value = percent(score.value)
    strong = score.is_above if is_above is None else is_above
    low, high = f"{100 * score.low:.1f}", f"{100 * score.high:.1f}"
    ends = tag("small", Html(f"[{low}&ndash;{high}]"))
    return join([tag("b", value) if strong else value, ends], " ")


def control_cell(name: str, control: Control) -> Html:
    """Return a control with its interval, and the value that it should have."""
    parts: list[object] = [tag("small", name), percent(control.value)]
    if control.low is not None and control.high is not None:
        parts.append(
            tag("small", Html(f"[{100 * control.low:.1f}&ndash;{100 * control.high:.1f}]"))
        )
    if control.expected is not None:
        parts.append(tag("small", "expected ", percent(control.expected)))
    return tag("span", join(parts, " "), class_="whole")


def score_cells(score: Score, available: int | None = None) -> list[object]:
    """Return the cells of SCORE_HEAD; ``available``: clips of the split."""
    controls = [control_cell(words(name), own) for name, own in score.controls.items()]
    return [
        interval(score),
        percent(score.chance),
        percent(score.majority),
        percent(score.balanced),
        percent(score.round_trip),
        join(controls, "<br>") if controls else None,
        sample_size(score.n, score.clusters, available),
    ]


def arrow(source: str, target: str, titles: Mapping[str, str]) -> Html:
    """Return source and target by their titles, on one line."""
    text = f"{titles.get(source, source)} \u2192 {titles.get(target, target)}"
    return tag("span", text, class_="whole")


def legend(*entries: tuple[str, str]) -> Html:
    """Return the legend of a chart; entries are (class of the mark, meaning)."""
    return tag("ul", *(tag("li", tag("i", class_=mark), text) for mark, text in entries),
               class_="legend")  # fmt: skip


def variety(results: Results, titles: Mapping[str, str]) -> list[Html]:
    """Return the table of the diversity of generated sequences, beside that of real clips."""
    heads = ("entropy, nats", "distinct sequences", "distinct ids", "within a class", "between")
    rows: list[list[object]] = []
    for direction in results.matrix:
        varied = direction.diversity
        if varied is None:
            continue
        made, real = varied.generated.model_dump(), varied.real.model_dump()
        cells: list[object] = [arrow(direction.source, direction.target, titles)]
        for key in made:
            pair = [_share(key, values[key]) for values in (made, real)]
            cells.append(join([tag("b", pair[0]), tag("small", "real ", pair[1])], " "))
        rows.append(cells)
    if not rows:
        return []
    how = tag(
        "p",
        "A collapsed sampler makes fewer distinct sequences and ids than the real clips have, and "
        "its clips of a class differ less (in share of tokens that differ between two sequences).",
    )
    return [
        tag("h3", "Diversity"), how,
        table(("target", *heads), rows, label="Diversity of what is made"),
    ]  # fmt: skip


def together(results: Results, titles: Mapping[str, str]) -> list[Html]:
    """Return the table of class consistency from all other modalities and from each one alone."""
    if not results.all_sources:
        return []
    sources = [name for name in titles if any(name in t.gain_over for t in results.all_sources)]
    rows: list[list[object]] = []
    for entry in results.all_sources:
        cells: list[object] = [
            titles.get(entry.target, entry.target),
            *score_cells(entry.class_consistency)[:1],
        ]
        for source in sources:
            less = entry.gain_over.get(source)
            cells.append("" if less is None else join([
                f"{100 * less.value:+.1f}",
                tag("small", f"[{100 * less.low:+.1f}, {100 * less.high:+.1f}]"),
            ], " "))  # fmt: skip
        whole = entry.class_consistency
        rows.append([*cells, sample_size(whole.n, whole.clusters, results.available)])
    how = tag(
        "p",
        "Class consistency of what is made from all other modalities at once, and by how many "
        "percentage points it is above that from one of them alone, on the same clips. An "
        "interval wholly below 0 would mean that more conditions hurt.",
    )
    heads = ["made", "from all others", *(f"above {titles[name]} alone" for name in sources), "n"]
    return [tag("h3", "More conditions"), how, table(heads, rows, label="More conditions")]


def _share(key: str, value: float | None) -> Html:
    return Html(f"{value:.2f}") if key == "entropy" and value is not None else percent(value)


def matrix_section(results: Results, titles: Mapping[str, str]) -> Html | None:
    """Return the any-to-any matrix and its figures."""
    scores = results.consistencies
    varied = variety(results, titles)
    if not scores:
        one = "One class, so there is no class to recognise in what is made."
        return section("matrix", "What is made, any to any", one, *varied) if varied else None
    chances = {s.chance for s in scores.values()}
    chance = percent(min(chances)) if len(chances) == 1 else "in the table below"
    how = join([
        "How often a classifier trained on real media recognises the clip\u2019s class in what was "
        "made from one other modality alone. A cell without colour is at chance (", chance, "). "
        "Below the matrix are the same classifiers on tokenizer round trips and on real media. ",
        BOLD,
    ])  # fmt: skip
    rows = [
        [arrow(*pair, titles), *score_cells(s, results.available)] for pair, s in scores.items()
    ]
    classifiers = []
    for j in results.classifiers:
        title = titles.get(j.modality, j.modality)
        classifiers.append([title, "new", *score_cells(j.accuracy, results.available)])
        if j.train:
            classifiers.append([title, "trained on", *score_cells(j.train)])
    parts = [
        tag("h3", "Every direction"),
        table(
            ("given \u2192 made", *SCORE_HEAD), rows, label="Class consistency of every direction"
        ),
    ]
    if classifiers:
        parts += [
            tag("h3", "The classifiers on real media"),
            tag(
                "p",
                "A classifier that knows the media it was trained on far better than new ones has "
                "learnt them by heart: it recognises copies of train media as well, so a figure "
                "of generated media above that of new real ones may mean copies.",
            ),
            table(("classifier of", "media", *SCORE_HEAD), classifiers, text=2,
                  label="Accuracy of the classifiers"),
        ]  # fmt: skip
    parts += together(results, titles)
    parts += varied
    more = tag("details", tag("summary", "All figures, with baselines and controls"), *parts,
               class_="more")  # fmt: skip
    body = tag("div", matrix_chart(results, titles), class_="matrix")
    return section("matrix", "Class consistency, any to any", how, body, more)


ACRONYMS = {"psnr": "PSNR", "ssim": "SSIM", "rms": "RMS", "logmel": "log-mel"}
UNITS = {"_share": "", "_db": " dB", "_degrees": "\u00b0", "_seconds": " s"}


def _title(name: str) -> str:
    return " ".join(ACRONYMS.get(word, word) for word in words(name).split())


def measure(name: str, value: Any) -> tuple[str, Html]:
    """Return name and value of a number whose unit is the end of its name."""
    for end, unit in UNITS.items():
        if name.endswith(end) and isinstance(value, int | float):
            shown = percent(value) if end == "_share" else Html(f"{short(value)}{unit}")
            return _title(name.removesuffix(end) + ("_time" if end == "_seconds" else "")), shown
    return _title(name), Html(DASH) if value is None else tag("span", short(value))


def tokenizer_section(
    results: Results, titles: Mapping[str, str], modalities: Sequence[Modality]
) -> Html | None:
    """Return the quality of each tokenizer."""
    if not results.tokenizers:
        return None
    columns = ("bits_a_clip", "codes_used_share", "perplexity", "parameters")
    known = {m.name: m for m in modalities}
    rows: list[list[object]] = []
    for name, quality in results.tokenizers.items():
        numbers = quality if isinstance(quality, dict) else {"quality": quality}
        m = known.get(name)
        layout = Html("&times;".join(map(str, m.shape))) if m else None
        kept = [
            tag("span", tag("small", label), " ", value, class_="whole")
            for label, value in (
                measure(k, v) for k, v in numbers.items()
                if k not in (*columns, "clips", "fit_seconds", "fingerprint")
            )
        ]  # fmt: skip
        rows.append([
            titles.get(name, name), join(kept, "<br>"), layout, short(m.vocab_size) if m else None,
            *(measure(c, numbers.get(c))[1] for c in columns), numbers.get("fingerprint"),
        ])  # fmt: skip
    head = ("modality", "round trip against the original", "tokens", "vocabulary", "bits a clip",
            "codes used", "perplexity", "parameters", "fingerprint")  # fmt: skip
    how = (
        "Tokenizer round trips of held-out clips compared with the originals. The model makes "
        "tokens, so what a tokenizer loses stays lost."
    )
    return section("tokenizers", "Tokenizers", how,
                   table(head, rows, text=2, label="Quality of the tokenizers"))  # fmt: skip


def training_section(
    results: Results, log: Sequence[Mapping[str, Any]], modalities: Sequence[Modality]
) -> Html | None:
    """Return loss curves and the summary of the training."""
    shown = {
        name: value
        for name, value in (measure(k, v) for k, v in results.training.items() if k != "val")
    }
    parts: list[Html] = []
    if any(line.get("loss") for line in log):
        marks = legend(("thin", "train"), ("dotted", "validation, fixed masks, averaged weights"),
                       ("dashes", "unigram baseline"))  # fmt: skip
        parts = [marks, loss_chart(log, results.cross_entropy, modalities)]
    if shown:
        parts.append(facts(shown))
    if not parts:
        return None
    how = (
        "Nats a token by step. The baseline is given nothing, the losses are given some inputs, so "
        "it only marks the scale: the figures to compare are under Cross-entropy."
    )
    return section("training", "Training", how, *parts)


def clips_section(results: Results, clips: ClipTable) -> Html:
    """Return the numbers of clips, and the reasons of those that were left out."""
    counts = results.clips
    plain = {words(k): short(v) for k, v in counts.items() if isinstance(v, int | float | str)}
    plain |= {"split that is evaluated": results.split, "sample rate": f"{clips.sample_rate:,} Hz"}
    tables: list[Html] = []
    for key, values in counts.items():
        if isinstance(values, dict) and values:
            rows = [
                [k, *(map(short, v) if isinstance(v, list | tuple) else ("", short(v)))]
                for k, v in values.items()
            ]
            title = words(key.removeprefix("by_"))
            pairs = all(isinstance(v, list | tuple) for v in values.values())
            head = (title, "kept", "planned") if pairs else (title, "", "clips")
            tables.append(table(head, rows, label=f"Clips by {title}"))
    if counts.get("reasons") == {}:
        plain["not kept"] = "none"
    licences = Counter(clips.licences.tolist()).most_common()
    plain["licence"] = "; ".join(f"{k or 'unknown'} ({short(n)})" for k, n in licences)
    how = "Clips of the run by split and class, and the reasons of those that were left out."
    return section("clips", "Clips", how, facts(plain), tag("div", *tables, class_="pair"))


def provenance_section(results: Results) -> Html:
    """Return where the figures come from, the time of each stage, and the configuration."""
    entries: dict[str, object] = {}
    for key, value in results.provenance.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        entries[words(key)] = tag("code", value) if key in ("command", "commit") else str(value)
    longest = max(results.seconds.values(), default=0) or 1
    rows = [
        [stage, span(s), tag("span", class_="part", style=f"width:{220 * s / longest:.0f}px")]
        for stage, s in results.seconds.items()
    ]  # fmt: skip
    parts = [facts(entries)]
    if rows:
        rows.append(["together", span(sum(results.seconds.values())), ""])
        head = ("stage", "wall time", "")
        parts.append(tag("h3", "Time of each stage"))
        parts.append(table(head, rows, text=3, label="Wall time of each stage"))
    text = json.dumps(results.config, indent=1, sort_keys=False)
    parts.append(tag("details", tag("summary", "The whole configuration"), tag("pre", text),
                     class_="more"))  # fmt: skip
    how = "Where the figures come from: the same commit and configuration repeat the run."
    return section("provenance", "How it was made", how, *parts)
