"""The page's probes and headline: what is not above its yardsticks is not claimed, nor bold."""

import dataclasses
import re

import pytest
from made_up_run import Reader, Run, fake_run

from nano4m.evaluate.probe_results import LeftOut, Probe, Score
from nano4m.report.headline import claims, headline
from nano4m.report.probes import drawn, probes_section, retrieval_pairs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fake_run(tmp_path_factory.mktemp("fake"), ["rgb", "sound", "caption"])


def share(value: float, **more) -> Score:
    return Score(value=value, low=value - 0.04, high=value + 0.04, n=220, **more)


def retrieval(value: float, source="rgb", k=1, within=None, **more) -> Probe:
    task = "instance retrieval" if within else "retrieval"
    score = share(value, **({"chance": k / 220} | more))
    name = f"{source} {k} {within}"
    return Probe(name=name, task=task, source=source, target="sound", k=k, within=within,
                 score=score)  # fmt: skip


CEILINGS = {"class": 0.05, "caption": 0.1}
CLASS_ONLY = [
    retrieval(0.09, ceilings=CEILINGS),
    retrieval(0.3, k=5, ceilings={"class": 0.25, "caption": 0.5}),
    retrieval(0.08, within="class", chance=0.05, ceilings={"caption": 0.1}),
    retrieval(0.12, within="class and caption", chance=0.1),
]  # fmt: skip
"""At what class and caption explain, though far above chance."""
INSTANCE = [
    retrieval(0.3, "sound", ceilings=CEILINGS),
    retrieval(0.4, "sound", within="class", chance=0.05, ceilings={"caption": 0.1}),
]


def page(run: Run, **changes):
    """Return the probes section and the headline as text, with changed results."""
    results = run.results.model_copy(update=changes)
    titles = {m.name: m.title for m in run.table.modalities}
    return probes_section(results, titles), str(headline(results, run.table.modalities))


def bold(text: str) -> list[str]:
    """Return the figures in bold."""
    return re.findall(r"<b>([\d.]+)&nbsp;%</b>", text)


def test_who_knows_only_class_or_caption_is_neither_bold_nor_claimed(run):
    section, top = page(run, probes=CLASS_ONLY, matrix=[])
    assert bold(section) == [] and top == ""
    section, top = page(run, probes=CLASS_ONLY + INSTANCE, matrix=[])
    assert bold(section) == ["30.0", "40.0"]
    assert top.count("<li>") == 1 and "sound 1 class" in top and "caption known 10.0" in top
    assert [p.name for p in claims(run.results.model_copy(update={"probes": CLASS_ONLY}), ())] == []


def test_a_gallery_without_ceilings_claims_nothing(run):
    """Results of before have none, so nobody knows what class alone would reach."""
    old = {"name": "picture -> sound, R@5", "task": "retrieval", "source": "rgb", "target": "sound",
           "score": share(0.4, chance=0.02).model_dump(exclude={"ceilings"})}  # fmt: skip
    probe = Probe.model_validate(old)
    assert probe.k == 5 and not probe.is_above and probe.score.is_above
    section, top = page(run, probes=[probe], matrix=[])
    assert bold(section) == [] and top == "" and "R@5" in section


def test_a_row_a_pair_with_all_its_figures(run):
    section, _ = page(run, probes=CLASS_ONLY + INSTANCE)
    rows = [row for row in Reader(section).rows if row]
    head = ["input \u2192 target", "R@1", "R@5", "R@1 within the class",
            "R@1 within the class and caption", "shuffled", "n"]  # fmt: skip
    start = rows.index(head)
    assert [row[0] for row in rows[start + 1 : start + 3]] == [
        "picture \u2192 sound", "sound \u2192 sound",
    ]  # fmt: skip
    first, second = rows[start + 1 : start + 3]
    for cell, figures in zip(
        first[1:5],
        ("9.0 chance 0.5 class known 5.0 caption known 10.0",
         "30.0 chance 2.3 class known 25.0 caption known 50.0",
         "8.0 chance 5.0 caption known 10.0", "12.0 chance 10.0"),
        strict=True,
    ):  # fmt: skip
        assert re.findall(r"\d+\.\d(?= %)", cell) == re.findall(r"\d+\.\d", figures)
        assert all(word in cell for word in re.findall(r"[a-z]+", figures))
    assert second[2] == second[4] == "\u2013"
    assert len(retrieval_pairs(CLASS_ONLY + INSTANCE)) == 2
    assert [p.name for p in drawn(CLASS_ONLY + INSTANCE)] == [
        "rgb 1 None", "rgb 1 class", "sound 1 None", "sound 1 class",
    ]  # fmt: skip


def test_classes_by_caption_are_claimed_above_the_commonest_class_only(run):
    def classes(value, **more):
        return Probe(name=f"p{value}", task="classification", source="rgb", target="caption",
                     score=share(value, chance=0.1, **more))  # fmt: skip

    weak, uneven = classes(0.4, majority=0.38, balanced=0.3), classes(0.5, balanced=0.1)
    strong, later = classes(0.6, majority=0.38, balanced=0.5), classes(0.7, balanced=0.6)
    section, top = page(run, probes=[weak, uneven, strong, later], matrix=[])
    assert bold(section) == ["60.0", "70.0"]
    assert top.count("<li>") == 1 and "p0.6" in top and "p0.4" not in top


def test_a_direction_at_chance_is_no_best_one(run):
    (first, *_) = run.results.matrix
    poor = first.model_copy(update={"class_consistency": share(0.12, chance=0.1)})
    good = first.model_copy(update={"class_consistency": share(0.5, chance=0.1), "source": "sound"})
    _, top = page(run, probes=[], matrix=[poor])
    assert "best direction" not in top and "no better than guessing" in top
    _, top = page(run, probes=[], matrix=[poor, good])
    assert "best direction" in top and "no better than guessing" in top
    _, top = page(run, probes=[], matrix=[good])
    assert "best direction" in top and "weakest" not in top


def test_what_was_left_out_is_listed_with_its_reason(run, tmp_path):
    gone = [LeftOut(probe=f"class from {x}", reason="too many <captions>") for x in "ab"]
    section, _ = page(run, probes=[], left_out=gone)
    assert "class from a; class from b: too many &lt;captions&gt;" in section
    assert page(run, probes=[], left_out=[])[0] is None
    changed = dataclasses.replace(run, results=run.results.model_copy(update={"left_out": gone}))
    assert "too many &lt;captions&gt;" in changed.write(tmp_path)
