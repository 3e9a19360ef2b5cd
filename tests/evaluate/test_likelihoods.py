"""Halves and continuations against plain loops; tasks in any process."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_class_consistency import FakeClips
from test_evaluate import SIZES, Oracle, Stub, make_evaluator, make_table, random_model

from nano4m.config.run import Config, EvaluateConfig
from nano4m.evaluate.context import RunArtifacts, open_context
from nano4m.evaluate.continuation import continuation
from nano4m.evaluate.cross_entropy import half_of_itself
from nano4m.evaluate.ngram_smoothing import fit_ngrams
from nano4m.evaluate.tasks import run_tasks, tasks_of
from nano4m.generation import likelihoods

# -- halves and continuations ------------------------------------------------------------------


class Recorder(Stub):
    """Answers uniformly and keeps what it was shown and asked."""

    def __init__(self, table):
        super().__init__(table)
        self.calls = []

    def decode(self, context, modality, coords):
        states = super().decode(context, modality, coords)
        self.calls += [
            (*(t[i].tolist() for t in context), a) for i, a in enumerate(states.slots.tolist())
        ]
        return states


@pytest.mark.parametrize("target", [0, 1])
def test_one_half_is_given_and_the_other_asked_for(target):
    table = make_table(8)
    evaluator = make_evaluator(table, Recorder(table))
    nats, count = half_of_itself(evaluator, target)
    length = evaluator.tokens.modalities[target].length
    assert count == len(evaluator) * length // 2
    assert nats == pytest.approx(count * math.log(evaluator.tokens.modalities[target].vocab_size))
    span = evaluator.tokens.slices[target]
    own = {tuple(row[span].tolist()) for row in evaluator.ids_BL}
    halves = set()
    for ids, given, asked in evaluator.model.calls:
        assert sorted(given + asked) == list(range(span.start, span.stop))
        assert any(all(clip[s - span.start] == i for s, i in zip(given, ids)) for clip in own)  # noqa: B905
        halves.add(tuple(given))
    assert len(halves) > 2


def test_of_a_text_the_first_half_is_given():
    table = make_table(8)
    evaluator = make_evaluator(table, Recorder(table))
    _, count = half_of_itself(evaluator, 2)
    lengths = table.lengths["caption"][table.rows("test"), 0]
    assert count == (lengths - lengths // 2).sum()
    start = evaluator.tokens.slices[2].start
    for _, given, asked in evaluator.model.calls:
        assert given == list(range(start, asked[0])) and len(asked) == 1 and given


def counts_of(table, target):
    return fit_ngrams(table, table.modalities[target], table.rows("train"))


def test_an_oracle_continues_a_sound_and_a_shuffled_beginning_misleads_it():
    table = make_table(32)
    table.ids["sound"][:, :, 2:] = table.ids["sound"][:, :, :2]  # a sound that repeats itself
    evaluator = make_evaluator(table, Oracle(table))
    found = continuation(evaluator, counts_of(table, 1), 1)
    assert (found.n, found.tokens) == (len(evaluator), 2 * len(evaluator))
    assert found.low <= found.value <= found.high and found.value == pytest.approx(0, abs=1e-4)
    # Of three classes and two digits nothing is known without the beginning.
    assert found.controls["nothing"] == pytest.approx((math.log(3) + math.log(2)) / 2, abs=1e-3)
    assert found.controls["shuffled"] > 1
    assert found.value < found.bigram and found.controls["nothing"] < found.uniform


def test_a_uniform_model_continues_at_ln_v_and_pictures_are_not_continued():
    table = make_table(8)
    evaluator = make_evaluator(table, Stub(table))
    for target, controls in ((1, {"shuffled", "nothing"}), (2, {"shuffled"})):
        found = continuation(evaluator, counts_of(table, target), target)
        vocab = evaluator.tokens.modalities[target].vocab_size
        assert (
            found.value
            == found.low
            == found.high
            == found.at_once
            == pytest.approx(math.log(vocab), abs=1e-5)
        )
        assert found.uniform == pytest.approx(found.value, abs=1e-5)
        assert found.unigram < found.uniform and found.bigram < found.uniform
        assert set(found.controls) == controls
    assert continuation(evaluator, counts_of(table, 0), 0) is None


def test_a_continuation_sees_its_own_beginning_and_then_frame_by_frame():
    table = make_table(8)
    evaluator = make_evaluator(table, Recorder(table))
    continuation(evaluator, counts_of(table, 1), 1)
    start = evaluator.tokens.slices[1].start
    shown = {(tuple(given), tuple(asked)) for _, given, asked in evaluator.model.calls}
    rest = (start + 2, start + 3)
    assert shown == {((), rest), (rest_before := (start, start + 1), rest),
                     ((*rest_before, start + 2), (start + 3,))}  # fmt: skip
    clips = {tuple(row[start : start + 4].tolist()) for row in evaluator.ids_BL}
    for length in (2, 3):
        begun = {tuple(ids) for ids, given, _ in evaluator.model.calls if len(given) == length}
        assert begun == {clip[:length] for clip in clips}


class Successor(Stub):
    """Knows that a sound counts up, and is told by the frame before: at once it knows the first."""

    def answer(self, ids, given, asked, vocab):
        log_p = super().answer(ids, given, asked, vocab)
        for row, shown in enumerate(given):
            if len(shown) and shown[-1] + 1 == asked[row, 0]:
                log_p[row, 0] = -1e9
                log_p[row, 0, (ids[row, -1] + 1) % vocab] = 0.0
        return log_p


def test_the_chain_rule_uses_what_each_frame_tells_of_the_next():
    table = make_table(32)
    vocab = table.modalities[1].vocab_size
    table.ids["sound"][:] = (table.ids["sound"][:, :, :1] + np.arange(4)) % vocab
    found = continuation(make_evaluator(table, Successor(table)), counts_of(table, 1), 1)
    assert found.value == pytest.approx(0, abs=1e-4)
    assert found.at_once == pytest.approx(math.log(vocab) / 2, abs=1e-4)


def test_all_codebooks_of_a_frame_count(monkeypatch):
    monkeypatch.setitem(SIZES, "sound", ((2, 2), 18))
    table = make_table(8)
    evaluator = make_evaluator(table, Recorder(table))
    found = continuation(evaluator, counts_of(table, 1), 1)
    assert found.value == found.at_once == pytest.approx(math.log(9), abs=1e-5)
    start = evaluator.tokens.slices[1].start
    asked = {tuple(asked) for _, given, asked in evaluator.model.calls if len(given) == 2}
    # Frame by frame, and level by level: the second codebook is asked for when the first is known.
    assert asked == {(start + 2, start + 3), (start + 2,)}
    fine = {tuple(asked) for _, given, asked in evaluator.model.calls if len(given) == 3}
    assert fine == {(start + 3,)}


# -- picked where they are made ------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 40, 1 << 26])
def test_picked_log_probs_are_those_of_whole_distributions(most, monkeypatch):
    monkeypatch.setitem(likelihoods.MOST_SCORES, "cpu", most)
    table = make_table(8)
    model = random_model(table)
    evaluator = make_evaluator(table, model)
    own = evaluator.ids_BL[:, evaluator.tokens.slices[1]]
    ids, given = evaluator.inputs([0, 2])
    span = evaluator.tokens.slices[1]
    slots = torch.arange(span.start, span.stop).expand(len(evaluator), -1)
    with torch.no_grad():
        wanted = []
        for row in range(len(evaluator)):
            seen = given[row].nonzero()[:, 0][None]
            tokens = evaluator.tokens
            context = model.encode(ids[row][seen], tokens.modality_L[seen], tokens.coords_L2[seen])
            asked = slots[row][None]
            states = model.decode(context, tokens.modality_L[asked], tokens.coords_L2[asked])
            wanted.append(model.logits(states, 1).log_softmax(-1)[0])
    log_p = torch.stack(wanted)
    places = torch.arange(own.shape[1])
    for i, j in ((0, 0), (0, 5), (7, 3)):
        rated = evaluator.parallel_log_prob(1, ids, given, own)[i, j]
        assert float(rated) == pytest.approx(float(log_p[i, places, own[j]].sum()), abs=1e-5)
    picked = log_p.gather(2, own[..., None])[..., 0]
    assert evaluator.own(1, ids, given) == pytest.approx(picked.double().sum(1).numpy(), abs=1e-5)
    found = likelihoods.log_probs(model, evaluator.tokens, ids, given, slots, own, batch_size=5)
    torch.testing.assert_close(found, picked)
    two = evaluator.pick(ids, given, slots, torch.stack([own, own.flip(1)], 2)[:, :2])
    torch.testing.assert_close(two[..., 0], picked[:, :2])
    torch.testing.assert_close(two[..., 1], log_p.gather(2, own.flip(1)[..., None])[:, :2, 0])


def test_no_more_scores_are_held_than_allowed(monkeypatch):
    monkeypatch.setitem(likelihoods.MOST_SCORES, "cpu", 40)
    table = make_table(8)
    evaluator = make_evaluator(table, random_model(table))
    ids, given = evaluator.inputs([0])
    slots = torch.arange(4, 8).expand(len(evaluator), -1)
    parts = list(
        likelihoods.log_prob_parts(evaluator.model, evaluator.tokens, ids, given, slots, 2, 3)
    )
    assert {p.shape for _, _, p in parts} == {(2, 2, 9), (2, 1, 9)}
    assert [first for _, first, _ in parts[:4]] == [0, 2, 0, 2]


# -- tasks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SmallRun:
    """Opens the same small run in every process."""

    def __call__(self) -> RunArtifacts:
        table = make_table(8)
        clips = FakeClips(table)
        return RunArtifacts(clips, clips.tokenizers, table, random_model(table))


def test_results_do_not_depend_on_the_number_of_processes():
    found = []
    threads = torch.get_num_threads()
    for workers in (0, 2):
        config = Config(
            tokenizers={
                "rgb": {"kind": "image_vq"},
                "sound": {"kind": "mel_vq"},
                "caption": {"kind": "bpe"},
            },
            evaluate=EvaluateConfig(clips=12, classifier_steps=5, workers=workers),
            device="cpu",
        )
        context = open_context(config, SmallRun())
        tasks = tasks_of(context)
        found.append(run_tasks(context, SmallRun(), tasks))
    assert torch.get_num_threads() == threads
    assert len(tasks) == 3 + 3 + 3
    for alone, shared in zip(*found, strict=True):
        assert alone.ids.keys() == shared.ids.keys()
        assert all(np.array_equal(own, shared.ids[k]) for k, own in alone.ids.items())
        # Without the arrays, which are left out of the JSON.
        assert alone.model_dump() == shared.model_dump()
