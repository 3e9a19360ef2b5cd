"""N-gram baselines: against plain loops, and against uniform where data repeat or say nothing."""

import math

import numpy as np
import pytest

from conftest import tiny_table
from nano4m.evaluate import ngram_smoothing
from nano4m.evaluate.ngram import (
    CHAINS,
    KeyCounts,
    Keys,
    Sequences,
    SmoothedCounts,
    Smoothing,
    TokenKeys,
)
from nano4m.evaluate.ngram_smoothing import fit_ngrams, fit_sequences, held_out_groups
from nano4m.modalities import MODALITIES

RGB = MODALITIES["rgb"].with_tokens((4, 4), 32)
NAMES = list(CHAINS)


def sequences(ids, labels=None):
    ids = np.asarray(ids)
    labels = np.zeros(len(ids), np.int64) if labels is None else np.asarray(labels)
    return Sequences(ids, np.ones(ids.shape, bool), labels)


def fitted(modality, train, recordings=None, seed=0, classes=None):
    recordings = np.arange(len(train)) if recordings is None else recordings
    classes = int(train.labels_N.max()) + 1 if classes is None else classes
    return fit_sequences(modality, train, classes, recordings, np.random.default_rng(seed))


def nats(model, tokens):
    """Nats a token by baseline."""
    count = tokens.valid_NT.sum()
    return {name: -found.sum() / count for name, found in model.log_probs(tokens).items()}


# -- against a plain loop ------------------------------------------------------------------------


def reference(modality, name, strengths, weights, train, tokens):
    """Log p of every token of one baseline, one at a time, by sums over lists."""
    books = modality.shape[1] if modality.layout == "codebooks" else 1
    found = np.zeros(tokens.ids_NT.shape)

    def context(own, n, t):
        if name == "class unigram":
            return own.labels_N[n]
        return own.ids_NT[n, t - books] if t >= books else None

    for n, t in zip(*np.nonzero(tokens.valid_NT), strict=True):
        p = 1 / (modality.vocab_size // books)
        slots = [s for s in range(modality.length) if s % books == t % books]
        for i, strength in enumerate(strengths):
            if i >= 2 and context(tokens, n, t) is None or math.isinf(strength):
                continue
            total = hits = 0.0
            for s in slots if i % 2 == 0 else [t]:
                for m in range(len(train)):
                    if not train.valid_NT[m, s]:
                        continue
                    if i >= 2 and context(train, m, s) != context(tokens, n, t):
                        continue
                    total += weights[m]
                    hits += weights[m] * (train.ids_NT[m, s] == tokens.ids_NT[n, t])
            p = (hits + strength * p) / (total + strength)
        found[n, t] = math.log(p)
    return found


@pytest.mark.parametrize("dense", [0, 1 << 22])
@pytest.mark.parametrize("modality", ["sound", "caption", "normals"])
def test_probabilities_are_those_of_a_plain_loop(modality, dense, monkeypatch):
    monkeypatch.setattr("nano4m.evaluate.ngram.DENSE_KEYS", dense)
    table = tiny_table()
    entry = next(m for m in table.modalities if m.name == modality)
    rng = np.random.default_rng(0)

    def tokens(split):
        rows = table.rows(split)
        ids = np.asarray(table.ids[modality][rows])[:, 0]
        valid = np.ones(ids.shape, bool)
        if modality in table.lengths:
            valid = np.arange(entry.length) < table.lengths[modality][rows, :1]
        return Sequences(ids, valid, rng.integers(3, size=len(ids)))

    train, test = tokens("train"), tokens("val")
    weights = rng.random(len(train))
    for name, levels in CHAINS.items():
        strengths = tuple(rng.choice([0.25, 4.0, math.inf], size=len(levels)).tolist())
        chain = SmoothedCounts(
            TokenKeys(entry, 3), levels, Smoothing(strengths, False), train, weights
        )
        wanted = reference(entry, name, strengths, weights, train, test)
        assert chain.log_probs(test) == pytest.approx(wanted), (name, strengths)


@pytest.mark.parametrize("name", NAMES)
def test_each_codebook_has_its_own_ids_and_a_distribution_sums_to_one(name):
    modality = MODALITIES["sound"].with_tokens((3, 2), 10)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, size=(40, 6)) + np.array([0, 5] * 3)
    model = fitted(modality, sequences(ids, np.arange(40) % 2))
    assert model.choices == 5
    every = np.tile(ids[:1], (5, 1))
    every[:, 5] = np.arange(5, 10)
    found = model.log_probs(sequences(every))[name]
    assert np.exp(found[:, 5]).sum() == pytest.approx(1)


