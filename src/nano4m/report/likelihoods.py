"""Cross-entropy and continuation as tables of the page.

A row holds only figures that were given the same: the model with some inputs, and the counting
baselines that know as much.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nano4m.evaluate.cross_entropy import OWN_HALF, UNITS
from nano4m.evaluate.likelihood_results import Baseline, Continuation, CrossEntropy
from nano4m.evaluate.results import Results
from nano4m.modalities import Modality
from nano4m.report.markup import Html, join, sample_size, section, short, table, tag, words

BASELINES = ("uniform", "unigram", "class unigram", "bigram")


class Row(NamedTuple):
    """The model and the baselines that were given the same, in nats a token.

    Attributes:
        given: The inputs as text.
        model, baselines: The figures.
        interval: 95 % interval of the model's, where there is one.
        clips: Number of clips, where it is not the same for all conditions.
    """

    given: str
    model: float
    baselines: Mapping[str, Baseline]
    interval: tuple[float, float] | None = None
    clips: int | None = None

    def baseline(self, name: str) -> str | None:
        """Return one baseline as text; uniform is named where it is in place of another."""
        found = self.baselines.get(name)
        if found is None:
            return None
        named = f"{found.used} " if found.used != name else ""
        return f"{named}{found.value:.3f}"


def _stored(entry: CrossEntropy | Continuation, *names: str) -> dict[str, Baseline]:
    """Return baselines of results of before, whose counts may be above uniform."""
    return {
        name: Baseline(value=value, used=name)
        if (value := getattr(entry, name)) <= entry.uniform
        else Baseline(value=entry.uniform, used="uniform")
        for name in names
    }


def given_text(condition: str, is_text: bool, titles: Mapping[str, str]) -> str:
    """Return what the model is given under a condition; a text has its earlier tokens too."""
    name = titles.get(condition, words(condition))
    if not is_text:
        return name
    if condition == OWN_HALF:
        return "its first half, earlier tokens"
    return "earlier tokens" if condition == "nothing" else f"{name}, earlier tokens"


def clips_of(entry: CrossEntropy, condition: str) -> int | None:
    """Return the number of clips of a condition; None if all have as many, or it is not known."""
    if len(set(entry.clips.values())) < 2:
        return None
    # Half of itself is of all clips that have the modality, as nothing is.
    return entry.clips.get(condition, entry.clips.get("nothing"))


def compared(entry: CrossEntropy, titles: Mapping[str, str]) -> list[Row]:
    """Return the conditions of a modality for which there are baselines."""
    is_text = entry.unit == UNITS["text"]
    stored = entry.baselines or {
        "nothing": _stored(entry, "uniform", "bigram" if is_text else "unigram")
    }
    return [
        Row(
            given_text(condition, is_text, titles), entry.conditions[condition], own,
            clips=clips_of(entry, condition),
        )
        for condition, own in stored.items()
        if condition in entry.conditions
    ]  # fmt: skip


def continued(entry: Continuation, is_text: bool) -> list[Row]:
    """Return the figures of a continuation, each with the baselines that are given the same."""
    one, more = ("token", "tokens") if is_text else ("frame", "frames")
    stored = entry.baselines or {
        "value": _stored(entry, "uniform", "bigram"),
        "at_once": _stored(entry, "uniform", "unigram"),
    }
    rows = [
        Row(
            f"first half and all earlier {more}, {one} by {one}", entry.value,
            stored.get("value", {}), (entry.low, entry.high),
        )
    ]  # fmt: skip
    if not is_text:
        rows.append(Row("first half alone", entry.at_once, stored.get("at_once", {})))
    named = {"shuffled": "first half of another clip"}
    return rows + [Row(named.get(k, words(k)), value, {}) for k, value in entry.controls.items()]


def order_conditions(entries: Sequence[CrossEntropy], names: Sequence[str]) -> list[str]:
    """Return all conditions, those of a single modality side by side at the place of the first."""
    found = list(dict.fromkeys(key for c in entries for key in c.conditions))
    first = next((i for i, key in enumerate(found) if key in names), len(found))
    single = [name for name in names if name in found]
    others = [key for key in found if key not in names]
    return others[:first] + single + others[first:]


def _cells(row: Row) -> list[object]:
    model: object = f"{row.model:.3f}"
    if row.baselines and row.model < min(b.value for b in row.baselines.values()):
        model = tag("span", model, class_="best")
    if row.interval:
        low, high = row.interval
        model = join([model, tag("small", Html(f"[{low:.3f}&ndash;{high:.3f}]"))], " ")
    model = _with_clips(model, row.clips)
    return [row.given, model, *map(row.baseline, BASELINES)]


def entropy_section(
    results: Results, titles: Mapping[str, str], modalities: Sequence[Modality]
) -> Html | None:
    """Return cross-entropy by condition, in nats a token and in bits a unit, and continuations."""
    entropies = results.cross_entropy
    if not entropies:
        return None
    title_of = {c.modality: titles.get(c.modality, c.modality) for c in entropies}
    against = [
        [title_of[entry.modality], *_cells(row), _tokens(entry, row)]
        for entry in entropies
        for row in compared(entry, titles)
    ]
    conditions = order_conditions(entropies, [m.name for m in modalities])
    named = {key: titles.get(key, words(key)) for key in conditions}
    by_input = [
        [
            named[key],
            *(
                _with_clips(_number(entry.conditions.get(key), 3), clips_of(entry, key))
                for entry in entropies
            ),
        ]
        for key in conditions
    ]
    named |= {"uniform": "nothing: uniform", "unigram": "nothing: unigram",
              "bigram": "the true token before: bigram"}  # fmt: skip
    bits = [
        [named[key], *(_number(entry.bits.get(key), 1) for entry in entropies)]
        for key in ("uniform", "unigram", "bigram", *conditions)
        if any(key in entry.bits for entry in entropies)
    ]
    how = (
        "Nats a token on fixed clips, less is better. A row holds only figures that were given "
        "the same. The baselines count the train split, with smoothing chosen on held-out train "
        "clips; one that is above uniform on these clips is replaced by it and says so. Coloured: "
        "the model is below all baselines of its row."
    )
    more = (
        "Each row is an input, each column what is predicted. The drop below the first row is "
        "what another modality tells; shuffled inputs must not give it. Compare nats within a "
        "column only, as vocabularies differ. Where clips lack modalities, n counts those with "
        "the predicted one and any of the given ones."
    )
    units = [join([title_of[c.modality], tag("small", f"a {c.unit}")], "<br>") for c in entropies]
    return section(
        "entropy", "Cross-entropy", how,
        table(["predicted", "given", "model", *BASELINES, "tokens"], against, text=2,
              label="Cross-entropy beside counting baselines, in nats a token"),
        tag("h3", "By input"), tag("p", more),
        table(["given", *title_of.values()], by_input, label="Cross-entropy in nats a token"),
        tag("h3", "In bits"),
        table(["bits, given", *units], bits, label="Cross-entropy in bits"),
        *_continuations(results, titles, {m.name for m in modalities if m.is_text}),
    )  # fmt: skip


def _with_clips(figure: object, clips: int | None) -> object:
    """Return a figure with its number of clips, if there is a figure and a number."""
    if figure is None or clips is None:
        return figure
    return join([figure, tag("small", f"n {short(clips)}")], " ")


def _tokens(entry: CrossEntropy, row: Row) -> str | None:
    """Return the number of tokens of a row; None of fewer clips than have the modality."""
    return None if row.clips != clips_of(entry, "nothing") else short(entry.tokens)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:,.{digits}f}"


def _continuations(results: Results, titles: Mapping[str, str], texts: set[str]) -> list[Html]:
    rows = [
        [
            titles.get(c.modality, c.modality),
            *_cells(row),
            sample_size(c.n, c.clusters, results.available),
        ]
        for c in results.continuation
        for row in continued(c, c.modality in texts)
    ]
    if not rows:
        return []
    how = (
        "Nats a token of the second half of a sound or text. Frame by frame, each frame has the "
        "true frames before it as input, as the bigram has; from the first half alone, the whole "
        "second half is predicted at once. Rows without baselines are controls."
    )
    head = ("continued", "given", "model [95 % interval]", *BASELINES, "n")
    return [
        tag("h3", "Continuation"), tag("p", how), table(head, rows, text=2, label="Continuation"),
    ]  # fmt: skip
