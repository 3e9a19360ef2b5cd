"""Probes: perfect answers score 1, shuffled or uniform ones chance, and every sum is checked."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from nano4m.config.model import ModelConfig
from nano4m.evaluate import likelihood_evaluator as evaluator_module
from nano4m.evaluate.caption_classification import (
    CaptionCandidates,
    candidates,
    classify,
    conditions,
)
from nano4m.evaluate.class_search import ClassSearch
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.likelihood_evaluator import LikelihoodEvaluator
from nano4m.evaluate.ngram_smoothing import fit_ngrams
from nano4m.evaluate.retrieval import retrieval_of
from nano4m.evaluate.trie import Trie
from nano4m.modalities import MODALITIES
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence
from nano4m.tokens.table import TokenSpec, TokenTable

CLASSES = ["ant", "bee", "cat"]
# One line a class and size: size, animal, verb, end; the last class has no verb.
TEXTS = {
    (0, 0): [2, 4, 7, 0], (0, 1): [3, 4, 7, 0],
    (1, 0): [2, 5, 8, 0], (1, 1): [3, 5, 8, 0],
    (2, 0): [2, 6, 0, 0], (2, 1): [3, 6, 9, 0],
}  # fmt: skip
SIZES = {"rgb": ((2, 2), 8), "sound": ((4, 1), 9), "caption": ((4,), 10)}


def make_table(per_class: int = 12, names: tuple[str, ...] = ("rgb", "sound", "caption")):
    """Clips whose picture and sound hold the class and a number; test clips copy train clips."""
    rows = []
    for k in range(3):
        for number in range(per_class):
            digits = [number // 16 % 4, number // 4 % 4, number % 4]
            rgb = [2 * k + 1, *digits]
            sound = [3 * k + 2, *(d + 2 for d in digits)]
            rows.append((k, {"rgb": rgb, "sound": sound, "caption": TEXTS[k, number % 2]}))
    rows = rows + rows
    n = len(rows)
    entries = tuple(MODALITIES[m].with_tokens(*SIZES[m]) for m in names)
    ids = {m: np.array([r[1][m] for r in rows], dtype=np.uint16)[:, None] for m in names}
    lengths = {}
    if "caption" in names:
        lengths["caption"] = (ids["caption"] == 0).argmax(2) + 1
    return TokenTable(
        token_spec=TokenSpec(entries, {m: "0" for m in names}),
        clip_ids=np.array([f"clip{i}" for i in range(n)]),
        labels=np.array([CLASSES[r[0]] for r in rows]),
        splits=np.array(["train"] * (n // 2) + ["test"] * (n // 2)),
        ids=ids,
        lengths=lengths,
    )


class States(NamedTuple):
    """Stands in for decoder states: what was given, and the slots that are asked for."""

    context: tuple[torch.Tensor, torch.Tensor]
    slots: torch.Tensor

    def __getitem__(self, index):
        return States(self.context, self.slots[index])


class Stub:
    """Stands in for the model: ``answer(given slots, asked slots)`` makes probabilities."""

    def __init__(self, table: TokenTable) -> None:
        self.tokens = TokenSequence(table.modalities)
        ids, valid = table.gather(np.arange(len(table.clip_ids)), None)
        self.ids, self.valid = torch.from_numpy(ids), torch.from_numpy(valid)
        self.device = torch.device("cpu")

    def to(self, device):
        return self

    def eval(self):
        return self

    def _slots(self, modality, coords):
        starts = torch.tensor([s.start for s in self.tokens.slices])
        columns = torch.tensor([1 if m.is_text else m.shape[1] for m in self.tokens.modalities])
        return starts[modality] + coords[..., 0] * columns[modality] + coords[..., 1]

    def encode(self, ids, modality, coords):
        return ids, self._slots(modality, coords)

    def decode(self, context, modality, coords):
        return States(context, self._slots(modality, coords))

    def logits(self, states, index, codebook=0):
        modality = self.tokens.modalities[index]
        whole = self.answer(*states.context, states.slots, modality.vocab_size)
        apart = whole.unflatten(-1, (modality.num_codebooks, -1))
        own = torch.as_tensor(codebook).expand(states.slots.shape)[..., None, None]
        return apart.take_along_dim(own, -2)[..., 0, :]

    def answer(self, ids, given, asked, vocab):
        """Log of uniform probabilities."""
        return torch.zeros(*asked.shape, vocab)


class Oracle(Stub):
    """Knows the world: the frequencies of tokens among the clips that agree with what is given."""

    def answer(self, ids, given, asked, vocab):
        """Log of the posterior, with a grain of doubt."""
        out = torch.empty(*asked.shape, vocab)
        for i in range(len(ids)):
            agree = (self.ids[:, given[i]] == ids[i]).all(1)
            agree &= self.valid[:, given[i]].all(1)
            if not agree.any():
                agree[:] = True
            for t, slot in enumerate(asked[i].tolist()):
                seen = self.ids[agree & self.valid[:, slot], slot]
                share = torch.bincount(seen, minlength=vocab).double() + 1e-6
                out[i, t] = (share / share.sum()).log()
        return out


def make_evaluator(table: TokenTable, model, rows: np.ndarray | None = None) -> LikelihoodEvaluator:
    rows = table.rows("test") if rows is None else rows
    ids, valid = table.gather(rows, None)
    return LikelihoodEvaluator(
        model=model,
        tokens=TokenSequence(table.modalities),
        rows=rows,
        ids_BL=torch.from_numpy(ids),
        valid_BL=torch.from_numpy(valid),
        labels=np.searchsorted(table.classes, table.labels[rows]),
        classes=table.classes,
        batch_size=16,
        seed=0,
    )


def random_model(table: TokenTable) -> FourM:
    model = FourM(ModelConfig(dim=32, encoder_depth=1, decoder_depth=1), table.modalities).eval()
    generator = torch.Generator().manual_seed(3)
    model.init_weights(generator)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def entropies(evaluator: LikelihoodEvaluator, table: TokenTable):
    """Cross-entropy of every modality; a sound lasts two seconds."""
    counts = [fit_ngrams(table, m, table.rows("train")) for m in table.modalities]
    return [cross_entropy(evaluator, own, target, 2.0) for target, own in enumerate(counts)]


def classification(evaluator: LikelihoodEvaluator, table: TokenTable, target: int = 2):
    """All probes of the class."""
    name = evaluator.names[target]
    texts = candidates(table, name, table.rows("train"), table.classes)
    captions = CaptionCandidates(evaluator, target, texts, 100_000)
    return [p for c in conditions(evaluator, target) for p in classify(captions, c).probes]


def retrieval(evaluator: LikelihoodEvaluator):
    """All probes of retrieval."""
    return [
        probe for target in range(len(evaluator.names)) for probe in retrieval_of(evaluator, target)
    ]


# -- cross-entropy -----------------------------------------------------------------------------


def test_cross_entropy_of_a_uniform_model_is_ln_v():
    table = make_table(4)
    evaluator = make_evaluator(table, Stub(table))
    for row, per_unit in zip(entropies(evaluator, table), (4, 2, row_length(table)), strict=True):
        assert row.bigram < row.unigram < row.uniform
        assert list(row.conditions.values()) == pytest.approx([row.uniform] * 6, abs=1e-5)
        others = set(evaluator.names) - {row.modality}
        named = {"nothing", "half of itself", "all others", "shuffled others"} | others
        assert set(row.conditions) == named
        assert set(row.bits) == named - {"half of itself"} | {"uniform", "unigram", "bigram"}
        for name, bits in row.bits.items():
            nats = row.conditions[name] if name in row.conditions else getattr(row, name)
            assert bits == pytest.approx(nats / math.log(2) * per_unit)
    assert [row.unit for row in entropies(evaluator, table)] == ["picture", "second", "text"]


def row_length(table: TokenTable) -> float:
    """Mean length of a judged caption."""
    return float(table.lengths["caption"][table.rows("test"), 0].mean())


def test_cross_entropy_of_an_oracle_orders_the_conditions():
    table = make_table()
    found = entropies(make_evaluator(table, Oracle(table)), table)
    by_name = {row.modality: row for row in found}
    for target, source in (("rgb", "sound"), ("sound", "rgb"), ("caption", "sound")):
        conditions = by_name[target].conditions
        assert conditions[source] == pytest.approx(0, abs=1e-4)
        assert conditions["nothing"] > 0.4
        assert conditions["shuffled others"] > conditions["nothing"]
    # The sizes of 12 clips a class and the three animals: two fair draws a caption.
    text = by_name["caption"]
    lengths = table.lengths["caption"][table.rows("test"), 0]
    entropy = math.log(2) + math.log(3)
    assert text.tokens == lengths.sum()
    assert text.conditions["nothing"] == pytest.approx(entropy / lengths.mean(), abs=1e-3)


# -- classification ----------------------------------------------------------------------------


def test_trie_likelihood_is_the_chain_rule():
    table = make_table(4)
    evaluator = make_evaluator(table, random_model(table))
    texts = [tuple(text[: text.index(0) + 1]) for text in TEXTS.values()]
    ids, given = evaluator.inputs([1])
    trie = Trie([[text] for text in texts])
    found = ClassSearch(evaluator, ids, given, 2, trie).look_up_all()
    start = evaluator.tokens.slices[2].start
    for clip in (0, 5):
        for j, text in enumerate(texts):
            one, shown, total = ids[[clip]].clone(), given[[clip]].clone(), 0.0
            for n, token in enumerate(text):
                own = torch.tensor([[[token]]])
                total += float(evaluator.pick(one, shown, torch.tensor([[start + n]]), own))
                one[0, start + n], shown[0, start + n] = token, True
            assert found[clip, j] == pytest.approx(total, abs=1e-4)
    assert evaluator.own_autoregressive(2, ids, given)[0] == pytest.approx(found[0, 0], abs=1e-4)


def test_candidates_are_the_captions_of_each_class():
    table = make_table(4)
    found = candidates(table, "caption", table.rows("train"), table.classes)
    assert [sorted(own) for own in found] == [
        [(2, 4, 7, 0), (3, 4, 7, 0)],
        [(2, 5, 8, 0), (3, 5, 8, 0)],
        [(2, 6, 0), (3, 6, 9, 0)],
    ]


# -- leaks -------------------------------------------------------------------------------------


def test_a_model_that_peeks_at_what_is_asked_finds_nothing(monkeypatch):
    def peek(model, tokens, ids, given, asked, batch_size, count):
        vocab = tokens.modalities[int(tokens.modality_L[asked[0, 0]])].vocab_size
        seen = torch.nn.functional.one_hot(ids.gather(1, asked), vocab).float()
        yield torch.arange(len(ids)), 0, (seen * 0.9 + 0.1 / vocab).log()[:, :count]

    monkeypatch.setattr(evaluator_module, "log_prob_parts", peek)
    table = make_table(8)
    evaluator = make_evaluator(table, Stub(table))
    for row in entropies(evaluator, table):
        assert min(row.conditions.values()) > 0.5
    for probe in retrieval(evaluator):
        assert probe.score.value == pytest.approx(probe.score.chance, abs=1e-6)
        assert not probe.is_above
    for probe in classification(evaluator, table):
        assert probe.score.value == pytest.approx(1 / 3) and not probe.is_above