def test_counts_of_nothing_and_of_what_was_never_seen(monkeypatch):
    for dense in (0, 1 << 22):
        monkeypatch.setattr("nano4m.evaluate.ngram.DENSE_KEYS", dense)
        none = KeyCounts(Keys(np.zeros(0, int), 9), np.zeros(0))
        assert none(np.array([[1, 2]])).tolist() == [[0, 0]]
        some = KeyCounts(Keys(np.array([3, 3, 7, 9]), 9), np.array([1.0, 2.0, 1.0, 5.0]))
        # The key 9 stands for tokens without a context, which are not counted.
        assert some(np.array([0, 3, 5, 7, 9])).tolist() == [0, 3, 0, 1, 0]


# -- what they find ------------------------------------------------------------------------------


def test_a_bigram_finds_a_chain_that_a_unigram_cannot():
    modality = MODALITIES["sound"].with_tokens((16, 1), 8)
    rng = np.random.default_rng(1)
    steps = rng.random((400, 16)) < 0.1
    ids = (rng.integers(8, size=(400, 1)) + np.cumsum(1 + steps, axis=1)) % 8
    model = fitted(modality, sequences(ids[:200]))
    found = model.log_probs(sequences(ids[200:]))
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert -found["unigram"].mean() == pytest.approx(math.log(8), abs=0.05)
    assert entropy < -found["bigram"][:, 1:].mean() < entropy + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_class_unigram_beats_the_unigram_where_the_class_decides(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=600)
    own = rng.integers(32, size=(4, 16))
    is_own = rng.random((600, 16)) < 0.7
    ids = np.where(is_own, own[labels], rng.integers(32, size=(600, 16)))
    model = fitted(RGB, sequences(ids[:400], labels[:400]))
    found = nats(model, sequences(ids[400:], labels[400:]))
    assert found["class unigram"] < found["unigram"] - 0.4
    blind = fitted(RGB, sequences(ids[:400], rng.permutation(labels[:400])))
    other = nats(blind, sequences(ids[400:], labels[400:]))
    assert other["class unigram"] == pytest.approx(other["unigram"], abs=0.05)
    assert "class unigram" not in fitted(RGB, sequences(ids[:50], np.zeros(50, int))).chains


@pytest.mark.parametrize("seed", range(5))
def test_few_pictures_repeated_often_are_no_evidence_of_what_new_ones_are(seed):
    rng = np.random.default_rng(seed)
    # Nothing can be learnt: all ids are equally likely, and new pictures are new.
    pictures = rng.integers(32, size=(20, 16))
    ids = pictures[rng.integers(20, size=1500)]
    recordings = rng.integers(400, size=1500)  # each with pictures drawn anew
    labels = rng.integers(3, size=1500)
    model = fitted(RGB, sequences(ids, labels), recordings, seed)
    found = nats(model, sequences(rng.integers(32, size=(500, 16)), rng.integers(3, size=500)))
    for name in NAMES:
        assert found[name] < math.log(32) + 0.05, name
    # What is counted as if copies were independent is far above: the fault that this is about.
    naive = SmoothedCounts(
        TokenKeys(RGB, 3), CHAINS["unigram"], Smoothing((1.0, 16.0), False),
        sequences(ids), np.ones(len(ids)),
    )  # fmt: skip
    assert -naive.log_probs(sequences(rng.integers(32, size=(500, 16)))).mean() > math.log(32) + 0.5


