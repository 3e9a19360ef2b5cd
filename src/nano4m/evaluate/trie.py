"""Trie of candidate texts, and likelihoods of their classes by the chain rule.

Every distinct prefix needs one prediction a clip, of its next token only, as in generation.

Shapes: R rows (clips), N nodes, K classes, L token slots of a clip.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nano4m.evaluate.likelihood_evaluator import LikelihoodEvaluator

Text = tuple[int, ...]


class Trie:
    """Prefixes of the candidate texts of each class; node 0 is the empty one.

    Args:
        texts: The distinct texts of each class, each ended by its end token; a text may belong to
            several classes.

    Attributes:
        prefixes: Tokens of each node.
        children: Children of each node; none for a whole text.
        under_NK: bool, whether a text of a class passes through a node.
    """

    def __init__(self, texts: Sequence[Sequence[Text]]) -> None:
        found = {text[:n] for own in texts for text in own for n in range(len(text) + 1)}
        self.prefixes: list[Text] = sorted(found, key=lambda prefix: (len(prefix), prefix))
        number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        self.children: list[list[int]] = [[] for _ in self.prefixes]
        for i, prefix in enumerate(self.prefixes[1:], start=1):
            self.children[number[prefix[:-1]]].append(i)
        self.under_NK = np.zeros((len(number), len(texts)), dtype=bool)
        for k, own in enumerate(texts):
            for text in own:
                for n in range(len(text) + 1):
                    self.under_NK[number[text[:n]], k] = True

    @property
    def is_leaf_N(self) -> np.ndarray:
        """Whether a node is a whole text, bool (N,)."""
        return np.array([not below for below in self.children])


class Search:
    """Log-probabilities of the nodes of a trie for some rows, computed where needed.

    ``value_RN`` is log p(prefix | inputs); ``front_RN`` marks the deepest nodes that are computed,
    which together cover the texts. As a prefix is at least as likely as its extensions, the front
    gives an upper bound of each class, and its whole texts a lower one.

    Args:
        evaluator: Model and batch size.
        ids_RL, inputs_RL: Ids and input mask of each row.
        target: Index of the text modality.
        trie: Candidates.
        start: Slot of the text where the candidates begin; earlier slots may be inputs.
    """

    def __init__(
        self,
        evaluator: LikelihoodEvaluator,
        ids_RL: Tensor,
        inputs_RL: Tensor,
        target: int,
        trie: Trie,
        start: int = 0,
    ) -> None:
        self.evaluator, self.ids_RL, self.inputs_RL, self.trie = evaluator, ids_RL, inputs_RL, trie
        self.first = evaluator.tokens.slices[target].start + start
        shape = (len(ids_RL), len(trie.prefixes))
        self.value_RN = np.full(shape, -np.inf)
        self.front_RN = np.zeros(shape, dtype=bool)
        self.value_RN[:, 0], self.front_RN[:, 0] = 0.0, True

    def expand(self, rows: np.ndarray, nodes: np.ndarray) -> None:
        """Replace front nodes, one for each entry of ``rows``, by their children."""
        chunk = 16 * self.evaluator.rows_at_once
        for start in range(0, len(rows), chunk):
            self._expand(rows[start : start + chunk], nodes[start : start + chunk])

    def _expand(self, rows: np.ndarray, nodes: np.ndarray) -> None:
        ids, inputs = self.ids_RL[rows].clone(), self.inputs_RL[rows].clone()
        slots = torch.empty(len(rows), 1, dtype=torch.int64)
        for node in np.unique(nodes):
            where = torch.from_numpy(np.flatnonzero(nodes == node))
            prefix = self.trie.prefixes[node]
            written = slice(self.first, self.first + len(prefix))
            ids[where, written] = torch.tensor(prefix, dtype=torch.int64)
            inputs[where, written] = True
            slots[where] = self.first + len(prefix)
        # Next tokens of each node; rows are padded with id 0, whose value is ignored.
        below = {node: self.trie.children[node] for node in np.unique(nodes).tolist()}
        most = max(map(len, below.values()))
        wanted = torch.zeros(len(rows), 1, most, dtype=torch.int64)
        for node, children in below.items():
            tokens = torch.tensor([self.trie.prefixes[child][-1] for child in children])
            wanted[torch.from_numpy(nodes == node), 0, : len(children)] = tokens
        log_p = self.evaluator.pick(ids, inputs, slots, wanted)[:, 0].double().numpy()
        self.front_RN[rows, nodes] = False
        for node, children in below.items():
            own = np.flatnonzero(nodes == node)
            value = self.value_RN[rows[own], node][:, None] + log_p[own][:, : len(children)]
            self.value_RN[np.ix_(rows[own], children)] = value
            self.front_RN[np.ix_(rows[own], children)] = True

    def expand_all(self) -> None:
        """Compute every node."""
        for node, below in enumerate(self.trie.children):
            rows = np.flatnonzero(self.front_RN[:, node])
            if below and len(rows):
                self.expand(rows, np.full(len(rows), node))

    def class_scores(self, whole_only: bool = False) -> np.ndarray:
        """Return log p of each class, float64 (R, K): an upper bound, or a lower one."""
        marked = self.front_RN & self.trie.is_leaf_N if whole_only else self.front_RN
        value = np.where(marked, self.value_RN, -np.inf)
        peak = np.maximum(value.max(1, keepdims=True), -1e300)
        with np.errstate(divide="ignore"):
            return np.log(np.exp(value - peak) @ self.trie.under_NK) + peak

    def best_class(self) -> np.ndarray:
        """Return the most likely class of each row, int64 (R,), with few forward passes.

        Best-first search: the most likely open prefix of the leading class is expanded until no
        other class can overtake it. The result is that of ``expand_all``.
        """
        is_leaf = self.trie.is_leaf_N
        winner = np.zeros(len(self.value_RN), dtype=np.int64)
        rows = np.arange(len(winner))
        while len(rows):
            upper, lower = self.class_scores()[rows], self.class_scores(whole_only=True)[rows]
            top = upper.argmax(1)
            each = np.arange(len(rows))
            others = upper.copy()
            others[each, top] = -np.inf
            is_open = self.front_RN[rows] & ~is_leaf & self.trie.under_NK[:, top].T
            value = np.where(is_open, self.value_RN[rows], -np.inf)
            undecided = (lower[each, top] < others.max(1)) & (value.max(1) > -np.inf)
            winner[rows] = top
            if undecided.any():
                self.expand(rows[undecided], value.argmax(1)[undecided])
            rows = rows[undecided]
        return winner


def text_log_probs(
    evaluator: LikelihoodEvaluator, ids: Tensor, inputs: Tensor, target: int, texts: Sequence[Text]
) -> np.ndarray:
    """Return log p of each text in each row, float64 (R, len(texts)), by the chain rule."""
    trie = Trie([[text] for text in texts])
    search = Search(evaluator, ids, inputs, target, trie)
    search.expand_all()
    number: Mapping[Text, int] = {prefix: i for i, prefix in enumerate(trie.prefixes)}
    return search.value_RN[:, [number[tuple(text)] for text in texts]]
