"""Classification by caption likelihood: an oracle, a model that knows nothing, and the prior."""

import numpy as np
import pytest
from test_evaluate import CLASSES, Oracle, Stub, make_evaluator, make_table

from nano4m.evaluate.caption_classification import (
    CaptionCandidates,
    candidates,
    caption_begun,
    classify,
    conditions,
)
from nano4m.evaluate.controls import control, shuffled_classes
from nano4m.evaluate.probe_results import Control, Score
from nano4m.tokens.table import TokenTable


def captions_of(evaluator, table, most=100_000):
    texts = candidates(table, "caption", table.rows("train"), table.classes)
    return CaptionCandidates(evaluator, 2, texts, most)


def probes_of(evaluator, table):
    captions = captions_of(evaluator, table)
    return [p for name in conditions(evaluator, 2) for p in classify(captions, name).probes]


class Prior(Oracle):
    """Knows how common captions are and never looks at anything but the text."""

    def answer(self, ids, given, asked, vocab):
        start = self.tokens.slices[2].start
        text = (given >= start).nonzero()
        kept = len(text) // len(given) if len(given) else 0
        return super().answer(ids[:, ids.shape[1] - kept :], given[:, given.shape[1] - kept :],
                              asked, vocab)  # fmt: skip


def unbalanced(table: TokenTable, kept: dict[str, int]) -> np.ndarray:
    """Return rows of the test split, so many of each class."""
    rows = table.rows("test")
    return np.concatenate([rows[table.labels[rows] == name][:n] for name, n in kept.items()])


def test_an_oracle_classifies_by_both_rules():
    table = make_table(24)
    probes = probes_of(make_evaluator(table, Oracle(table)), table)
    assert [(p.source, p.rule) for p in probes] == [
        (source, rule)
        for source in ("rgb", "sound", "all")
        for rule in ("posterior", "mutual information")
    ]
    assert len({p.name for p in probes}) == len(probes)
    for probe in probes:
        assert probe.score.value == probe.score.balanced == 1 and probe.is_above
        shuffled, begun = (probe.score.controls[k] for k in ("shuffled", "caption begun"))
        assert shuffled.low < shuffled.value < shuffled.high and shuffled.n == 72
        assert shuffled.expected == pytest.approx(23 / 71) == pytest.approx(shuffled.value, abs=0.2)
        assert (begun.value, begun.expected) == (1, 1) and 60 < begun.n <= 66


def test_a_uniform_model_classifies_at_chance():
    table = make_table(8)
    for probe in probes_of(make_evaluator(table, Stub(table)), table):
        assert probe.score.value == pytest.approx(1 / 3) and probe.score.balanced < 0.34
        assert not probe.is_above
        assert probe.score.controls["caption begun"].value < 0.75


@pytest.mark.parametrize("kept", [{"ant": 12, "bee": 3, "cat": 3}, {"ant": 2, "bee": 9, "cat": 5}])
def test_a_model_that_knows_only_how_common_classes_are_is_not_praised(kept):
    table = make_table(12)
    train = table.rows("train")
    # Among the train clips bees are common: all other ants and cats become bees by name and text.
    bees = train[table.labels[train] == "bee"]
    for row in np.concatenate([train[table.labels[train] == k][3:] for k in ("ant", "cat")]):
        table.labels[row] = "bee"
        table.ids["caption"][row] = table.ids["caption"][bees[row % 2]]
        table.lengths["caption"][row] = table.lengths["caption"][bees[row % 2]]
    evaluator = make_evaluator(table, Prior(table), unbalanced(table, kept))
    for probe in probes_of(evaluator, table):
        assert not probe.is_above and probe.score.value <= probe.score.majority
        assert probe.score.balanced == pytest.approx(1 / 3)
        assert probe.score.controls["shuffled"].expected <= probe.score.majority
        if probe.rule == "posterior":
            assert probe.score.value == pytest.approx(kept["bee"] / sum(kept.values()))
    oracle = make_evaluator(make_table(12), Oracle(make_table(12)), unbalanced(table, kept))
    for probe in probes_of(oracle, make_table(12)):
        assert probe.score.value == probe.score.balanced == 1


def test_a_class_that_is_common_does_not_win_by_mutual_information():
    """Scores that the prior decides by the posterior, and what was heard by mutual information."""
    table = make_table(12)

    class Hard(Oracle):
        """Hears little, and finds bees likely from the beginning."""

        def answer(self, ids, given, asked, vocab):
            told = super().answer(ids, given, asked, vocab) * 0.05
            told[..., 5] += 2.0
            return told.log_softmax(-1)

    found = {p.rule: p.score for p in probes_of(make_evaluator(table, Hard(table)), table)[:2]}
    assert found["posterior"].balanced <= 0.5
    assert found["mutual information"].balanced > 0.75