@pytest.mark.parametrize("seed", range(3))
def test_few_skewed_pictures_give_a_unigram_below_uniform(seed):
    rng = np.random.default_rng(seed)
    skewed = rng.dirichlet(np.full(32, 0.3))
    pictures = rng.choice(32, p=skewed, size=(30, 16))
    ids = pictures[rng.integers(30, size=1500)]
    model = fitted(RGB, sequences(ids), seed=seed)
    found = nats(model, sequences(rng.choice(32, p=skewed, size=(500, 16))))
    entropy = -(skewed * np.log(skewed)).sum()
    assert entropy < found["unigram"] < entropy + 0.2 < math.log(32) - 0.2
    assert found["bigram"] < entropy + 0.3


def test_repeated_texts_are_real_frequencies():
    caption = MODALITIES["caption"].with_tokens((3,), 16)
    rng = np.random.default_rng(0)
    texts = np.array([[1, 2, 0], [3, 4, 0], [5, 6, 0]])
    ids = texts[rng.choice(3, p=[0.9, 0.05, 0.05], size=900)]
    model = fitted(caption, sequences(ids[:600]))
    assert not model.chains["unigram"].smoothing.is_distinct
    share = np.array([0.9, 0.05, 0.05])
    entropy = -(share * np.log(share)).sum() * 2 / 3
    assert nats(model, sequences(ids[600:]))["unigram"] == pytest.approx(entropy, abs=0.06)


def test_copies_and_recordings_are_held_out_together_unless_that_joins_all():
    copies = np.array([0, 1, 2, 0, 3, 4, 5])
    recordings = np.array([0, 0, 1, 2, 3, 4, 5])
    found = held_out_groups(copies, recordings)
    assert found[0] == found[1] == found[3] and len(set(found[[0, 2, 4, 5, 6]])) == 5
    rng = np.random.default_rng(0)
    copies, recordings = rng.integers(20, size=400), rng.integers(50, size=400)
    assert (held_out_groups(copies, recordings) == copies).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_held_out_clips_say_nothing_of_is_left_out(seed):
    """Each class is one recording: its class is never among the clips of the other folds."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), 6)
    own = rng.integers(32, size=(5, 16))[labels]
    train = sequences(np.where(rng.random(own.shape) < 0.5, own, rng.integers(32, size=own.shape)))
    train = Sequences(train.ids_NT, train.valid_NT, labels)
    test = Sequences(rng.integers(32, size=(30, 16)), train.valid_NT, labels)
    model = fitted(RGB, train, labels, seed, classes=5)
    assert model.chains["class unigram"].smoothing.strengths[2:] == (math.inf, math.inf)
    found = nats(model, test)
    assert found["class unigram"] == pytest.approx(found["unigram"])
    alone = fitted(RGB, sequences(own[:1]))
    assert nats(alone, test)["bigram"] == pytest.approx(math.log(32))


def test_a_sample_is_counted_of_more_clips_than_the_memory_holds(monkeypatch):
    table = tiny_table()
    entry = table.modalities[0]
    rows = table.rows("train")
    views = table.ids[entry.name].shape[1]
    assert fit_ngrams(table, entry, rows).sequences == len(rows) * views
    monkeypatch.setattr(ngram_smoothing, "MOST_TOKENS", 3 * views * entry.length)
    some = [fit_ngrams(table, entry, rows, seed) for seed in (0, 0)]
    assert some[0].sequences == some[1].sequences == 3 * views
    tokens = sequences(np.asarray(table.ids[entry.name][rows])[:, 0])
    assert nats(some[0], tokens) == nats(some[1], tokens)
