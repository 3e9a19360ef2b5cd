"""A caption of a user, and what the captions that a run was trained on say to it.

A model knows the words of its train captions alone. Whatever else it is given is said or refused,
each time with captions that it does know.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nano4m.errors import UserError
from nano4m.media.caption import captions_in
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenTable

FEW = 8
"""Captions that are all named; of more, the NEAR nearest."""

NEAR = 3
MOST_COMPARED = 64
"""Captions with the most words in common, whose letters are compared."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class SeenCaptions:
    """The distinct captions of the train split, sorted."""

    texts: Sequence[str]

    @cached_property
    def words(self) -> set[str]:
        """All their words."""
        return {word for text in self.texts for word in words_of(text)}

    @cached_property
    def most_words(self) -> int:
        """Number of words of the longest."""
        return max(len(words_of(text)) for text in self.texts)

    def nearest(self, text: str) -> list[str]:
        """Return the captions that are nearest to a text: first by words, then by letters."""
        own = {word.casefold() for word in words_of(text)}
        scored = [
            (-len(own & {word.casefold() for word in words_of(seen)}), i)
            for i, seen in enumerate(self.texts)
        ]
        some = [(shared, self.texts[i]) for shared, i in sorted(scored)[:MOST_COMPARED]]
        some.sort(key=lambda item: (item[0], -SequenceMatcher(None, text, item[1]).ratio()))
        return [seen for _, seen in some[:NEAR]]

    def about(self, text: str) -> str:
        """Return a sentence on the captions that were seen, with all of few, or those near."""
        words = f"{self.most_words} word{'s' * (self.most_words != 1)}"
        if len(self.texts) <= FEW:
            return f"this run has seen captions of at most {words}: {', '.join(self.texts)}"
        near = ", ".join(repr(seen) for seen in self.nearest(text))
        return (
            f"this run has seen {len(self.texts):,} captions of at most {words}; the nearest are "
            f"{near}"
        )


def seen_captions(table: TokenTable, name: str, tokenizer: Tokenizer) -> SeenCaptions:
    """Return the captions of the train split of a token table.

    Args:
        table: The table.
        name: Of its text modality.
        tokenizer: Of that.
    """
    rows = table.rows("train")
    ids = np.asarray(table.ids[name][rows])
    there = ids[table.lengths[name][rows] > 0]
    distinct = np.unique(there, axis=0).astype(np.int64)
    return SeenCaptions(sorted(set(tokenizer.decode(torch.from_numpy(distinct)))))


def checked_caption(
    text: str, seen: SeenCaptions, tokenizer: Any, warn: Callable[[str], None]
) -> str:
    """Return a user's caption as the clips' are: Unicode NFC, in one line.

    Words and signs that no train caption has are said.

    Args:
        text: The caption.
        seen: Those of the train split.
        tokenizer: Of the captions, see ``BpeTokenizer``.
        warn: Called with a sentence.

    Raises:
        UserError: It is empty, has more tokens than a caption can have, or no sign that was seen.
    """
    caption = " ".join(captions_in(text))
    if not caption:
        raise UserError("--caption is empty; leave it out, or write a sentence")
    strange = tokenizer.strange(caption)
    if all(sign in strange or sign.isspace() for sign in caption):
        raise UserError(f"--caption {caption!r}: no train caption has any sign of it; "
                        f"{seen.about(caption)}")  # fmt: skip
    new = [word for word in dict.fromkeys(words_of(caption)) if word not in seen.words]
    listed = ", ".join(_with_near(word, seen.words) for word in new)
    unseen = f"no train caption has the word {listed}" if new else ""
    count, most = tokenizer.count(caption), tokenizer.shape[0]
    if count > most:
        words = len(words_of(caption))
        raise UserError(
            f"--caption {caption!r} is too long, {words} word{'s' * (words != 1)} in {count} "
            f"tokens with the end, at most {most} fit{unseen and f' ({unseen})'}: "
            f"{seen.about(caption)}"
        )
    if strange:
        signs = ", ".join(map(repr, strange))
        warn(f"--caption: no train caption has {signs}, which becomes an unknown sign")
    if unseen:
        warn(f"--caption: {unseen}; {seen.about(caption)}")
    return caption


def _with_near(word: str, words: set[str]) -> str:
    """Return a word, and the seen one that is nearest if any is near."""
    by_fold = {seen.casefold(): seen for seen in sorted(words)}
    near = get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.7)
    return f"{word!r} ({by_fold[near[0]]!r} was seen)" if near else repr(word)
