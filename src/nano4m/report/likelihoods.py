"""Cross-entropy and continuation as tables of the page, beside their n-gram baselines."""

from collections.abc import Mapping, Sequence

from nano4m.evaluate.results import CrossEntropy, Results
from nano4m.modalities import Modality
from nano4m.report.markup import Html, join, section, short, table, tag, words

BASELINES = ("uniform", "unigram", "bigram")


def order_conditions(entropies: Sequence[CrossEntropy], names: Sequence[str]) -> list[str]:
    """Return all conditions, those of a single modality side by side at the place of the first."""
    found = list(dict.fromkeys(key for c in entropies for key in c.conditions))
    first = next((i for i, key in enumerate(found) if key in names), len(found))
    single = [name for name in names if name in found]
    others = [key for key in found if key not in names]
    return others[:first] + single + others[first:]


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def entropy_section(
    results: Results, titles: Mapping[str, str], modalities: Sequence[Modality]
) -> Html | None:
    """Return cross-entropy by condition, in nats a token and in bits a unit, and continuations."""
    entropies = results.cross_entropy
    if not entropies:
        return None
    conditions = order_conditions(entropies, [m.name for m in modalities])
    whole = [key for key in conditions if any(key in entry.bits for entry in entropies)]
    columns = (*BASELINES, *whole)
    rows: list[list[object]] = []
    bits: list[list[object]] = []
    for entry in entropies:
        best = min(entry.conditions.values(), default=None)
        cells: list[object] = []
        for key in conditions:
            text = _number(entry.conditions.get(key), 3)
            is_best = text and entry.conditions[key] == best
            cells.append(tag("span", text, class_="best") if is_best else text)
        title = titles.get(entry.modality, entry.modality)
        counted = [_number(getattr(entry, name), 3) for name in BASELINES]
        rows.append([title, *counted, *cells, short(entry.tokens)])
        per_unit = [_number(entry.bits.get(key), 1) for key in columns]
        bits.append([join([title, tag("small", f"a {entry.unit}")], "<br>"), *per_unit])
    named = {key: titles.get(key, words(key)) for key in (*BASELINES, *conditions)}
    how = (
        "Nats a token on fixed clips, less is better; each column is an input. The drop from the "
        "column without inputs is what another modality tells; shuffled inputs must not give it. "
        "A bigram sees the true token before each one. Compare nats within a row "
        "only, as vocabularies differ; bits can be compared between runs. Coloured: the least of a "
        "row."
    )
    return section(
        "entropy", "Cross-entropy", how,
        table(["predicted", *map(named.get, BASELINES), *map(named.get, conditions), "tokens"],
              rows, label="Cross-entropy in nats a token"),
        tag("h3", "In bits"),
        table(["bits for", *map(named.get, columns)], bits, label="Cross-entropy in bits"),
        *_continuations(results, titles),
    )  # fmt: skip


def _continuations(results: Results, titles: Mapping[str, str]) -> list[Html]:
    if not results.continuation:
        return []
    rows = []
    for c in results.continuation:
        ends = tag("small", Html(f"[{c.low:.3f}&ndash;{c.high:.3f}]"))
        controls = [join([tag("small", words(k)), f"{v:.3f}"], " ") for k, v in c.controls.items()]
        rows.append([
            titles.get(c.modality, c.modality), join([f"{c.value:.3f}", ends], " "),
            *(f"{getattr(c, name):.3f}" for name in ("at_once", *BASELINES)),
            join(controls, "<br>"), short(c.n),
        ])  # fmt: skip
    how = (
        "Nats a token of the second half from the first half alone. The value is autoregressive: "
        "each frame has the true frames before it as input, as the bigram has. At once, the model "
        "has the first half only; the controls are computed in that way."
    )
    head = ("continued", "value [95 % interval]", "at once", *BASELINES, "controls", "n")
    return [
        tag("h3", "Continuation"), tag("p", how), table(head, rows, label="Continuation"),
    ]  # fmt: skip
