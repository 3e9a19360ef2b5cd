"""Probes of clips that lack modalities: as if they were asked of the clips that have them alone."""

import dataclasses

import numpy as np
import pytest
import torch
from test_evaluate import Oracle, classification, make_evaluator, make_table, retrieval

from nano4m.evaluate.class_consistency import real_ids
from nano4m.evaluate.continuation import continuation
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.memorization import memorization
from nano4m.evaluate.ngram_smoothing import fit_ngrams
from nano4m.evaluate.run import too_few
from nano4m.tokens.table import TokenTable

MARK = 7
"""Id of slots without a token: the rgb, sound and caption of no clip that has them holds it so."""


def with_gaps(missing: float = 0.3, seed: int = 0, clips: int = 12) -> TokenTable:
    """The table of the probes' tests; each clip keeps one modality or more."""
    table = make_table(clips)
    rng = np.random.default_rng(seed)
    gone = rng.random((len(table.clip_ids), 3)) < missing
    gone[np.arange(len(gone)), rng.integers(3, size=len(gone))] = False
    ids, lengths = {}, {}
    for c, modality in enumerate(table.modalities):
        name = modality.name
        ids[name] = table.ids[name].copy()
        ids[name][gone[:, c]] = MARK
        lengths[name] = np.where(gone[:, [c]], 0, table.lengths[name])
    return dataclasses.replace(table, ids=ids, lengths=lengths)


@pytest.mark.parametrize("seed", range(5))
def test_clips_that_have_all_or_any_are_those_of_brute_force(seed):
    table = with_gaps(seed=seed)
    evaluator = make_evaluator(table, Oracle(table))
    present = np.stack([table.present(m.name)[evaluator.rows] for m in table.modalities], 1)
    for target in range(3):
        for source in range(3):
            both = [i for i in range(len(evaluator)) if present[i, source] and present[i, target]]
            assert evaluator.clips_with(source, target).tolist() == both
            part = evaluator.of(source, target)
            assert part is evaluator.of(target, source) and len(part) == len(both)
            assert part.rows.tolist() == evaluator.rows[both].tolist()
            assert torch.equal(part.ids_BL, evaluator.ids_BL[both])
        others = [i for i in range(3) if i != target]
        any_of = [
            i for i in range(len(evaluator)) if present[i, target] and present[i, others].any()
        ]
        assert evaluator.clips_for(others, target).tolist() == any_of
    whole = make_evaluator(make_table(), Oracle(make_table()))
    assert whole.of(0, 1) is whole and whole.take(np.arange(len(whole))) is whole


@pytest.mark.parametrize("seed", range(2))
def test_figures_are_those_of_the_clips_that_have_both(seed):
    """Each equals that of an evaluator which never saw the other clips."""
    table = with_gaps(seed=seed)
    model = Oracle(table)
    evaluator = make_evaluator(table, model)
    found = {own.modality: own for own in entropies_with(evaluator, table)}
    probes = {(p.source, p.target, p.k, p.within): p for p in retrieval(evaluator)}
    for source, name in enumerate(evaluator.names):
        for target, other in enumerate(evaluator.names):
            if source == target:
                continue
            rows = evaluator.rows[evaluator.clips_with(source, target)]
            alone = make_evaluator(table, model, rows)
            assert found[other].clips[name] == len(rows)
            (expected,) = [e for e in entropies_with(alone, table) if e.modality == other]
            assert found[other].conditions[name] == pytest.approx(
                expected.conditions[name], abs=1e-6
            )
            assert found[other].conditions[name] != pytest.approx(
                found[other].conditions["nothing"]
            )
            if (name, other, 1, None) in probes:
                same = {(p.source, p.target, p.k, p.within): p for p in retrieval(alone)}
                key = (name, other, 1, None)
                assert probes[key].score.value == same[key].score.value
                assert probes[name, other, 1, None].score.n == len(rows)


