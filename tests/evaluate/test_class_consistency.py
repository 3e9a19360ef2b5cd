"""Classifiers, the any-to-any matrix and a whole evaluation, of models that know all or nothing."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from test_evaluate import CLASSES, SIZES, Oracle, Stub, make_evaluator, make_table

from nano4m.config.run import Config, EvaluateConfig
from nano4m.errors import UserError
from nano4m.evaluate import class_consistency
from nano4m.evaluate.class_consistency import directions_into
from nano4m.evaluate.classifiers import train_classifier
from nano4m.evaluate.context import EvalContext, RunArtifacts, build_evaluator, choose_clips
from nano4m.evaluate.results import read_results
from nano4m.evaluate.run import evaluate_run
from nano4m.evaluate.tasks import classifier_of
from nano4m.evaluate.word_classifier import UNKNOWN
from nano4m.tokens.table import TokenTable

SAMPLES, RATE = 1024, 16000


# -- clips and classifiers ----------------------------------------------------------------------


def test_chosen_clips_are_balanced_and_of_different_recordings():
    labels = np.array(["a"] * 40 + ["b"] * 10)
    videos = np.arange(50) // 4
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
        self.groups, self.pictures = table.clip_ids, [(clip,) for clip in table.clip_ids]
        self.sample_rate, self.num_frames = RATE, 1
        self.tokenizers = {m.name: FakeTokenizer(m.name) for m in table.modalities}

    def present(self, kind):
        return np.ones(len(self.clip_ids), dtype=bool)

    @property
    def captions(self):
        text = next((m for m in self.table.modalities if m.is_text), None)
        found = self.media(text.media, np.arange(len(self.clip_ids))) if text else []
        return [(caption,) for caption in found]

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

    def usable(self, texts, section):
        return list(texts)

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
        classifier = train_classifier(kind, clips, rows, labels[rows], 3, 60, 0)
        found = classifier.predict(clips.media(kind, table.rows("test"), frame=0))
        assert (found == labels[table.rows("test")]).mean() > 0.9, kind
    first, again = (
        train_classifier("picture", clips, rows, labels[rows], 3, 5, 1).predict(
            clips.media("picture", rows, frame=0)
        )
        for _ in range(2)
    )
    assert (first == again).all()


def test_an_unknown_caption_is_wrong_and_a_shared_one_its_commonest_class():
    texts = [("a",), ("a",), ("a",), ("b",)]
    clips = SimpleNamespace(
        num_frames=1,
        sample_rate=RATE,
        captions=texts,
        present=lambda kind: np.ones(4, dtype=bool),
    )
    classifier = train_classifier("caption", clips, np.arange(4), np.array([1, 0, 1, 2]), 3, 1, 0)
    assert classifier.predict(["a", "b", "c", ""]).tolist() == [1, 2, UNKNOWN, UNKNOWN]


# -- all together ------------------------------------------------------------------------------


class TruthJudge:
    """Reads the class of a picture off its first token."""

    def predict(self, media):
        return ((media[:, 0, 0, 0] * 8).round().long().numpy() - 1) // 2


@pytest.mark.parametrize("shift, same", [(1, 33 / 36), (12, 0.0)])
def test_an_oracle_is_right_and_a_uniform_model_as_often_as_its_ids_say(monkeypatch, shift, same):
    """Every figure is counted again from the ids; clips are sorted by class, twelve of each."""
    monkeypatch.setattr(
        class_consistency, "derangement", lambda n, rng: np.roll(np.arange(n), shift)
    )
    table = make_table()
    config = Config(tokenizers=Config.model_validate(PRESET).tokenizers).generate
    hits = []
    for model in (Oracle(table), Stub(table)):
        is_oracle = isinstance(model, Oracle)
        evaluator = make_evaluator(table, model)
        tokenizers = {"rgb": FakeTokenizer("rgb")}
        cells, both, made = directions_into(evaluator, 0, config, tokenizers, TruthJudge(), 1.0)
        assert both.target == "rgb" and set(both.gain_over) == {"sound", "caption"}
        assert [(c.source, c.target) for c in cells] == [("sound", "rgb"), ("caption", "rgb")]
        assert set(made) == {"sound->rgb", "caption->rgb"} and made["sound->rgb"].shape == (36, 4)
        if is_oracle:
            assert both.class_consistency.value == 1
        for cell in cells:
            found, labels = (
                (made[f"{cell.source}->rgb"][:, 0].astype(int) - 1) // 2,
                evaluator.labels,
            )
            hits += [] if is_oracle else (found == labels).tolist()
            own = cell.class_consistency
            assert own.value == pytest.approx((found == labels).mean())
            shuffled = own.controls["shuffled"]
            assert shuffled.value == pytest.approx((found == np.roll(labels, shift)).mean())
            if is_oracle:
                # Of the 35 other clips, 11 have the class that an oracle finds.
                assert own.value == 1 and shuffled.value == pytest.approx(same)
                assert shuffled.expected == pytest.approx(11 / 35)
            assert own.round_trip == 1
            gain = both.gain_over[cell.source]
            assert gain.value == pytest.approx(both.class_consistency.value - own.value)
            assert gain.low <= gain.value <= gain.high
            assert cell.diversity.generated.within > 0 and cell.diversity.real.within > 0
        plain, both, made = directions_into(evaluator, 2, config, {}, None, None)
        assert both is None and set(made) == {"rgb->caption", "sound->caption"}
        assert all(c.class_consistency is None and c.diversity for c in plain)
    # Two of eight ids are of a clip's class; the draws of two sources are 72.
    assert binomtest(sum(hits), len(hits), 2 / 8).pvalue > 1e-3 and len(hits) == 72
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
    evaluator = make_evaluator(table, Seen(table))
    directions_into(evaluator, 0, config, {"rgb": FakeTokenizer("rgb")}, TruthJudge(), 1.0)
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
        evaluate=EvaluateConfig(clips=30, classifier_steps=60, workers=0),
        device="cpu",
    )
    context = {"provenance": {"commit": "x"}, "clips": {}, "tokenizers": {}, "training": {}}
    context["seconds"] = {"train": 1.0}
    artifacts = RunArtifacts(clips, clips.tokenizers, table, Oracle(table))
    results = evaluate_run(config, lambda: artifacts, tmp_path, context)
    written = tmp_path / "results.json"
    assert read_results(written) == results
    old = json.loads(written.read_text()) | {"schema_version": 2}
    del old["all_sources"]
    written.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"is damaged \(all_sources: Field required\)"):
        read_results(written)
    written.write_text(written.read_text()[:-9])
    with pytest.raises(UserError, match="is damaged"):
        read_results(written)
    assert [row.modality for row in results.cross_entropy] == list(names)
    assert {(d.source, d.target) for d in results.matrix} == {
        (s, t) for s in names for t in names if s != t
    }
    assert all(
        d.class_consistency.n == 30 and d.class_consistency.value > 0.8 for d in results.matrix
    )
    assert [t.target for t in results.all_sources] == (list(names) if len(names) > 2 else [])
    assert all(j.accuracy.round_trip == j.accuracy.value > 0.8 for j in results.classifiers)
    assert all(j.train.n == 72 and j.train.value > 0.8 for j in results.classifiers)
    copied = [(m.source, m.target) for m in results.memorization]
    alone = {(d.source, d.target) for d in results.matrix}
    assert set(copied) == alone | {(None, n) for n in names if len(names) > 2}
    assert len(copied) == len(set(copied)) and all(
        len(m.closest) == 3 for m in results.memorization
    )
    with np.load(tmp_path / "generated.npz") as made:
        assert len(made["clip_ids"]) == 30 and len(made.files) == 1 + len(results.matrix)
        assert made[f"{names[0]}->{names[1]}"].dtype == np.uint16
    assert set(results.seconds) == {"train", "evaluate"}


def test_a_run_of_one_class_has_all_but_classes(tmp_path):
    table = make_table(24)
    table.labels[:] = "cat"
    clips = FakeClips(table)
    config = Config(
        **PRESET, evaluate=EvaluateConfig(clips=12, classifier_steps=5, workers=0), device="cpu"
    )
    about = {"provenance": {}, "clips": {}, "tokenizers": {}, "training": {}, "seconds": {}}
    artifacts = RunArtifacts(clips, clips.tokenizers, table, Oracle(table))
    results = evaluate_run(config, lambda: artifacts, tmp_path, about)
    assert read_results(tmp_path / "results.json") == results
    assert not results.classifiers and not results.all_sources and not results.consistencies
    assert len(results.matrix) == 6 and all(d.diversity for d in results.matrix)
    assert len(results.cross_entropy) == 3 and len(results.continuation) == 2
    assert len(results.memorization) == 3 + 6
    assert all("caption" not in entry.baselines for entry in results.cross_entropy)


def test_the_figure_on_train_media_tells_what_is_known_by_heart():
    """New pictures have classes of their own: a classifier can only know those it has seen."""
    table = make_table(16)
    rng = np.random.default_rng(0)
    ids = rng.integers(8, size=table.ids["rgb"].shape).astype(np.uint16)
    table = TokenTable(table.token_spec, table.clip_ids, table.labels, table.splits,
                       dict(table.ids) | {"rgb": ids}, table.lengths)  # fmt: skip
    clips = FakeClips(table)
    config = Config(**PRESET, evaluate=EvaluateConfig(clips=72, classifier_steps=100, workers=0))
    evaluator = build_evaluator(config, clips, table, Stub(table))
    context = EvalContext(config, clips, clips.tokenizers, table, evaluator)
    _, found = classifier_of(context, 0)
    assert found.train.value > found.accuracy.value + 0.3
    assert found.accuracy.value == pytest.approx(1 / 3, abs=0.2)


def test_a_split_without_clips_and_a_foreign_table_are_refused():
    table = make_table(4)
    clips = FakeClips(table)
    config = Config(**PRESET, evaluate=EvaluateConfig(split="val"))
    with pytest.raises(UserError, match="val split has 0 clips"):
        build_evaluator(config, clips, table, Stub(table))
    config = Config(**PRESET)
    clips.labels = np.roll(clips.labels, 1)
    with pytest.raises(UserError, match="another label"):
        build_evaluator(config, clips, table, Stub(table))
    clips.clip_ids = np.array([f"other{i}" for i in range(len(table.clip_ids))])
    with pytest.raises(UserError, match="are not in"):
        build_evaluator(config, clips, table, Stub(table))
