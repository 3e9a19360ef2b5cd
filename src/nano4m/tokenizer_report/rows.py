"""The figures of a comparison as rows of text: one table for console, page and documentation."""

from collections.abc import Callable
from typing import Any, NamedTuple

from nano4m.tokenizer_report.content import BAG, MEAN, VECTORS


class Column(NamedTuple):
    """A column: its title, and the text of an entry of ``report["tokenizers"]``."""

    title: str
    text: Callable[[dict[str, Any]], str]


def score(own: dict[str, float] | None) -> str:
    """Return ``accuracy / balanced`` in percent."""
    return f"{100 * own['accuracy']:.0f} / {100 * own['balanced']:.0f}" if own else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _fidelity(name: str, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda entry: _number(entry["fidelity"].get(name), digits)


def _probe(name: str, how: str) -> Callable[[dict[str, Any]], str]:
    return lambda entry: score(entry["content"].get(name, {}).get(how))


def _levels(name: str, factor: float, digits: int) -> Callable[[dict[str, Any]], str]:
    return lambda entry: " ".join(f"{factor * own[name]:.{digits}f}" for own in entry["levels"])


def _clicks(entry: dict[str, Any]) -> str:
    own = entry["fidelity"]
    return f"{own['clicks_a_second']:.1f} ({own['clicks_a_second_before']:.1f})"


SOUND_COST = (
    Column("tokens/s", lambda e: _number(e["tokens_a_second"], 1)),
    Column("bit/s", lambda e: _number(e["bits_a_second"], 0)),
)
PLANE_COST = (
    Column("tokens", lambda e: _number(e["tokens"], 0)),
    Column("bits", lambda e: _number(e["bits"], 0)),
)
USE = (
    Column("ids", _levels("vocab", 1, 0)),
    Column("used %", _levels("codes_used_share", 100, 0)),
    Column("perplexity", _levels("perplexity", 1, 0)),
)
SOUND = (
    Column("SI-SDR dB", _fidelity("si_sdr_db", 1)),
    Column("LSD dB", _fidelity("log_spectral_distance_db", 2)),
    Column("STFT", _fidelity("multi_resolution_stft", 3)),
    Column("mel dB", _fidelity("mel_distance_db", 2)),
    Column("level dB", _fidelity("rms_bias_db", 1)),
    Column("clicks/s", _clicks),
)
"""Of sounds; clicks of the originals are in brackets."""

PLANE = (
    Column(
        "figures",
        lambda e: ", ".join(f"{k} {v:.3g}" for k, v in e["fidelity"].items()),
    ),
)
CLASS = Column("class %", lambda e: score(e["classifier"]))
"""What a classifier of real media finds in round trips."""

CONTENT = (
    Column("linear: bag of ids", _probe(BAG, "linear")),
    Column("mean vectors", _probe(MEAN, "linear")),
    Column("vectors in parts", _probe(VECTORS, "linear")),
    Column("kNN: bag of ids", _probe(BAG, "nearest")),
    Column("mean vectors", _probe(MEAN, "nearest")),
    Column("vectors in parts", _probe(VECTORS, "nearest")),
)

SPEED = (
    Column("encode", lambda e: f"{_number(e['speed'].get('encode_real_time'), 0)}x"),
    Column("decode", lambda e: f"{_number(e['speed'].get('decode_real_time'), 1)}x"),
)
ITEM_SPEED = (
    Column("encode/s", lambda e: _number(e["speed"]["encode_items_a_second"], 0)),
    Column("decode/s", lambda e: _number(e["speed"]["decode_items_a_second"], 0)),
)


def tables(report: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return the tables by title, each a head and rows; the first cell of a row is its name."""
    is_sound = report["seconds"] is not None
    parts = {
        "Cost": (*SOUND_COST, *USE, *SPEED) if is_sound else (*PLANE_COST, *USE, *ITEM_SPEED),
        "Round trip": (*(SOUND if is_sound else PLANE), CLASS),
        "Class in the tokens": CONTENT,
    }
    found = {}
    for title, columns in parts.items():
        rows = [[e["name"], *(c.text(e) for c in columns)] for e in report["tokenizers"]]
        found[title] = (["tokenizer", *(c.title for c in columns)], rows)
    media = report["media_probes"]
    name = f"the {report['media']} itself"
    found["Round trip"][1].insert(
        0, [name, *[""] * (len(found["Round trip"][0]) - 2), score(media["classifier"])]
    )
    found["Class in the tokens"][1].insert(
        0, [name, "", "", score(media["linear"]), "", "", score(media["nearest"])]
    )
    chain = report.get("chain")
    if chain:
        rows = [
            [f"{own['link']}: {own['how']}", score(own),
             f"{100 * own['low']:.0f} to {100 * own['high']:.0f}"]
            for own in chain["links"]
        ]  # fmt: skip
        if chain["left_out"]:
            rows.append(["model: likeliest caption", "left out", chain["left_out"]])
        found["Where the class gets lost"] = (
            ["link", "accuracy / balanced, %", "95 % interval"], rows,
        )  # fmt: skip
    return found


def about(report: dict[str, Any]) -> str:
    """Return a sentence on what was measured."""
    chance = 100 / len(report["classes"])
    return (
        f"Judged on {report['judged']} clips ({report['recordings']} recordings) of "
        f"{len(report['classes'])} classes of the {report['split']} split, decoded "
        f"{report['decoded']}; probes trained on {report['trained_on']} clips of the train split; "
        f"chance {chance:.0f} %, the most common class {100 * report['majority']:.0f} %."
    )
