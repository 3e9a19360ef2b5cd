"""The search for the likeliest class: equal to looking everything up, and cheaper."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from nano4m.evaluate.class_search import ClassSearch, TooCostly
from nano4m.evaluate.trie import Trie, count_predictions

VOCAB, WIDTH = 8, 12


class Scripted:
    """Stands in for an evaluator: log p of a next token by the clip's number and the prefix.

    Slot 0 holds the clip's number, the text begins at slot 1. ``sharpness`` is the standard
    deviation of the logits: 0 is a uniform model.
    """

    rows_at_once = 4
    tokens = SimpleNamespace(slices=[slice(0, 1), slice(1, WIDTH)])

    def __init__(self, seed: int, sharpness: float) -> None:
        self.seed, self.sharpness, self.calls = seed, sharpness, []

    def next_token(self, clip: int, prefix: tuple[int, ...]) -> np.ndarray:
        """Return log p of all tokens."""
        seed = zlib.crc32(repr((self.seed, clip, prefix)).encode())
        logits = np.random.default_rng(seed).normal(size=VOCAB) * self.sharpness
        return logits - np.log(np.exp(logits).sum())

    def text(self, clip: int, text: tuple[int, ...]) -> float:
        """Return log p of a whole text."""
        return sum(float(self.next_token(clip, text[:n])[text[n]]) for n in range(len(text)))

    def pick(self, ids, inputs, slots, wanted):
        """As ``LikelihoodEvaluator.pick``."""
        out = torch.empty(wanted.shape, dtype=torch.float64)
        for row in range(len(ids)):
            end = int(slots[row, 0])
            assert inputs[row, :end].all() and not inputs[row, end:].any()
            prefix = tuple(ids[row, 1:end].tolist())
            self.calls.append((int(ids[row, 0]), prefix))
            log_p = torch.from_numpy(self.next_token(*self.calls[-1]))
            out[row, 0] = log_p[wanted[row, 0]]
        return out

    def search(self, clips, trie, most=None) -> ClassSearch:
        """Return a search for clips of these numbers."""
        ids = torch.zeros(len(clips), WIDTH, dtype=torch.int64)
        ids[:, 0] = torch.tensor(clips)
        inputs = torch.zeros_like(ids).bool()
        inputs[:, 0] = True
        return ClassSearch(self, ids, inputs, 1, trie, most=most)


def texts_of(seed: int, classes: int, most: int):
    """Texts that share beginnings, some of several classes, in unequal numbers."""
    rng = np.random.default_rng(seed)

    def text():
        return (*rng.integers(1, 4, size=rng.integers(1, 6)).tolist(), 0)

    return [sorted({text() for _ in range(rng.integers(1, most))}) for _ in range(classes)]


def by_brute_force(model: Scripted, clips, texts) -> np.ndarray:
    """Return log p of each class, (clips, classes)."""
    return np.array([
        [logsumexp([model.text(clip, text) for text in own]) for own in texts]
        for clip in clips
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_the_best_class_is_that_of_all_texts(seed, sharpness):
    clips, texts = list(range(6)), texts_of(seed, classes=5, most=20)
    model = Scripted(seed, sharpness)
    wanted = by_brute_force(model, clips, texts)
    trie = Trie(texts)
    assert model.search(clips, trie).look_up_all() == pytest.approx(wanted, abs=1e-9)
    offset = np.random.default_rng(seed).normal(size=5) * 2 - 3
    search = model.search(clips, trie)
    assert search.best_class().tolist() == wanted.argmax(1).tolist()
    assert search.best_class(offset).tolist() == (wanted - offset).argmax(1).tolist()
    # What was looked up for one answer is not looked up again for another.
    assert len(model.calls) == len(clips) * count_predictions(texts) + search.looked_up
    assert len(set(model.calls[-search.looked_up :])) == search.looked_up
    assert search.best_class().tolist() == wanted.argmax(1).tolist()
    assert search.look_up_all() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_very_unlikely_texts_are_told_apart(seed):
    """Bounds fall by hundreds of orders of magnitude below where they began."""
    model = Scripted(seed, 40.0)
    texts = [[(1, 1, 1, 1, 1, 1, 1, 1, 2, 0)], [(1, 1, 1, 1, 1, 1, 1, 1, 3, 0)], [(2, 0)]]
    wanted = by_brute_force(model, [0, 1, 2], texts)
    offset = np.array([wanted[0, 0], wanted[0, 1] - 0.5, wanted[0, 2] + 1])
    search = model.search([0, 1, 2], Trie(texts))
    assert search.best_class(offset).tolist() == (wanted - offset).argmax(1).tolist()
    assert wanted.min() < -200


def test_what_is_looked_up_decides_the_cost():
    texts = texts_of(3, classes=6, most=60)
    whole = 8 * count_predictions(texts)
    sharp, flat = Scripted(0, 4.0), Scripted(0, 0.0)
    for model, most in ((sharp, 0.35), (flat, 1.0)):
        search = model.search(list(range(8)), Trie(texts))
        search.best_class()
        assert search.looked_up == len(model.calls) <= most * whole


def test_equal_inputs_are_looked_up_once():
    texts, model = texts_of(1, classes=3, most=9), Scripted(1, 1.0)
    found = model.search([7, 2, 7, 7], Trie(texts)).look_up_all()
    assert len(model.calls) == len(set(model.calls)) == 2 * count_predictions(texts)
    assert found == pytest.approx(by_brute_force(model, [7, 2, 7, 7], texts))


def test_classes_that_are_equal_do_not_search_for_ever():
    texts = [[(1, 2, 0), (2, 0)]] * 3 + [[(3, 0)]]
    for sharpness in (0.0, 1.0):
        model = Scripted(0, sharpness)
        scores = by_brute_force(model, [0, 1], texts)
        found = model.search([0, 1], Trie(texts)).best_class()
        assert scores[[0, 1], found] == pytest.approx(scores.max(1))
        # Without anything told, mutual information is 0 for every class.
        prior = scores[0]
        assert model.search([0], Trie(texts)).best_class(prior)[0] in range(4)


def test_a_class_without_texts_is_never_found():
    texts = [[], [(1, 0)], [(2, 3, 0)], []]
    model = Scripted(5, 1.0)
    search = model.search(list(range(20)), Trie(texts))
    with np.errstate(divide="ignore"):
        prior = np.log([0.0, 0.5, 0.5, 0.0])
    assert set(search.best_class()) == set(search.best_class(prior)) == {1, 2}
    assert np.isneginf(search.look_up_all()[:, [0, 3]]).all()


def test_a_search_that_needs_more_than_allowed_stops():
    texts, model = texts_of(2, classes=4, most=30), Scripted(2, 0.0)
    need = 3 * count_predictions(texts)
    with pytest.raises(TooCostly):
        model.search([0, 1, 2], Trie(texts), most=need // 3).best_class()
    assert len(model.calls) <= need // 3
    assert len(model.search([0, 1, 2], Trie(texts), most=need).best_class()) == 3


@pytest.mark.parametrize("seed", range(8))
def test_predictions_are_counted_without_a_trie(seed):
    texts = texts_of(seed, classes=4, most=30)
    assert count_predictions(texts) == int((~Trie(texts).is_leaf_N).sum())
    assert count_predictions([[], []]) == 0 == int((~Trie([[], []]).is_leaf_N).sum())
