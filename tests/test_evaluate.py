"""Probes: perfect answers score 1, shuffled or uniform ones chance, and every sum is checked."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nano4m.batch import TokenSequence
from nano4m.config import Config, EvaluateConfig, ModelConfig, TrainConfig
from nano4m.errors import UserError
from nano4m.evaluate import bench as bench_module
from nano4m.evaluate.bench import Bench
from nano4m.evaluate.classify import candidates, caption_begun, classify, conditions
from nano4m.evaluate.coherence import directions_into
from nano4m.evaluate.counting import count_tokens
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.desk import Materials, build_bench, choose_clips
from nano4m.evaluate.judges import UNKNOWN, train_judge
from nano4m.evaluate.results import read_results
from nano4m.evaluate.retrieval import information, retrieval_of
from nano4m.evaluate.run import evaluate_run
from nano4m.evaluate.stats import (
    balanced_accuracy,
    bootstrap,
    bootstrap_difference,
    derangement,
    hits_at,
    recall_at,
    score,
)
from nano4m.evaluate.trie import Search, Trie, text_log_probs
from nano4m.modalities import MODALITIES
from nano4m.model.fourm import FourM
from nano4m.table import TokenTable, Vocabulary

CLASSES = ["ant", "bee", "cat"]
# One line a class and size: size, animal, verb, end; the last class has no verb.
TEXTS = {
    (0, 0): [2, 4, 7, 0], (0, 1): [3, 4, 7, 0],
    (1, 0): [2, 5, 8, 0], (1, 1): [3, 5, 8, 0],
    (2, 0): [2, 6, 0, 0], (2, 1): [3, 6, 9, 0],
}  # fmt: skip
SIZES = {"rgb": ((2, 2), 8), "sound": ((4, 1), 9), "caption": ((4,), 10)}
SAMPLES, RATE = 1024, 16000


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
        vocabulary=Vocabulary(entries, {m: "0" for m in names}),
        clip_ids=np.array([f"clip{i}" for i in range(n)]),
        labels=np.array([CLASSES[r[0]] for r in rows]),
        splits=np.array(["train"] * (n // 2) + ["test"] * (n // 2)),
        ids=ids,
        lengths=lengths,
    )


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
        return context, self._slots(modality, coords)

    def logits(self, states, index):
        return self.answer(*states[0], states[1], self.tokens.modalities[index].vocab_size)

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


def make_bench(table: TokenTable, model, rows: np.ndarray | None = None) -> Bench:
    rows = table.rows("test") if rows is None else rows
    ids, valid = table.gather(rows, None)
    return Bench(
        model=model,
        tokens=TokenSequence(table.modalities),
        rows=rows,
        ids_BL=torch.from_numpy(ids),
        valid_BL=torch.from_numpy(valid),
        labels=np.searchsorted(table.classes, table.labels[rows]),
        classes=table.classes,
        batch_size=16,
        seed=0,
        resamples=100,
    )


def random_model(table: TokenTable) -> FourM:
    model = FourM(ModelConfig(dim=32, encoder_depth=1, decoder_depth=1), table.modalities).eval()
    generator = torch.Generator().manual_seed(3)
    model.init_weights(generator)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def entropies(bench: Bench, table: TokenTable):
    """Cross-entropy of every modality; a sound lasts two seconds."""
    counts = [count_tokens(table, m, table.rows("train")) for m in table.modalities]
    return [cross_entropy(bench, own, target, 2.0) for target, own in enumerate(counts)]


def classification(bench: Bench, table: TokenTable, target: int = 2):
    """All probes of the class."""
    name = bench.names[target]
    texts = candidates(table, name, table.rows("train"), table.classes)
    begun = caption_begun(bench, target, texts)
    trie = Trie(texts)
    return [classify(bench, trie, begun, target, c) for c in conditions(bench, target)]


def retrieval(bench: Bench):
    """All probes of retrieval."""
    return [probe for target in range(len(bench.names)) for probe in retrieval_of(bench, target)]


# -- statistics --------------------------------------------------------------------------------


def test_the_interval_of_a_difference_is_of_pairs():
    rng = np.random.default_rng(0)
    fewer = rng.random(400) < 0.5
    more = fewer | (rng.random(400) < 0.1)
    found = bootstrap_difference(more, fewer, np.random.default_rng(1), 1000)
    assert found["value"] == pytest.approx((more & ~fewer).mean())
    assert 0 < found["low"] < found["value"] < found["high"] < 0.09
    # Unpaired, the interval would be three times as wide and hold 0.
    other = bootstrap_difference(more, rng.permutation(fewer), np.random.default_rng(1), 1000)
    assert other["low"] < 0 < other["high"]
    same = bootstrap_difference(more, more, rng, 100)
    assert same["value"] == 0 and same["high"] == -same["low"] == pytest.approx(0.00918, abs=1e-4)
    for sign, pair in ((1, (True, False)), (-1, (False, True))):
        all_alike = bootstrap_difference(*(np.full(400, v) for v in pair), rng, 100)
        ends = sorted((sign, sign * (1 - same["high"])))
        assert [all_alike["low"], all_alike["high"]] == pytest.approx(ends)
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_difference(more, fewer[:3], rng, 100)


def test_bootstrap_is_seeded_and_agrees_with_the_normal_interval():
    values = np.arange(400) % 2
    interval = bootstrap(values, np.random.default_rng(0), 2000)
    assert interval == bootstrap(values, np.random.default_rng(0), 2000)
    assert interval == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.006)


def test_outcomes_without_spread_are_not_certain():
    low, high = bootstrap(np.ones(20), np.random.default_rng(0), 100)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 20))
    assert bootstrap(np.zeros(20), np.random.default_rng(0), 100) == pytest.approx((0, 1 - low))
    with pytest.raises(ValueError, match="no values"):
        bootstrap(np.zeros(0), np.random.default_rng(0), 100)


def test_score_by_hand():
    labels = np.array([0, 0, 0, 1])
    correct = np.array([True, True, False, False])
    assert balanced_accuracy(correct, labels) == pytest.approx((2 / 3 + 0) / 2)
    found = score(correct, labels, 4, np.random.default_rng(0), 200, upper=0.9, controls={"x": 0.1})
    assert (found.value, found.chance, found.majority, found.n) == (0.5, 0.25, 0.75, 4)
    assert found.balanced == pytest.approx(1 / 3) and found.upper == 0.9
    assert found.low <= found.value <= found.high and found.controls == {"x": 0.1}


def test_recall_by_hand_with_ties():
    scores = np.array([[3.0, 1, 0], [2, 2, 1], [5, 4, 0]])
    assert hits_at(scores, 1) == pytest.approx([1, 0.5, 0])
    assert hits_at(scores, 2) == pytest.approx([1, 1, 0])
    assert hits_at(np.zeros((8, 8)), 2) == pytest.approx([0.25] * 8)
    assert recall_at(np.zeros((8, 8)), 2, np.random.default_rng(0), 100).chance == 0.25


def test_derangement_moves_every_clip():
    for n in (2, 3, 50):
        moved = derangement(n, np.random.default_rng(n))
        assert sorted(moved) == list(range(n)) and (moved != np.arange(n)).all()
    with pytest.raises(ValueError, match="two or more"):
        derangement(1, np.random.default_rng(0))


# -- cross-entropy -----------------------------------------------------------------------------


def test_cross_entropy_of_a_uniform_model_is_ln_v():
    table = make_table(4)
    bench = make_bench(table, Stub(table))
    for row, per_unit in zip(entropies(bench, table), (4, 2, row_length(table)), strict=True):
        assert row.bigram < row.unigram < row.uniform
        assert list(row.conditions.values()) == pytest.approx([row.uniform] * 6, abs=1e-5)
        others = set(bench.names) - {row.modality}
        named = {"nothing", "half of itself", "all others", "shuffled others"} | others
        assert set(row.conditions) == named
        assert set(row.bits) == named - {"half of itself"} | {"uniform", "unigram", "bigram"}
        for name, bits in row.bits.items():
            nats = row.conditions[name] if name in row.conditions else getattr(row, name)
            assert bits == pytest.approx(nats / math.log(2) * per_unit)
    assert [row.unit for row in entropies(bench, table)] == ["picture", "second", "text"]


def row_length(table: TokenTable) -> float:
    """Mean length of a judged caption."""
    return float(table.lengths["caption"][table.rows("test"), 0].mean())


def test_cross_entropy_of_an_oracle_orders_the_conditions():
    table = make_table()
    found = entropies(make_bench(table, Oracle(table)), table)
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
    bench = make_bench(table, random_model(table))
    texts = [tuple(text[: text.index(0) + 1]) for text in TEXTS.values()]
    ids, given = bench.given([1])
    found = text_log_probs(bench, ids, given, 2, texts)
    start = bench.tokens.slices[2].start
    for clip in (0, 5):
        for j, text in enumerate(texts):
            one, shown, total = ids[[clip]].clone(), given[[clip]].clone(), 0.0
            for n, token in enumerate(text):
                log_p = bench.ask(one, shown, torch.tensor([[start + n]]))
                total += float(log_p[0, 0, token])
                one[0, start + n], shown[0, start + n] = token, True
            assert found[clip, j] == pytest.approx(total, abs=1e-4)
    assert bench.own_in_order(2, ids, given)[0] == pytest.approx(found[0, 0], abs=1e-4)


def test_the_best_class_is_that_of_all_captions():
    table = make_table(8)
    bench = make_bench(table, random_model(table))
    trie = Trie(candidates(table, "caption", table.rows("train"), table.classes))
    assert len(trie.prefixes) == 1 + 2 + 6 + 6 + 5  # nothing, sizes, animals, ends, ends
    full = Search(bench, *bench.given([0]), 2, trie)
    full.expand_all()
    best = Search(bench, *bench.given([0]), 2, trie)
    assert (best.best_class() == full.class_scores().argmax(1)).all()
    assert np.exp(full.class_scores()).sum(1).max() <= 1 + 1e-6
    assert best.front_RN[:, trie.is_leaf_N].sum() < full.front_RN.sum()


def test_candidates_are_the_captions_of_each_class():
    table = make_table(4)
    found = candidates(table, "caption", table.rows("train"), table.classes)
    assert [sorted(own) for own in found] == [
        [(2, 4, 7, 0), (3, 4, 7, 0)],
        [(2, 5, 8, 0), (3, 5, 8, 0)],
        [(2, 6, 0), (3, 6, 9, 0)],
    ]


def test_an_oracle_classifies_and_its_shuffled_control_is_chance():
    table = make_table(24)
    probes = classification(make_bench(table, Oracle(table)), table)
    assert [p.source for p in probes] == ["rgb", "sound", "all"]
    for probe in probes:
        assert probe.score.value == probe.score.balanced == 1
        assert probe.score.controls["shuffled"] == pytest.approx(1 / 3, abs=0.15)
        assert probe.score.controls["caption begun"] == 1


def test_a_uniform_model_classifies_at_chance():
    table = make_table(8)
    for probe in classification(make_bench(table, Stub(table)), table):
        assert probe.score.value == pytest.approx(1 / 3) and probe.score.balanced < 0.34
        assert probe.score.controls["caption begun"] < 0.75


def test_caption_begun_is_left_out_where_nothing_is_left_to_rate():
    table = make_table(4)
    ids = table.ids["caption"].copy()
    ids[:] = 0
    ids[..., 0] = (np.searchsorted(CLASSES, table.labels) + 4)[:, None]
    short = TokenTable(
        table.vocabulary, table.clip_ids, table.labels, table.splits,
        dict(table.ids) | {"caption": ids}, {"caption": np.full((len(ids), 1), 2)},
    )  # fmt: skip
    bench = make_bench(short, Oracle(short))
    texts = candidates(short, "caption", short.rows("train"), short.classes)
    assert caption_begun(bench, 2, texts) is None


# -- retrieval ---------------------------------------------------------------------------------


def test_a_planted_bijection_is_retrieved():
    table = make_table()
    probes = retrieval(make_bench(table, Oracle(table)))
    pairs = {(p.source, p.target) for p in probes}
    assert pairs == {("rgb", "sound"), ("sound", "rgb"), ("caption", "rgb"), ("caption", "sound")}
    for probe in probes:
        if probe.source != "caption":
            assert probe.score.value == 1
            assert probe.score.controls["shuffled"] <= 2 * probe.score.chance
        else:  # six clips share a caption and are equally likely
            assert probe.score.value == pytest.approx(probe.score.chance * 6, abs=0.01)


def test_a_uniform_model_retrieves_at_chance():
    table = make_table(4)
    for probe in retrieval(make_bench(table, Stub(table))):
        assert probe.score.value == pytest.approx(probe.score.chance)


def test_a_candidate_that_is_likely_with_any_source_does_not_win(monkeypatch):
    table = make_table()
    bench = make_bench(table, Oracle(table))
    joint, alone = np.zeros((36, 36)) - 9.0, np.full(36, -10.0)
    np.fill_diagonal(joint, -8.0)
    joint[:, 3], alone[3] = -1.0, -2.0
    bench._pairs[0, 1] = joint
    assert hits_at(joint, 1).mean() < 0.1
    monkeypatch.setattr(Bench, "alone", lambda self, target: alone)
    joint[3, 3] = 0.0
    assert hits_at(information(bench, 0, 1), 1).mean() == 1


# -- leaks -------------------------------------------------------------------------------------


def test_a_model_that_peeks_at_what_is_asked_finds_nothing(monkeypatch):
    def peek(model, tokens, ids, given, asked, batch_size):
        vocab = tokens.modalities[int(tokens.modality_L[asked[0, 0]])].vocab_size
        seen = torch.nn.functional.one_hot(ids.gather(1, asked), vocab).float()
        return (seen * 0.9 + 0.1 / vocab).log()

    monkeypatch.setattr(bench_module, "log_probs", peek)
    table = make_table(8)
    bench = make_bench(table, Stub(table))
    for row in entropies(bench, table):
        assert min(row.conditions.values()) > 0.5
    for probe in retrieval(bench):
        assert probe.score.value == pytest.approx(probe.score.chance, abs=1e-6)
    for probe in classification(bench, table):
        assert probe.score.value == pytest.approx(1 / 3)


# -- clips and judges --------------------------------------------------------------------------


def test_chosen_clips_are_balanced_and_of_different_recordings():
    labels = np.array(["a"] * 40 + ["b"] * 10)
    videos = np.array([f"v{i // 4}" for i in range(50)])
    rows = np.arange(100, 150)
    chosen = choose_clips(rows, labels, videos, 16, np.random.default_rng(0))
    assert (chosen == choose_clips(rows, labels, videos, 16, np.random.default_rng(0))).all()
    own = labels[chosen - 100]
    assert len(set(chosen)) == 16 and (own == "a").sum() == (own == "b").sum() == 8
    assert len(set(videos[chosen - 100][own == "a"])) == 8
    assert (choose_clips(rows, labels, videos, 999, np.random.default_rng(0)) == rows).all()


class FakeClips:
    """Media that the ids of a table stand for: a picture of 2 x 2 greys, a tone a token, words."""

    def __init__(self, table: TokenTable) -> None:
        self.table, self.folder = table, Path("clips")
        self.clip_ids, self.labels = table.clip_ids, table.labels
        self.video_ids, self.sample_rate, self.num_frames = table.clip_ids, RATE, 1
        self.tokenizers = {m.name: FakeTokenizer(m.name) for m in table.modalities}

    def media(self, kind, rows, frame=None):
        name = next(m.name for m in self.table.modalities if m.media == kind)
        shape = (-1, *SIZES[name][0])
        ids = torch.from_numpy(self.table.ids[name][rows, 0].astype(np.int64)).reshape(shape)
        media = self.tokenizers[name].decode(ids)
        return media[:, None] if kind == "picture" and frame is None else media


class FakeTokenizer:
    """Exact both ways."""

    def __init__(self, name: str) -> None:
        self.name = name

    def decode(self, ids):
        if self.name == "rgb":
            grey = (ids.float() / 8).repeat_interleave(4, 1).repeat_interleave(4, 2)
            return grey[:, None].repeat(1, 3, 1, 1)
        if self.name == "sound":
            time = torch.arange(SAMPLES) / SAMPLES * 2 * math.pi
            return (torch.sin((ids + 1) * 24 * time) * 0.5).flatten(1)
        return [" ".join(str(i) for i in row) for row in ids.tolist()]

    def encode(self, media):
        if self.name == "rgb":
            return (media[:, 0, ::4, ::4] * 8).round().long()
        if self.name == "sound":
            peak = torch.fft.rfft(media.view(len(media), -1, SAMPLES)).abs().argmax(2)
            return (peak // 24 - 1)[..., None]
        return torch.tensor([[int(i) for i in text.split()] for text in media])


def test_judges_learn_and_are_seeded():
    table = make_table(32)
    clips, rows = FakeClips(table), table.rows("train")
    labels = np.searchsorted(CLASSES, table.labels)
    for kind in ("picture", "sound", "caption"):
        judge = train_judge(kind, clips, rows, labels[rows], 3, 60, 0)
        found = judge.predict(clips.media(kind, table.rows("test"), frame=0))
        assert (found == labels[table.rows("test")]).mean() > 0.9, kind
    first, again = (
        train_judge("picture", clips, rows, labels[rows], 3, 5, 1).predict(
            clips.media("picture", rows, frame=0)
        )
        for _ in range(2)
    )
    assert (first == again).all()


def test_an_unknown_caption_is_wrong_and_a_shared_one_its_commonest_class():
    texts = ["a", "a", "a", "b"]
    clips = SimpleNamespace(
        num_frames=1, sample_rate=RATE, media=lambda kind, rows: [texts[i] for i in rows]
    )
    judge = train_judge("caption", clips, np.arange(4), np.array([1, 0, 1, 2]), 3, 1, 0)
    assert judge.predict(["a", "b", "c", ""]).tolist() == [1, 2, UNKNOWN, UNKNOWN]


# -- all together ------------------------------------------------------------------------------


class TruthJudge:
    """Reads the class of a picture off its first token."""

    def predict(self, media):
        return ((media[:, 0, 0, 0] * 8).round().long().numpy() - 1) // 2


def test_coherence_of_an_oracle_and_of_a_uniform_model():
    table = make_table()
    config = Config(tokenizers=Config.model_validate(PRESET).tokenizers).generate
    for model, value in ((Oracle(table), 1.0), (Stub(table), 0.25)):
        bench = make_bench(table, model)
        tokenizers = {"rgb": FakeTokenizer("rgb")}
        cells, both, made = directions_into(bench, 0, config, tokenizers, TruthJudge(), 1.0)
        assert both.target == "rgb" and set(both.over) == {"sound", "caption"}
        assert both.coherence.value == pytest.approx(value, abs=0.25 * (value < 1))
        for cell in cells:
            gain = both.over[cell.source]
            assert gain.value == pytest.approx(both.coherence.value - cell.coherence.value)
            assert gain.low <= gain.value <= gain.high
        assert [(c.source, c.target) for c in cells] == [("sound", "rgb"), ("caption", "rgb")]
        assert set(made) == {"sound->rgb", "caption->rgb"} and made["sound->rgb"].shape == (36, 4)
        none, both, made = directions_into(bench, 2, config, {}, None, None)
        assert not none and both is None and set(made) == {"rgb->caption", "sound->caption"}
        for cell in cells:
            assert cell.coherence.value == pytest.approx(value, abs=0.25 * (value < 1))
            assert cell.coherence.controls["shuffled"] == pytest.approx(1 / 3, abs=0.25)
            assert cell.coherence.upper == 1
            assert cell.diversity.generated.within > 0 and cell.diversity.real.within > 0
    assert (made["rgb->caption"].dtype, made["rgb->caption"].shape) == (np.uint16, (36, 4))


def test_together_is_made_from_all_sources_and_each_cell_from_its_own():
    table = make_table(8)

    class Seen(Oracle):
        """Keeps which modalities it was shown."""

        shown: set[tuple[int, ...]] = set()

        def answer(self, ids, given, asked, vocab):
            for row in given:
                self.shown.add(tuple(sorted({int(self.tokens.modality_L[s]) for s in row} - {0})))
            return super().answer(ids, given, asked, vocab)

    config = Config(tokenizers=Config.model_validate(PRESET).tokenizers).generate
    bench = make_bench(table, Seen(table))
    directions_into(bench, 0, config, {"rgb": FakeTokenizer("rgb")}, TruthJudge(), 1.0)
    assert Seen.shown == {(1,), (2,), (1, 2)}


PRESET = {
    "tokenizers": {
        "rgb": {"kind": "image_vq"},
        "sound": {"kind": "mel_vq"},
        "caption": {"kind": "bpe"},
    }
}


@pytest.mark.parametrize(
    "names", [("rgb", "sound", "caption"), ("rgb", "sound"), ("sound", "caption")]
)
def test_evaluate_run_writes_what_it_returns(tmp_path, names):
    table = make_table(24, names)
    clips = FakeClips(table)
    config = Config(
        tokenizers={k: v for k, v in PRESET["tokenizers"].items() if k in names},
        evaluate=EvaluateConfig(clips=30, judge_steps=60, bootstrap=100, workers=0),
        train=TrainConfig(device="cpu"),
    )
    context = {"provenance": {"commit": "x"}, "clips": {}, "tokenizers": {}, "training": {}}
    context["seconds"] = {"train": 1.0}
    materials = Materials(clips, clips.tokenizers, table, Oracle(table))
    results = evaluate_run(config, lambda: materials, tmp_path, context)
    written = tmp_path / "results.json"
    assert read_results(written) == results
    old = json.loads(written.read_text()) | {"schema_version": 2}
    del old["together"]
    written.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"\(together: Field required\); measure.*evaluate PRESET"):
        read_results(written)
    written.write_text(written.read_text()[:-9])
    with pytest.raises(UserError, match="damaged or of another version .Invalid JSON"):
        read_results(written)
    assert [row.modality for row in results.cross_entropy] == list(names)
    assert {(d.source, d.target) for d in results.matrix} == {
        (s, t) for s in names for t in names if s != t
    }
    assert all(d.coherence.n == 30 and d.coherence.value > 0.8 for d in results.matrix)
    assert [t.target for t in results.together] == (list(names) if len(names) > 2 else [])
    assert all(j.accuracy.upper == j.accuracy.value > 0.8 for j in results.judges)
    with np.load(tmp_path / "generated.npz") as made:
        assert len(made["clip_ids"]) == 30 and len(made.files) == 1 + len(results.matrix)
        assert made[f"{names[0]}->{names[1]}"].dtype == np.uint16
    assert set(results.seconds) == {"train", "evaluate"}


def test_a_split_without_clips_and_a_foreign_table_are_refused():
    table = make_table(4)
    clips = FakeClips(table)
    config = Config(**PRESET, evaluate=EvaluateConfig(split="val"))
    with pytest.raises(UserError, match="val split has 0 clips"):
        build_bench(config, clips, table, Stub(table))
    config = Config(**PRESET)
    clips.labels = np.roll(clips.labels, 1)
    with pytest.raises(UserError, match="another label"):
        build_bench(config, clips, table, Stub(table))
    clips.clip_ids = np.array([f"other{i}" for i in range(len(table.clip_ids))])
    with pytest.raises(UserError, match="are not in"):
        build_bench(config, clips, table, Stub(table))
