"""Retrieval against its yardsticks: who knows the class or the caption alone is not praised."""

import numpy as np
import pytest
import torch
from test_evaluate import Oracle, Stub, make_evaluator, make_table

from nano4m.evaluate.likelihood_evaluator import LikelihoodEvaluator
from nano4m.evaluate.retrieval import ceiling, information, knowledge, members_of, retrieval_of
from nano4m.evaluate.stats import hits_at
from nano4m.modalities import MODALITIES
from nano4m.tokens.batch import TokenSequence

SIZES = (12, 30, 7, 18, 1, 12)
"""Clips of each class; one clip is alone."""


def planted(scores: np.ndarray, labels: np.ndarray, captions: np.ndarray) -> LikelihoodEvaluator:
    """An evaluator with these labels and captions, whose model scores candidates as given."""
    n = len(labels)
    modalities = (
        MODALITIES["rgb"].with_tokens((1, 1), 8), MODALITIES["sound"].with_tokens((1, 1), 8),
        MODALITIES["caption"].with_tokens((2,), 99),
    )  # fmt: skip
    ids = torch.zeros(n, 4, dtype=torch.int64)
    ids[:, 2] = torch.from_numpy(captions) + 1
    evaluator = LikelihoodEvaluator(
        model=None, tokens=TokenSequence(modalities), rows=np.arange(n), ids_BL=ids,
        valid_BL=torch.ones(n, 4, dtype=torch.bool), labels=labels,
        classes=[str(k) for k in np.unique(labels)], batch_size=4, seed=0,
    )  # fmt: skip
    for pair in ((0, 1), (1, 0), (2, 0), (2, 1)):
        evaluator._pairs[pair] = scores
    return evaluator


@pytest.fixture
def no_prior(monkeypatch):
    """Every target is equally likely without inputs."""
    monkeypatch.setattr(LikelihoodEvaluator, "unconditional", lambda self, t: np.zeros(len(self)))


