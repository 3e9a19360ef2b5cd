"""Tables of cross-entropy where clips lack modalities."""

import re

import pytest
from made_up_run import Reader, fake_results

from nano4m.evaluate.likelihood_results import Baseline
from nano4m.report.likelihoods import entropy_section

NAMES = ["rgb", "sound", "caption"]
CLIPS = {"nothing": 200, "sound": 120, "caption": 180, "all others": 190, "shuffled others": 190}


def page_of(clips: dict[str, int]) -> list[list[str]]:
    """Return the rows of all tables; only the first modality has numbers of clips."""
    results = fake_results(NAMES)
    first, *others = results.cross_entropy
    own = {"uniform": Baseline(value=4.159, used="uniform")}
    first = first.model_copy(
        update={
            "clips": clips,
            "conditions": dict.fromkeys([*CLIPS, "half of itself"], 3.5),
            "baselines": {"nothing": own, "half of itself": own, "caption": own},
        }
    )
    results = results.model_copy(update={"cross_entropy": [first, *others]})
    return Reader(str(entropy_section(results, {}, []))).rows


def numbers(cells: list[str]) -> list[str]:
    return [found for cell in cells for found in re.findall(r"n (\d+)", cell)]


def test_each_condition_has_the_number_of_its_clips():
    rows = page_of(CLIPS)
    first = next(i for i, row in enumerate(rows) if row[0] == "given")
    by_input = {row[0]: row[1:] for row in rows[first + 1 : first + 8]}
    assert by_input.keys() == {*CLIPS, "half of itself", "rgb"}
    for condition, clips in (CLIPS | {"half of itself": 200}).items():
        figure, *others = by_input[condition]
        assert figure.split() == ["3.500", "n", str(clips)]
        assert not numbers(others), "the other modalities have no gaps"
    against = {row[1]: row for row in rows if len(row) == 8 and row[0] == "rgb"}
    assert {given: numbers(row) for given, row in against.items()} == {
        "nothing": ["200"], "half of itself": ["200"], "caption": ["180"],
    }  # fmt: skip
    # The stored number of tokens is that of all clips with the modality.
    assert [against[given][-1] for given in ("nothing", "caption")] == ["160", "\u2013"]


@pytest.mark.parametrize("clips", [{}, dict.fromkeys(CLIPS, 200)])
def test_without_gaps_there_is_no_number_beside_each_figure(clips):
    rows = page_of(clips)
    assert len(rows) > 20 and not numbers([cell for row in rows for cell in row])
    assert [row[-1] for row in rows if len(row) == 8 and row[0] == "rgb"] == ["160"] * 3