def entropies_with(evaluator, table):
    """Cross-entropy of every modality, of the clips that have it, as the tasks ask for it."""
    return [
        cross_entropy(evaluator.of(c), fit_ngrams(table, m, present_rows(table, m.name)), c, 2.0)
        for c, m in enumerate(table.modalities)
    ]


def present_rows(table, name):
    """Train rows that have a modality."""
    return np.flatnonzero(table.present(name) & (table.splits == "train"))


def test_an_oracle_finds_clips_and_classes_in_spite_of_gaps():
    table = with_gaps(0.2)
    evaluator = make_evaluator(table, Oracle(table))
    for probe in retrieval(evaluator):
        if {probe.source, probe.target} == {"rgb", "sound"} and probe.k == 1 and not probe.within:
            assert probe.score.value > 0.9 and probe.score.n < len(evaluator)
    for probe in classification(evaluator, table):
        if probe.source in ("rgb", "sound"):
            assert probe.score.value > 0.9
            assert probe.score.n == table.present(probe.source)[evaluator.rows].sum()


def test_what_a_clip_lacks_is_no_input_and_no_target():
    """A model that is shown a slot without a token, or asked for one, says so."""

    class Watch(Oracle):
        def answer(self, ids, given, asked, vocab):
            for own, shown in zip(ids, given, strict=True):
                is_of_some = (self.ids[:, shown] == own) & self.valid[:, shown]
                assert is_of_some.any(0).all(), "an input that no clip has"
            return super().answer(ids, given, asked, vocab)

    table = with_gaps(0.4, seed=3)
    evaluator = make_evaluator(table, Watch(table))
    entropies_with(evaluator, table)
    retrieval(evaluator)
    for target in range(3):
        counts = fit_ngrams(
            table, table.modalities[target], present_rows(table, evaluator.names[target])
        )
        own = evaluator.of(target)
        figure = continuation(own, counts, target)
        assert figure is None or figure.n <= len(own)
    everywhere = torch.ones_like(evaluator.valid_BL)
    leaky = dataclasses.replace(evaluator, valid_BL=everywhere, _pairs={}, _parts={})
    with pytest.raises(AssertionError, match="an input that no clip has"):
        retrieval(leaky)


def test_copies_are_counted_where_they_were_made():
    table = with_gaps(0.4, seed=1)
    evaluator = make_evaluator(table, Oracle(table))

    def copied(source, target):
        ids = np.zeros((len(evaluator), 4), np.uint16)
        clips = evaluator.clips_with(source, target)
        ids[clips] = real_ids(evaluator, target)[clips]
        return ids

    for target in range(3):
        generated = {s: copied(s, target) for s in range(3) if s != target}
        rows = present_rows(table, evaluator.names[target])
        figures = memorization(
            evaluator, table, rows, target, generated, real_ids(evaluator, target)
        )
        for figure in figures:
            if figure.source is not None:
                source = evaluator.names.index(figure.source)
                assert figure.n == len(evaluator.clips_with(source, target))
            assert figure.value == 0.5, "each sample is as near as the clip that it is"


def test_pairs_with_too_few_clips_are_left_out_with_a_reason():
    table = with_gaps(0.0)
    lengths = {n: a.copy() for n, a in table.lengths.items()}
    test = table.rows("test")
    lengths["sound"][test[1:]] = 0
    table = dataclasses.replace(table, lengths=lengths)
    evaluator = make_evaluator(table, Oracle(table))
    said = {entry.probe: entry.reason for entry in too_few(evaluator)}
    assert said.keys() == {"rgb -> sound", "sound -> rgb", "caption -> sound", "sound -> caption"}
    assert all(reason.startswith("1 of 36 evaluated clips") for reason in said.values())
    assert not [p for p in retrieval(evaluator) if "sound" in (p.source, p.target)]
    assert [p.source for p in classification(evaluator, table)].count("sound") == 0
