"""Captions are recognised by their words, in any wording and number."""

import time

import numpy as np
import pytest
import torch

from nano4m.evaluate.word_classifier import UNKNOWN, WordClassifier

ANIMALS = ("cat", "dog", "cow", "sheep", "pig", "horse", "hen", "duck", "goat", "owl", "frog")
SOUNDS = ("meows", "barks", "moos", "bleats", "grunts", "neighs", "clucks", "quacks", "cries",
          "hoots", "croaks")  # fmt: skip
REST = (("small", "large", "little", "big"), ("black", "grey", "white", "brown"),
        ("nearby", "far away", "in the distance"), ("facing left", "turned away"))  # fmt: skip


def free_captions(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Captions that name the animal, or what it does, or both, among other words."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(ANIMALS))
    texts = []
    for k in labels:
        named, does = [(True, True), (True, False), (False, True)][rng.choice(3, p=[0.6, 0.2, 0.2])]
        words = [rng.choice(own) for own in REST if rng.random() < 0.5]
        words += [ANIMALS[k] if named else "animal"] + [SOUNDS[k]] * does
        texts.append("A " + " ".join(words))
    return texts, labels


@pytest.mark.parametrize("count, least", [(22, 0.5), (110, 0.9), (5000, 0.99)])
def test_captions_that_were_never_seen_are_recognised(count, least):
    texts, labels = free_captions(count, 0)
    held_out, truth = free_captions(500, 1)
    found = WordClassifier(texts, labels, 0).predict(held_out)
    assert (found == truth).mean() >= least
    # By exact match few of them would be: as this did before.
    seen = dict(zip(texts, labels, strict=True))
    assert (np.array([seen.get(t, UNKNOWN) for t in held_out]) == truth).mean() < 0.9
    # Labels that have nothing to do with the words are not learnt.
    rng = np.random.default_rng(2)
    guessed = WordClassifier(texts, rng.permutation(labels), 0).predict(held_out)
    assert (guessed == truth).mean() < 0.3


def test_templates_are_known_by_heart_in_unequal_classes():
    texts = [f"{size} {ANIMALS[k]} {SOUNDS[k]}" for k in range(11) for size in ("small", "large")]
    labels = np.repeat(np.arange(11), 2)
    times = np.arange(22) % 7 * 9 + 1
    many = [text for text, n in zip(texts, times, strict=True) for _ in range(n)]
    model = WordClassifier(many, np.repeat(labels, times), 0)
    assert (model.predict(texts) == labels).all()
    assert (model.predict([t.upper() + "!" for t in texts]) == labels).all()


def test_a_text_without_a_known_word_has_no_class():
    model = WordClassifier(["a cat", "a dog", "..."], np.array([0, 1, 1]), 0)
    found = model.predict(["zebra", "", "?!", "cat", "the dog", "zebra cat"])
    assert found.tolist() == [UNKNOWN, UNKNOWN, UNKNOWN, 0, 1, 0] and found.dtype == np.int64
    assert model.predict([]).tolist() == []
    alone = WordClassifier(["a cat", "cats"], np.array([3, 3]), 0)
    assert alone.predict(["cats", "dog"]).tolist() == [3, UNKNOWN]
    assert WordClassifier(["", "?"], np.array([0, 1]), 0).predict(["a"]).tolist() == [UNKNOWN]


def test_the_same_seed_gives_the_same_answers_on_any_number_of_threads():
    texts, labels = free_captions(400, 3)
    held_out, _ = free_captions(300, 4)
    threads, found = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(WordClassifier(texts, labels, 5).predict(held_out).tolist())
    torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_as_many_captions_as_a_classifier_gets_take_seconds():
    texts, labels = free_captions(12_000, 6)
    begun = time.process_time()
    WordClassifier(texts, labels, 0)
    assert time.process_time() - begun < 20
