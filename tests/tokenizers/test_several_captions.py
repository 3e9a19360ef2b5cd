"""Several captions a clip as views of the token table: what is drawn, and how often."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe, ImageVQ
from nano4m.errors import UserError
from nano4m.modalities import TEXT_END
from nano4m.tokenizers.apply import build_table
from nano4m.tokenizers.bpe import BpeTokenizer
from nano4m.tokens.table import open_table
from nano4m.training.batch_sampler import BatchSampler
from nano4m.training.validation import validation_batches

TEXT = "dog cat cow bird barks sings waits for the old man near a river at night"
WORDS = TEXT.split()


class Clips(SimpleNamespace):
    """The part of a clips table that tokenising asks for."""

    def __len__(self) -> int:
        return len(self.captions)


class Pictures:
    """A tokenizer of pictures that are their own ids."""

    shape, vocab_size, fingerprint, num_codebooks = (2, 2), 8, "pictures", 1
    device = torch.device("cpu")

    def encode(self, media):
        return media[:, 0, :2, :2].long()

    def codebook(self):
        return None


def captions_of(seed: int, count: int, lengths: int = 6) -> list[tuple[str, ...]]:
    """Clip i has i % 4 captions, and each begins with its own number."""
    rng = np.random.default_rng(seed)
    return [
        tuple(
            " ".join([str(i), str(k), *rng.choice(WORDS, int(rng.integers(1, lengths)))])
            for k in range(i % 4)
        )
        for i in range(count)
    ]


def table_of(captions, folder, section: Bpe, count: int | None = None):
    """Return token table and caption tokenizer of clips with these captions."""
    n = len(captions)
    splits = np.array(["val" if i % 8 >= 6 else "train" for i in range(n)])
    clips = Clips(
        captions=captions, clip_ids=np.array([f"c{i}" for i in range(n)]), splits=splits,
        labels=np.array(["x"] * n), sample_rate=16000, num_frames=1,
        present=lambda kind: np.array([bool(own) or kind != "caption" for own in captions]),
        require=lambda kind: None,
        media=lambda kind, rows, frame=None: (
            [captions[row][0] for row in rows] if kind == "caption"
            else torch.zeros(len(rows), 1, 3, 4, 4)
        ),
    )  # fmt: skip
    tokenizer = BpeTokenizer.fit(section, [c for own in captions for c in own])
    config = Config(tokenizers={"rgb": ImageVQ(), "caption": section}, train={"batch_size": 16})
    build_table(config, clips, {"rgb": Pictures(), "caption": tokenizer}, folder)
    return open_table(folder), tokenizer, config


def texts(table, tokenizer, rows, views) -> list[str]:
    """Return what ``gather`` has as the captions of views."""
    ids, valid = table.gather(np.asarray(rows), np.asarray(views))
    own = np.where(valid[:, 4:], ids[:, 4:], TEXT_END)
    return tokenizer.decode(torch.from_numpy(own))


def test_views_are_the_captions_of_a_clip_in_turn(tmp_path):
    for seed in range(3):
        captions = captions_of(seed, 24)
        table, tokenizer, _ = table_of(captions, tmp_path / str(seed), Bpe(max_length=40))
        assert table.ids["caption"].shape[:2] == (24, 3)
        np.testing.assert_array_equal(table.present("caption"), [bool(own) for own in captions])
        for k in range(3):
            found = texts(table, tokenizer, range(24), [[0, k]] * 24)
            assert found == [own[k % len(own)] if own else "" for own in captions]
        counts = [len(tokenizer._tokens(own[0])) + 1 if own else 0 for own in captions]
        assert table.lengths["caption"][:, 0].tolist() == counts
        # Without views it is the first caption, as evaluation and generation take it.
        ids, valid = table.gather(np.arange(24))
        np.testing.assert_array_equal(valid[:, 4:].sum(1), counts)


@pytest.mark.parametrize("lengths", [6, 2], ids=["unequal", "equal"])
def test_training_draws_every_clip_and_each_of_its_captions_equally_often(tmp_path, lengths):
    captions = captions_of(7, 24, lengths)
    if lengths == 2:  # as many tokens in all of them, so that views are free until they are drawn
        captions = [tuple(f"{i:02d} {k}" for k in range(len(c))) for i, c in enumerate(captions)]
    table, tokenizer, _ = table_of(captions, tmp_path, Bpe(vocab=64, max_length=40))
    rows = table.rows("train")
    samples = table.variants(rows)
    sampler = BatchSampler(samples, table.counts(samples.rows, samples.views), 4, 4, 0)
    rng, clips, said = np.random.default_rng(0), Counter(), Counter()
    steps = 600
    for picked in sampler.steps(0, steps):
        views = table.draw_views(picked, rng)
        clips.update(picked.rows.tolist())
        said.update(texts(table, tokenizer, picked.rows, views))
    each = steps * 16 / len(rows)
    assert set(clips) == set(rows.tolist())
    assert all(abs(count / each - 1) < 0.25 for count in clips.values())
    own = [c for row in rows for c in captions[row]]
    assert set(own) <= set(said)
    for row in rows:
        shares = np.array([said[c] for c in captions[row]]) / max(1, clips[row])
        # Two captions in three views: one of them is drawn twice as often.
        expected = {0: [], 1: [1], 2: [2 / 3, 1 / 3], 3: [1 / 3] * 3}[len(captions[row])]
        np.testing.assert_allclose(shares, expected, atol=0.12)


def test_validation_is_the_same_whenever_it_is_made(tmp_path):
    table, _, config = table_of(captions_of(1, 24), tmp_path, Bpe(max_length=40))
    first, second = (
        [[part.tolist() for part in batch[:2]]
         for batch in validation_batches(table, table.rows("val"), config)]
        for _ in range(2)
    )  # fmt: skip
    assert first == second and first


LONG = "the old man waits near a river at night for the old dog"


def test_what_becomes_of_captions_that_are_too_long(tmp_path):
    captions = [(LONG,), ("a dog", LONG), (LONG, "a cat"), ("a cow",), ("a dog",)] * 8
    for policy, expected in {
        "cut": [("the old man",), ("a dog", "the old man"), ("the old man", "a cat")],
        "leave_out": [(), ("a dog",), ("a cat",)],
    }.items():
        section = Bpe(vocab=512, max_length=4, too_long=policy)
        table, tokenizer, _ = table_of(captions, tmp_path / policy, section)
        own = [*expected, ("a cow",), ("a dog",)]
        for k in range(2):
            found = texts(table, tokenizer, range(5), [[0, k]] * 5)
            assert found == [e[k % len(e)] if e else "" for e in own]
        present = [bool(e) for e in own] * 8
        np.testing.assert_array_equal(table.present("caption"), present)
    with pytest.raises(UserError, match="has 13 tokens|has 14 tokens"):
        table_of(captions, tmp_path / "no", Bpe(vocab=512, max_length=4, too_long="refuse"))


def test_one_caption_a_clip_has_one_view_and_the_ids_of_before(tmp_path):
    captions = [(f"dog {i}",) for i in range(16)]
    table, tokenizer, _ = table_of(captions, tmp_path, Bpe(max_length=12))
    whole = tokenizer.encode([own[0] for own in captions])
    np.testing.assert_array_equal(table.ids["caption"][:, 0], whole)
    assert table.ids["caption"].shape[1] == 1
