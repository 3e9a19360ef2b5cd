"""Figures of one row were given the same: which baseline stands beside which, and its value."""

import math

import numpy as np
import pytest
import torch
from test_evaluate import Stub, make_evaluator, make_table

from nano4m.evaluate.continuation import continuation
from nano4m.evaluate.cross_entropy import baseline, cross_entropy, half_inputs, own_log_probs
from nano4m.evaluate.likelihood_results import Continuation, CrossEntropy
from nano4m.evaluate.ngram_smoothing import fit_ngrams
from nano4m.report.likelihoods import compared, continued

TITLES = {"rgb": "picture", "caption": "caption"}


class Deaf(Stub):
    """Ignores its inputs: each slot has one distribution, drawn once."""

    def answer(self, ids, given, asked, vocab):
        slots = torch.arange(self.ids.shape[1])
        scores = torch.randn(len(slots), vocab, generator=torch.Generator().manual_seed(vocab))
        return scores[asked].log_softmax(-1)


def entropies(table, model):
    evaluator = make_evaluator(table, model)
    counts = [fit_ngrams(table, m, table.rows("train")) for m in table.modalities]
    return evaluator, counts, [cross_entropy(evaluator, c, i, 1.0) for i, c in enumerate(counts)]


def test_a_model_that_ignores_its_inputs_equals_itself_without_any():
    _, _, found = entropies(make_table(8), Deaf(make_table(8)))
    for entry in found:
        whole = {k: v for k, v in entry.conditions.items() if k != "half of itself"}
        assert list(whole.values()) == pytest.approx([entry.conditions["nothing"]] * len(whole))


def test_each_condition_has_the_baselines_that_know_as_much():
    table = make_table(24)
    evaluator, counts, found = entropies(table, Stub(table))
    for target, entry in enumerate(found[:2]):
        valid = evaluator.valid_BL[:, evaluator.tokens.slices[target]].numpy()
        log_p = own_log_probs(evaluator, counts[target], target)
        assert {k: set(v) for k, v in entry.baselines.items()} == {
            "nothing": {"uniform", "unigram"},
            "half of itself": {"bigram"},
            "caption": {"class unigram"},
            "all others": {"class unigram"},
        }
        assert entry.baselines["nothing"]["unigram"].value == pytest.approx(
            -log_p["unigram"][valid].mean()
        )
        by_class = entry.baselines["caption"]["class unigram"]
        assert by_class.value == pytest.approx(-log_p["class unigram"][valid].mean())
        # The first token gives the class away, and is all that does.
        assert by_class.value < entry.unigram - 0.1
        inputs, total = half_inputs(evaluator, target).numpy(), []
        for n, t in zip(*np.nonzero(~inputs), strict=True):
            name = "bigram" if t > 0 and inputs[n, t - 1] else "unigram"
            total.append(-log_p[name][n, t])
        assert entry.baselines["half of itself"]["bigram"].value == pytest.approx(np.mean(total))
    text = found[2].baselines
    assert {k: set(v) for k, v in text.items()} == {
        "nothing": {"uniform", "bigram"}, "half of itself": {"bigram"},
    }  # fmt: skip


def test_where_counting_is_above_uniform_uniform_is_taken_and_named():
    log_p = np.log(np.array([[0.5, 0.01], [0.01, 0.01]]))
    every = np.ones((2, 2), bool)
    above = baseline("unigram", log_p, every, 8)
    assert (above.value, above.used) == (math.log(8), "uniform")
    below = baseline("unigram", log_p, np.array([[True, False], [False, False]]), 8)
    assert (below.value, below.used) == (pytest.approx(math.log(2)), "unigram")
    table = make_table(24)
    table.ids["rgb"][table.rows("test")] = 6 - table.ids["rgb"][table.rows("test")] % 2 * 2
    entry = entropies(table, Stub(table))[2][0]
    assert entry.unigram <= entry.uniform and entry.bigram <= entry.uniform
    assert entry.baselines["nothing"]["unigram"].used == "uniform"
    (row, *_) = compared(entry, TITLES)
    assert row.baseline("unigram") == f"uniform {math.log(8):.3f}" and row.given == "nothing"
    assert row.baseline("uniform") == f"{math.log(8):.3f}" and row.baseline("bigram") is None


def test_a_continuation_is_beside_the_bigram_frame_by_frame_and_the_unigram_at_once():
    table = make_table(24)
    evaluator = make_evaluator(table, Stub(table))
    counts = [fit_ngrams(table, m, table.rows("train")) for m in table.modalities]
    sound = continuation(evaluator, counts[1], 1)
    rows = continued(sound, False)
    assert [set(row.baselines) for row in rows] == [
        {"uniform", "bigram"}, {"uniform", "unigram"}, set(), set(),
    ]  # fmt: skip
    assert rows[0].model == sound.value and rows[1].model == sound.at_once
    text = continued(continuation(evaluator, counts[2], 2), True)
    assert [set(row.baselines) for row in text] == [{"uniform", "bigram"}, set()]


def test_results_of_before_have_their_rows_too():
    old = {
        "modality": "rgb", "uniform": 6.24, "unigram": 9.17, "bigram": 9.86, "tokens": 3,
        "unit": "picture", "bits": {}, "conditions": {"nothing": 7.0, "caption": 6.0},
    }  # fmt: skip
    (row,) = compared(CrossEntropy.model_validate(old), TITLES)
    assert row.model == 7.0 and row.baseline("unigram") == "uniform 6.240"
    text = CrossEntropy.model_validate(old | {"unit": "text", "bigram": 1.5})
    (row,) = compared(text, TITLES)
    assert row.given == "earlier tokens" and row.baseline("bigram") == "1.500"
    more = {"value": 1, "low": 0, "high": 2, "at_once": 3, "n": 4, "controls": {"shuffled": 9}}
    entry = Continuation.model_validate(old | more)
    assert [row.model for row in continued(entry, False)] == [1, 3, 9]