def test_all_captions_of_a_class_are_candidates_or_the_probe_is_left_out():
    table = make_table(8)
    evaluator = make_evaluator(table, Stub(table))
    whole = captions_of(evaluator, table)
    assert whole.predictions == 14 and sum(map(len, whole.texts)) == 6
    few = classify(captions_of(evaluator, table, most=13), "rgb")
    assert few.probes == [] and len(few.left_out) == 2
    assert "14 beginnings" in few.left_out[0].reason
    # The values without inputs are cheap; those of 24 clips are not, and a pilot finds it.
    more = classify(captions_of(evaluator, table, most=24), "rgb")
    assert more.probes == [] and {e.probe for e in more.left_out} == {
        "class from picture, posterior", "class from picture, mutual information",
    }  # fmt: skip
    for entry in few.left_out + more.left_out:
        assert "--evaluate.caption_predictions" in entry.reason
    enough = classify(captions_of(evaluator, table, most=24 * 14), "rgb")
    assert len(enough.probes) == 2 and enough.left_out == []


def test_hundreds_of_captions_a_class_are_all_candidates():
    table = make_table(12)
    train = table.rows("train")
    table = TokenTable(
        table.token_spec, table.clip_ids, table.labels, table.splits, table.ids,
        dict(table.lengths),
    )  # fmt: skip
    table.ids["caption"][train, 0, 1:3] = np.stack([train % 10, train // 10], 1) + 1
    found = candidates(table, "caption", train, CLASSES)
    for k, own in enumerate(found):
        rows = train[table.labels[train] == CLASSES[k]]
        lengths = table.lengths["caption"][rows, 0]
        texts = table.ids["caption"][rows, 0].tolist()
        assert set(own) == {tuple(t[:n]) for t, n in zip(texts, lengths, strict=True)}
        assert len(own) == len(rows)


def test_caption_begun_is_left_out_where_nothing_is_left_to_rate():
    table = make_table(4)
    ids = table.ids["caption"].copy()
    ids[:] = 0
    ids[..., 0] = (np.searchsorted(CLASSES, table.labels) + 4)[:, None]
    short = TokenTable(
        table.token_spec, table.clip_ids, table.labels, table.splits,
        dict(table.ids) | {"caption": ids}, {"caption": np.full((len(ids), 1), 2)},
    )  # fmt: skip
    captions = captions_of(make_evaluator(short, Oracle(short)), short)
    assert captions.begun is None
    probe = classify(captions, "rgb").probes[0]
    assert set(probe.score.controls) == {"shuffled"}
    assert caption_begun(captions.evaluator, 2, captions.texts, captions.trie) is None


# -- controls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_shuffled_control_is_expected_to_reach_what_it_reaches(seed):
    """Over many shuffles: predictions that favour a class, unequal classes, unknown answers."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, p=[0.6, 0.2, 0.15, 0.05], size=60)
    predicted = rng.choice([-1, 0, 1, 2, 3], p=[0.1, 0.7, 0.1, 0.05, 0.05], size=60)
    values, expected = [], set()
    for _ in range(800):
        others = (np.arange(60) + rng.integers(1, 60, size=60)) % 60
        found = shuffled_classes(predicted, labels, others, np.arange(60))
        values.append(found.value)
        expected.add(found.expected)
    assert len(expected) == 1
    assert np.mean(values) == pytest.approx(expected.pop(), abs=0.008)
    assert np.mean(values) > 0.35  # chance would be 0.25


def test_a_bare_number_of_before_is_a_control():
    score = Score.model_validate(
        {
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "n": 9,
            "chance": 0.1,
            "controls": {"shuffled": 0.2},
        }
    )
    assert score.controls == {"shuffled": Control(value=0.2)}
    again = Score.model_validate_json(score.model_dump_json())
    assert again == score
    found = control(np.array([1.0, 0, 0, 1]), np.array([0, 0, 1, 2]), 0.25)
    assert (found.value, found.n, found.expected) == (0.5, 4, 0.25) and found.low < 0.5 < found.high


def test_the_bar_is_the_highest_yardstick():
    values = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "chance": 0.1}
    for more, bar in (
        ({}, 0.1), ({"majority": 0.45}, 0.45),
        ({"ceilings": {"class": 0.2, "caption": 0.41}}, 0.41),
        ({"majority": 0.3, "ceilings": {"class": 0.2}}, 0.3),
    ):  # fmt: skip
        score = Score(**values, **more)
        assert score.bar == bar and score.is_above == (bar < 0.4)
    assert not Score(**values, balanced=0.1).is_above and Score(**values, balanced=0.2).is_above
