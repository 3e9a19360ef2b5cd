"""Captions that a tokenizer cannot take whole: where they are cut, and what is said of them."""

import re
import unicodedata

import numpy as np
import pytest
from test_fit import Clips, config

from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.bpe import BpeTokenizer
from nano4m.tokenizers.fit import fit_tokenizers
from nano4m.tokenizers.long_captions import cut_at_word

WORDS = ["dog", "cat", "barks,", "it's", "old", '"quiet"', "München", "is", "a", "far-away"]


def longest_beginning(text: str, tokenizer: BpeTokenizer) -> str:
    """Brute force: the longest beginning of whole words that fits."""
    fitting = [""]
    for match in re.finditer(r"\s+|$", text):
        part = text[: match.start()]
        if len(tokenizer._tokens(part)) + 1 <= tokenizer.max_length:
            fitting.append(part)
    return max(fitting, key=len)


def test_a_caption_is_cut_after_as_many_whole_words_as_fit():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        captions = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(40)]
        section = Bpe(vocab=int(rng.integers(40, 120)), max_length=int(rng.integers(2, 24)))
        tokenizer = BpeTokenizer.fit(section, captions)
        assert tokenizer.max_length == section.max_length
        for caption in captions:
            expected = longest_beginning(caption, tokenizer)
            assert tokenizer.usable([caption], section) == [expected] * bool(expected)
            for text in tokenizer.usable([caption], section):
                [row] = tokenizer.encode([text])
                assert tokenizer.decode(row[None]) == [text]
    two = ["dog dog dog cat", "dog dog dog barks", "", "cat"]
    section = Bpe(vocab=40, max_length=4)
    tokenizer = BpeTokenizer.fit(section, two)
    assert tokenizer.usable(two, section) == ["dog dog dog", "cat"]


CLUSTERS = ["👩‍👩‍👧", "👍🏽", "é̄", "一", "狗", "क्ष", "🐕‍🦺"]


def test_a_text_without_spaces_is_cut_after_a_whole_character():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clusters = [CLUSTERS[i] for i in rng.integers(len(CLUSTERS), size=12)]
        text = unicodedata.normalize("NFC", "".join(clusters))
        most = int(rng.integers(1, len(text)))
        found = cut_at_word(text, len(text), lambda part, most=most: len(part) <= most)
        ends = np.cumsum([len(unicodedata.normalize("NFC", c)) for c in clusters])
        allowed = {0, *ends[:-1].tolist()}
        if "क्ष" not in "".join(clusters):  # its halves are characters of their own
            assert len(found) == max(end for end in allowed if end <= most)
        assert text.startswith(found)
        rest = text[len(found) :]
        assert not found or (rest[0] != "\u200d" and unicodedata.category(rest[0])[0] != "M")
    assert cut_at_word("Donaudampfschiff", 16, lambda part: len(part) < 9) == ""
    assert cut_at_word("一二三 四五", 6, lambda part: len(part) < 3) == "一二"
    assert cut_at_word("一二三 四五", 6, lambda part: len(part) < 6) == "一二三"


def test_a_longer_than_allowed_caption_is_said_with_clip_and_options(tmp_path, capsys):
    clips = Clips()
    long = "the dog barks at a cat and it is old and quiet and far away from here"
    clips.captions[7] = clips.captions[70] = (long,)
    changed = {"max_length": 16, "vocab": 400}

    def fit(folder, **more) -> str:
        fit_tokenizers(config(caption=Bpe(**changed | more)), clips, tmp_path / folder)
        return " ".join(capsys.readouterr().err.split())

    said = fit("cut")
    count = load_tokenizer(tmp_path / "cut/caption").count(long)
    assert f"2 of 80 captions have more than 16 tokens, their end included (first that of clip clip7: {long!r}, {count} tokens)" in said  # noqa: E501  # fmt: skip
    assert "they are cut at a word, this one to 'the dog" in said
    assert f"--tokenizers.caption.max_length {count} has room for all" in said
    assert "--tokenizers.caption.too_long leave_out, or refuse" in said
    assert "they are left out" in fit("leave", too_long="leave_out")
    with pytest.raises(UserError, match=rf"clip7: .*{count} tokens.*max_length {count}.*too_long"):
        fit("refuse", too_long="refuse")
    assert "more than" not in fit("room", max_length=count)
    assert load_tokenizer(tmp_path / "room/caption").max_length == count
    assert load_tokenizer(tmp_path / "leave/caption").max_length <= 16
    assert load_tokenizer(tmp_path / "cut/caption").max_length == 16


def test_signs_that_no_train_caption_has_are_said(tmp_path, capsys):
    clips = Clips()
    clips.captions[70] = ("ein Käfig",)
    fit_tokenizers(config(caption=Bpe(vocab=400)), clips, tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 80 captions have signs that no train caption has" in said
    assert "(first that of clip clip70: 'ein Käfig')" in said


def test_too_small_a_vocabulary_names_the_option_and_how_many_it_takes(tmp_path):
    with pytest.raises(UserError, match=r"raise --tokenizers.caption.vocab to ([0-9]+) or more"):
        fit_tokenizers(config(caption=Bpe(vocab=3)), Clips(), tmp_path)


def test_only_what_has_changed_is_fitted_again_beside_what_was_before(tmp_path, capsys):
    clips = Clips()
    first = fit_tokenizers(config(), clips, tmp_path / "a")
    before, said = [tmp_path / "nowhere", tmp_path / "a"], capsys.readouterr().err
    assert "its tokenizer is that of before" not in said
    changed = Bpe(vocab=40, max_length=30)
    asked = len(clips.asked)
    second = fit_tokenizers(config(caption=changed), clips, tmp_path / "b", before)
    said = capsys.readouterr().err
    for name in first:
        kept = f"{name}: its tokenizer is that of before" in said
        assert kept == (name != "caption") == (second[name] == first[name])
    assert len(clips.asked) - asked < 80, "pictures or sounds were read again"
    for path in (tmp_path / "a" / "rgb").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "rgb" / path.name).read_bytes()
    clips.fingerprint = "other clips"
    third = fit_tokenizers(config(), clips, tmp_path / "c", before)
    assert "its tokenizer is that of before" not in capsys.readouterr().err and third