def clips(seed: int = 0):
    """Labels of unequal classes and four captions in each but the smallest."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SIZES)), SIZES)
    return labels, labels * 4 + rng.integers(4, size=len(labels))


def same(group: np.ndarray) -> np.ndarray:
    """Return 1 where query and candidate are of one group, (n, n)."""
    return (group[:, None] == group[None]).astype(np.float64)


def by_kind(probes):
    """Return the probes of one pair by (task, k, within)."""
    return {(p.task, p.k, p.within): p for p in probes if p.source == "rgb"}


IN_GALLERY = (("retrieval", 1, None), ("retrieval", 5, None))
IN_CLASS, IN_BOTH = (("instance retrieval", 1, w) for w in ("class", "class and caption"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("broken", [False, True], ids=["ties", "ties broken by noise"])
def test_who_knows_the_class_or_the_caption_alone_is_not_praised(seed, broken, no_prior):
    labels, captions = clips(seed)
    noise = np.random.default_rng(seed).normal(size=(len(labels), len(labels))) * 1e-3 * broken
    for name, group in (("class", labels), ("caption", captions)):
        found = by_kind(retrieval_of(planted(same(group) + noise, labels, captions), 1))
        assert set(found) == {*IN_GALLERY, IN_CLASS, IN_BOTH}
        for probe in found.values():
            assert not probe.is_above, (name, probe.name)
        for key in IN_GALLERY:
            score = found[key].score
            assert score.ceilings[name] > 2 * score.chance
            assert score.value == pytest.approx(score.ceilings[name], abs=0.12 if broken else 1e-9)
        # In its own class, the class tells nothing and the caption something.
        score = found[IN_CLASS].score
        reached = score.ceilings["caption"] if name == "caption" else score.chance
        assert score.value == pytest.approx(reached, abs=0.12 if broken else 1e-9)
        assert found[IN_BOTH].score.value == pytest.approx(
            found[IN_BOTH].score.chance, abs=0.12 if broken else 1e-9
        )


def test_who_knows_the_clip_is_praised_everywhere(no_prior):
    labels, captions = clips()
    found = by_kind(retrieval_of(planted(np.eye(len(labels)), labels, captions), 1))
    for key in (IN_GALLERY[0], IN_CLASS, IN_BOTH):
        assert found[key].score.value == 1 and found[key].is_above
    shuffled = found[IN_GALLERY[0]].score.controls["shuffled"]
    assert (shuffled.value, shuffled.expected, shuffled.n) == (0, 0, len(labels))


def test_who_finds_the_clip_in_its_class_but_not_the_class(no_prior):
    """Recall among all is low, and the figure within the class shows the instance."""
    labels, captions = clips()
    rng = np.random.default_rng(0)
    scores = np.eye(len(labels)) + 5 * rng.random((1 + labels.max(),) * 2)[labels][:, labels]
    found = by_kind(retrieval_of(planted(scores, labels, captions), 1))
    assert not found[IN_GALLERY[0]].is_above
    assert found[IN_CLASS].score.value == 1 and found[IN_CLASS].is_above


def test_clips_that_are_alone_are_left_out_and_chance_is_of_the_groups(no_prior):
    labels, captions = clips()
    found = by_kind(retrieval_of(planted(np.zeros((len(labels),) * 2), labels, captions), 1))
    score = found[IN_CLASS].score
    sizes = [n for n in SIZES if n > 1]
    assert score.n == sum(sizes)
    assert score.value == pytest.approx(score.chance) == pytest.approx(len(sizes) / sum(sizes))
    _, counts = np.unique(captions, return_counts=True)
    both = found[IN_BOTH].score
    assert both.n == counts[counts > 1].sum()
    assert both.chance == pytest.approx((counts > 1).sum() / both.n) and not both.ceilings
    each = np.arange(len(labels))
    assert {p.task for p in retrieval_of(planted(np.eye(len(labels)), each, each), 1)} == {
        "retrieval"
    }


def test_the_ceiling_of_knowledge_is_what_it_reaches():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        group = rng.integers(rng.integers(1, 9), size=40)
        for k in (1, 5, 60):
            assert ceiling(group, k) == pytest.approx(hits_at(same(group), k).mean())
    assert ceiling(np.repeat(np.arange(11), 20), 1) == pytest.approx(0.05)  # the farm
    assert [own.tolist() for own in members_of(np.array([3, 1, 3, 0, 1]))] == [[1, 4], [0, 2]]
    assert members_of(np.arange(4)) == []


def test_captions_are_compared_up_to_their_end():
    table = make_table(8)
    evaluator = make_evaluator(table, Stub(table))
    groups = knowledge(evaluator)
    assert groups["class"] is evaluator.labels
    assert len(np.unique(groups["caption"])) == len(np.unique(groups["class and caption"])) == 6
    ids = evaluator.ids_BL.clone()
    ids[~evaluator.valid_BL] = torch.randint(9, (int((~evaluator.valid_BL).sum()),))
    assert (knowledge(make_evaluator(table, Stub(table)))["caption"] == groups["caption"]).all()
    silent = make_table(8, names=("rgb", "sound"))
    assert set(knowledge(make_evaluator(silent, Stub(silent)))) == {"class"}


def test_one_class_is_searched_as_a_gallery_and_by_caption_alone(no_prior):
    labels, captions = np.zeros(24, dtype=np.int64), np.arange(24) % 3
    found = by_kind(retrieval_of(planted(np.eye(24), labels, captions), 1))
    assert set(found) == {*IN_GALLERY, IN_BOTH}
    for key in IN_GALLERY:
        score = found[key].score
        assert score.ceilings["class"] == pytest.approx(score.chance) and found[key].is_above


def test_a_text_has_no_figure_within_its_own_caption(no_prior):
    labels, captions = clips()
    probes = retrieval_of(planted(same(captions), labels, captions), 1)
    assert {p.within for p in probes if p.source == "caption"} == {None, "class"}
    assert {p.within for p in probes if p.source == "rgb"} == {None, "class", "class and caption"}
    assert retrieval_of(planted(same(captions), labels, captions), 2) == []
    assert len({p.name for p in probes}) == len(probes)


def test_the_shuffled_control_has_its_own_expected_value(no_prior):
    """A retriever of the class is right by chance more often than one that guesses."""
    values, expected = [], []
    for seed in range(30):
        labels, captions = clips(seed)
        evaluator = planted(same(labels), labels, captions)
        object.__setattr__(evaluator, "seed", seed)
        control = by_kind(retrieval_of(evaluator, 1))[IN_GALLERY[0]].score.controls["shuffled"]
        values.append(control.value)
        expected.append(control.expected)
    assert np.mean(values) == pytest.approx(np.mean(expected), abs=0.004)


# -- with a model ------------------------------------------------------------------------------


def test_a_planted_bijection_is_retrieved():
    table = make_table()
    evaluator = make_evaluator(table, Oracle(table))
    probes = [p for target in range(3) for p in retrieval_of(evaluator, target)]
    pairs = {(p.source, p.target) for p in probes}
    assert pairs == {("rgb", "sound"), ("sound", "rgb"), ("caption", "rgb"), ("caption", "sound")}
    for probe in probes:
        score = probe.score
        if probe.source != "caption":
            assert score.value == 1 and score.controls["shuffled"].value <= 2 * score.chance
            assert probe.is_above == (score.ceilings.get("caption", 0) < score.low)
        else:  # six clips share a caption and are equally likely
            assert score.value == pytest.approx(score.ceilings["caption"], abs=0.01)
            assert not probe.is_above


def test_a_uniform_model_retrieves_at_chance():
    table = make_table(4)
    evaluator = make_evaluator(table, Stub(table))
    for probe in (p for target in range(3) for p in retrieval_of(evaluator, target)):
        assert probe.score.value == pytest.approx(probe.score.chance) and not probe.is_above


def test_a_candidate_that_is_likely_with_any_source_does_not_win(monkeypatch):
    table = make_table()
    evaluator = make_evaluator(table, Oracle(table))
    joint, alone = np.zeros((36, 36)) - 9.0, np.full(36, -10.0)
    np.fill_diagonal(joint, -8.0)
    joint[:, 3], alone[3] = -1.0, -2.0
    evaluator._pairs[0, 1] = joint
    assert hits_at(joint, 1).mean() < 0.1
    monkeypatch.setattr(LikelihoodEvaluator, "unconditional", lambda self, target: alone)
    joint[3, 3] = 0.0
    assert hits_at(information(evaluator, 0, 1), 1).mean() == 1
