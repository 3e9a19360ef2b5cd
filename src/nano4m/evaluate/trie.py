"""Trie of candidate texts: every distinct prefix once, with the classes whose texts it begins.

Shapes: N nodes, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise
from os.path import commonprefix

import numpy as np

Text = tuple[int, ...]


def count_predictions(texts: Sequence[Sequence[Text]]) -> int:
    """Return how many prefixes have a next token, each one prediction, without building a trie.

    Args:
        texts: As for ``Trie``.
    """
    whole = sorted({text for own in texts for text in own})
    count = len(whole[0]) if whole else 0
    for last, text in pairwise(whole):
        # Of sorted texts, what one shares with any earlier one it shares with the one before.
        shared = len(commonprefix([last, text]))
        count += len(text) - 1 - min(shared, len(last) - 1)
    return count


class Trie:
    """Prefixes of the candidate texts of each class; node 0 is the empty one.

    Args:
        texts: The distinct texts of each class, each ended by its end token; a text may belong to
            several classes.

    Attributes:
        prefixes: Tokens of each node.
        children: Children of each node, int64; none for a whole text.
        under_NK: bool, whether a text of a class passes through a node.
        is_leaf_N: bool, whether a node is a whole text.
    """

    def __init__(self, texts: Sequence[Sequence[Text]]) -> None:
        found = {text[:n] for own in texts for text in own for n in range(len(text) + 1)} | {()}
        self.prefixes: list[Text] = sorted(found, key=lambda prefix: (len(prefix), prefix))
        number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        children: list[list[int]] = [[] for _ in self.prefixes]
        for i, prefix in enumerate(self.prefixes[1:], start=1):
            children[number[prefix[:-1]]].append(i)
        self.children = [np.array(own, dtype=np.int64) for own in children]
        self.is_leaf_N = np.array([not own for own in children])
        self.under_NK = np.zeros((len(number), len(texts)), dtype=bool)
        for k, own in enumerate(texts):
            for text in own:
                for n in range(len(text) + 1):
                    self.under_NK[number[text[:n]], k] = True
