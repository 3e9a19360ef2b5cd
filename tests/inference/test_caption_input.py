"""A caption that is given to generate: what is said of words, signs and lengths never seen."""

import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.inference.caption_input import SeenCaptions, seen_captions
from nano4m.inference.inputs import read_files
from nano4m.modalities import MODALITIES
from nano4m.tokenizers.bpe import BpeTokenizer
from nano4m.tokens.batch import TokenSequence
from nano4m.tokens.table import TokenSpec, TokenTable

CLASSES = [("cat",), ("cow",), ("dog",)]
FREE = [
    ("a small dog barks", "a dog is heard at night"),
    ("two cats meow in the rain", "cats in the rain"),
    ("a cow moos", "a cow stands far away"),
    *((f"a bird number {i} sings",) * 2 for i in range(10)),
]


def run_of(captions, section=None, held_out=()) -> SimpleNamespace:
    """A run of captions alone, of which those of ``held_out`` are no train captions."""
    every = [*captions, *held_out]
    train = [text for own in captions for text in own]
    tokenizer = BpeTokenizer.fit(section or Bpe(), train, [t for own in every for t in own])
    text = MODALITIES["caption"].with_tokens(tokenizer.shape, tokenizer.vocab_size)
    ids = torch.stack([tokenizer.encode(list(own)) for own in every])
    splits = np.array(["train"] * len(captions) + ["test"] * len(held_out))
    table = TokenTable(
        TokenSpec((text,), {"caption": tokenizer.fingerprint}),
        np.array([f"c{i}" for i in range(len(every))]), np.array(["x"] * len(every)), splits,
        {"caption": ids.numpy().astype(np.uint16)},
        {"caption": torch.stack([tokenizer.lengths(own) for own in ids]).numpy()},
    )  # fmt: skip
    return SimpleNamespace(
        folder="run", table=table, tokenizers={"caption": tokenizer}, tokens=TokenSequence((text,)),
        by_name={"caption": text},
    )  # fmt: skip


def caption_of(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def given(run, caption: str) -> tuple[str, str]:
    """Return the caption that the model is given, and what is said."""
    said: list[str] = []
    found = read_files([], caption, run, said.append)
    length = int(found.inputs_L.sum())
    ids = found.ids_L * found.inputs_L
    [text] = run.tokenizers["caption"].decode(ids[None])
    assert length == run.tokenizers["caption"].count(caption_of(caption))
    return text, " / ".join(said)


def test_captions_that_were_seen_are_given_without_a_word():
    run = run_of(FREE)
    for own in FREE:
        for text in own:
            assert given(run, text) == (text, "")
            assert given(run, f"  {text}\n") == (text, "")
    assert given(run, "two cats\nin the rain") == ("two cats in the rain", "")
    seen = seen_captions(run.table, "caption", run.tokenizers["caption"])
    assert seen.texts == sorted({text for own in FREE for text in own})


def test_a_sentence_for_a_run_of_class_names_is_told_what_the_run_has_seen():
    run = run_of(CLASSES)
    about = "this run has seen captions of at most 1 word: cat, cow, dog"
    with pytest.raises(UserError, match=f"'a dog barks' is too long, 3 words in .*: {about}$"):
        given(run, "a dog barks")
    run = run_of([("a wild cat",), ("a grey cow",)])
    with pytest.raises(UserError, match="of at most 3 words: a grey cow, a wild cat$"):
        given(run, "a dog with a grey cow and a wild cat and another cat")


def test_words_that_were_not_seen_are_said_with_the_nearest_captions():
    run = run_of(FREE, Bpe(vocab=60, max_length=64))
    text, said = given(run, "a small dog barked")
    assert text == "a small dog barked"
    assert "no train caption has the word 'barked' ('barks' was seen)" in said
    assert "has seen 16 captions of at most 6 words" in said
    assert "the nearest are 'a small dog barks', 'a dog is heard at night'" in said
    _, said = given(run, "two Cats in the rain")
    assert "the word 'Cats' ('cats' was seen)" in said


def test_only_train_captions_count_as_seen():
    run = run_of(FREE, Bpe(vocab=80, max_length=64), [("a hen sings", "a hen")])
    _, said = given(run, "a hen sings")
    assert "no train caption has the word 'hen'" in said and "a hen" not in said.split("seen")[-1]


def test_signs_that_were_not_seen_are_said_and_nothing_but_such_signs_is_refused():
    run = run_of(FREE, Bpe(max_length=64))
    text, said = given(run, "a dög")
    assert text == "a d\ufffd\ufffdg" and "no train caption has 'ö'" in said
    for strange in ("狗", "🐕‍🦺", "ЖЖ"):
        with pytest.raises(UserError, match="no train caption has any sign of it; this run has"):
            given(run, strange)


def test_letters_are_the_same_however_they_are_typed():
    run = run_of([("forêt",), ("hurlé",)])
    assert given(run, unicodedata.normalize("NFD", "forêt")) == ("forêt", "")
    emoji = run_of([("👩‍👩‍👧 一只狗",), ("🐕",)])
    assert given(emoji, "👩‍👩‍👧 一只狗") == ("👩‍👩‍👧 一只狗", "")


@pytest.mark.parametrize("empty", ["", " \n", "\u200b", "\u3000"])
def test_an_empty_caption_is_refused(empty):
    with pytest.raises(UserError, match="--caption is empty"):
        given(run_of(CLASSES), empty)


def test_near_captions_are_found_among_many():
    texts = sorted({f"word{i % 97} and word{i % 89}" for i in range(9000)})
    seen = SeenCaptions(texts)
    assert seen.nearest("word96 and word3")[0] in texts
    assert set(seen.nearest("word96 and word3")[0].split()) >= {"word96"}
    assert seen.most_words == 3 and len(seen.words) == 98
