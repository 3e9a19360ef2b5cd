"""Every figure that is written has its definition in docs/EVALUATION.md."""

import typing

import pytest

from evaluation_page import PAGE, undefined
from nano4m.config.presets import preset
from nano4m.evaluate.results import Results
from nano4m.evaluate.results_part import Part
from nano4m.masking.conditions import KINDS
from nano4m.pipeline.info import describe_preset


def parts_of(part: type[Part]) -> set[type[Part]]:
    """Return a part of the results with all parts inside it."""
    found, left = {part}, [field.annotation for field in part.model_fields.values()]
    while left:
        kind = left.pop()
        left += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, Part) and kind not in found:
            found.add(kind)
            left += [field.annotation for field in kind.model_fields.values()]
    return found


PARTS = sorted(parts_of(Results), key=lambda part: part.__name__)


def test_the_parts_are_found_by_the_schema():
    assert {p.__name__ for p in PARTS} >= {"Score", "Control", "Baseline", "Spread", "ClosestPair"}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_of_the_results_is_defined(part):
    assert not undefined(part.model_fields)


def test_a_new_field_is_caught():
    class Later(Part):
        value: float
        surprise: float

    class Whole(Part):
        entries: dict[str, list[Later] | None]

    names = {name for part in parts_of(Whole) for name in part.model_fields}
    assert undefined(names) == ["entries", "surprise"]


def test_kinds_of_conditions_and_their_lines_of_info_are_defined():
    assert not undefined(KINDS)
    shares = {"rarest_in_training", "target_tokens_as_generated", "never_trained"}
    assert shares <= describe_preset(preset("digits")).keys()
    assert not undefined(shares)


def test_every_section_of_the_summary_exists():
    text = PAGE.read_text()
    titles = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    anchors = {title.lower().replace(" ", "-") for title in titles}
    named = [part.split(")")[0] for part in text.split("](#")[1:]]
    assert len(named) >= 10 and not set(named) - anchors
