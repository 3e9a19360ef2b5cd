"""Search for the class whose texts are most likely, with as few predictions as the answer needs.

The likelihood of a class is that of its texts together, by the chain rule over the prefixes of a
trie; every prefix needs one prediction a clip, of its next token only, as in generation. A prefix
is at least as likely as all texts that begin with it, so the prefixes whose next token is unknown
(the open ones) bound every class from above, and its whole texts bound it from below. The most
likely open prefix is looked up until no other class can overtake the first (best-first search, as
in A*): what is looked up decides the cost, not what there is.

Shapes: R rows (distinct inputs of clips), N nodes, K classes, L token slots of a clip.
"""

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nano4m.evaluate.likelihood_evaluator import LikelihoodEvaluator
from nano4m.evaluate.trie import Trie

GROWTH = 4
"""Of the prefixes looked up so far, a row looks up one in this many in the next forward passes:
at most a fifth of all is looked up in vain, and the passes stay few and large."""

LEAST_ROWS = 8
"""Rows that a forward pass has where so many prefixes are open."""

PRECISION = 1e-3
"""Relative error of an upper bound at which it is summed again."""


class TooCostly(Exception):
    """A search would need more predictions than allowed."""


class _Bounds:
    """Bounds of all classes for one row.

    Open prefixes are summed by adding and subtracting, so their sums carry a rounding error. It is
    bounded and added, and what falls far below its own past (``PRECISION``) is summed again.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.open: dict[int, float] = {0: 0.0}
        self.heap: list[tuple[float, int]] = []
        self.text_K = np.full(trie.under_NK.shape[1], -np.inf)
        self.looked_up = 0
        if trie.is_leaf_N[0]:
            self.open = {}
        self._sum_again()

    def _sum_again(self) -> None:
        nodes = np.fromiter(self.open, np.int64, len(self.open))
        value = np.fromiter(self.open.values(), np.float64, len(self.open))
        self.scale = float(value.max()) if len(value) else 0.0
        self.open_K = np.exp(value - self.scale) @ self.trie.under_NK[nodes]
        self.peak_K, self.changes = self.open_K.copy(), 0

    def _upper(self) -> np.ndarray:
        """Return an upper bound of log p of each class, (K,)."""
        error_K = self.changes * np.finfo(np.float64).eps * self.peak_K
        if (error_K > PRECISION * np.abs(self.open_K)).any():
            self._sum_again()
            error_K = np.zeros_like(error_K)
        with np.errstate(divide="ignore"):
            return np.logaddexp(
                self.text_K, np.log(np.maximum(self.open_K + error_K, 0)) + self.scale
            )

    def weigh(self, offset_K: np.ndarray) -> None:
        """Order open prefixes by what they may add to log p minus offset of any class."""
        least = {
            node: float(offset_K[self.trie.under_NK[node]].min(initial=np.inf))
            for node in self.open
        }
        self.heap = [(least[node] - value, node) for node, value in self.open.items()]
        heapq.heapify(self.heap)

    def _leaders(self, offset_K: np.ndarray) -> tuple[int, np.ndarray]:
        """Return the best class by its whole texts, and whether another may overtake it (K,)."""
        upper_K, lower_K = self._upper() - offset_K, self.text_K - offset_K
        first = int(lower_K.argmax())
        may_win_K = upper_K > lower_K[first]
        may_win_K[first] = False
        return first, may_win_K

    def _choose(self, first: int, may_win_K: np.ndarray, most: int) -> list[int]:
        """Take open prefixes that raise the first class or lower another, likeliest first."""
        matters_K = may_win_K.copy()
        matters_K[first] = True
        chosen: list[int] = []
        while self.heap and len(chosen) < most:
            _, node = heapq.heappop(self.heap)
            # Which classes may win only becomes fewer, so the others need not be kept.
            if (self.trie.under_NK[node] & matters_K).any():
                chosen.append(node)
        return chosen

    def step(self, offset_K: np.ndarray, most: int) -> tuple[int, list[int]]:
        """Return the best class so far and what to look up next; nothing if it is decided."""
        first, may_win_K = self._leaders(offset_K)
        if not may_win_K.any() or not self.open:
            return first, []
        chosen = self._choose(first, may_win_K, most)
        if not chosen:
            # Rounding: a class that seemed out may win after all, or the other way round.
            self._sum_again()
            self.weigh(offset_K)
            first, may_win_K = self._leaders(offset_K)
            chosen = self._choose(first, may_win_K, most) if may_win_K.any() else []
        return first, chosen

    def replace(self, node: int, log_p: np.ndarray, offset_K: np.ndarray | None) -> None:
        """Replace an open prefix by its children, whose tokens have ``log_p``."""
        trie, children = self.trie, self.trie.children[node]
        above = self.open.pop(node)
        value = above + log_p
        self.looked_up += 1
        self.changes += 4
        self.open_K -= np.exp(above - self.scale) * trie.under_NK[node]
        self.open_K += (
            np.exp(value - self.scale) * ~trie.is_leaf_N[children] @ trie.under_NK[children]
        )
        np.maximum(self.peak_K, self.open_K, out=self.peak_K)
        for child, own in zip(children.tolist(), value.tolist(), strict=True):
            under_K = trie.under_NK[child]
            if trie.is_leaf_N[child]:
                self.text_K[under_K] = np.logaddexp(self.text_K[under_K], own)
            else:
                self.open[child] = own
                if offset_K is not None:
                    heapq.heappush(self.heap, (float(offset_K[under_K].min()) - own, child))


class ClassSearch:
    """Log-probabilities of classes of texts for some clips, looked up where needed.

    Clips with equal inputs are looked up once.

    Args:
        evaluator: Model and batch size.
        ids_BL, inputs_BL: Ids and input mask of each clip.
        target: Index of the text modality.
        trie: Candidates.
        start: Slot of the text where the candidates begin; earlier slots may be inputs.
        most: Maximum number of predictions; None: any.

    Attributes:
        looked_up: Predictions (rows of forward passes) so far.
    """

    def __init__(
        self,
        evaluator: LikelihoodEvaluator,
        ids_BL: Tensor,
        inputs_BL: Tensor,
        target: int,
        trie: Trie,
        start: int = 0,
        most: int | None = None,
    ) -> None:
        rows, which_B = torch.cat([ids_BL, inputs_BL.long()], 1).unique(dim=0, return_inverse=True)
        ids_RL, inputs_RL = rows.split(ids_BL.shape[1], dim=1)
        self.evaluator, self.trie, self.most, self.looked_up = evaluator, trie, most, 0
        self.ids_RL, self.inputs_RL, self.which_B = ids_RL, inputs_RL.bool(), which_B.numpy()
        self.first = evaluator.tokens.slices[target].start + start
        self.bounds = [_Bounds(trie) for _ in range(len(rows))]

    def _look_up(self, wanted: list[tuple[int, int]], offset_K: np.ndarray | None) -> None:
        """Replace open prefixes (row, node) by their children."""
        if self.most is not None and self.looked_up + len(wanted) > self.most:
            raise TooCostly
        self.looked_up += len(wanted)
        # Rows of equal numbers of inputs share a forward pass.
        wanted = sorted(wanted, key=lambda pair: (len(self.trie.prefixes[pair[1]]), pair))
        chunk = 16 * self.evaluator.rows_at_once
        for begin in range(0, len(wanted), chunk):
            part = wanted[begin : begin + chunk]
            for (row, node), log_p in zip(part, self._log_probs(part), strict=True):
                self.bounds[row].replace(node, log_p, offset_K)

    def _log_probs(self, wanted: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return log p of the token of each child of each (row, node)."""
        prefixes = [self.trie.prefixes[node] for _, node in wanted]
        tokens = [
            [self.trie.prefixes[c][-1] for c in self.trie.children[node]] for _, node in wanted
        ]
        rows = torch.tensor([row for row, _ in wanted])
        ids, inputs = self.ids_RL[rows], self.inputs_RL[rows]
        lengths = torch.tensor(list(map(len, prefixes)))
        written = _padded(prefixes)
        is_written = torch.arange(written.shape[1]) < lengths[:, None]
        place = slice(self.first, self.first + written.shape[1])
        ids[:, place] = torch.where(is_written, written, ids[:, place])
        inputs[:, place] |= is_written
        slots = (self.first + lengths)[:, None]
        # Rows are padded with id 0, whose value is dropped.
        log_p = self.evaluator.pick(ids, inputs, slots, _padded(tokens)[:, None])[:, 0]
        found = log_p.double().numpy()
        return [own[: len(ids)] for own, ids in zip(found, tokens, strict=True)]

    def look_up_all(self) -> np.ndarray:
        """Look up every prefix; return log p of each class, float64 (B, K)."""
        while wanted := [(r, node) for r, own in enumerate(self.bounds) for node in own.open]:
            self._look_up(wanted, None)
        return np.array([own.text_K for own in self.bounds])[self.which_B]

    def best_class(self, offset_K: np.ndarray | None = None) -> np.ndarray:
        """Return the class of each clip with the highest log p minus offset, int64 (B,).

        A class without texts, or whose offset is infinite, is never the answer. The result is that
        of ``look_up_all``.

        Raises:
            TooCostly: ``most`` predictions do not suffice.
        """
        offset_K = np.zeros(self.trie.under_NK.shape[1]) if offset_K is None else offset_K
        offset_K = np.where(np.isfinite(offset_K), offset_K, np.inf)
        winner_R = np.zeros(len(self.bounds), dtype=np.int64)
        for own in self.bounds:
            own.weigh(offset_K)
        rows, begun = list(range(len(self.bounds))), [own.looked_up for own in self.bounds]
        while rows:
            wanted: list[tuple[int, int]] = []
            for row in rows:
                spent = self.bounds[row].looked_up - begun[row]
                more = max(spent // GROWTH, LEAST_ROWS // len(rows), 1)
                winner_R[row], nodes = self.bounds[row].step(offset_K, more)
                wanted += [(row, node) for node in nodes]
            self._look_up(wanted, offset_K)
            rows = sorted({row for row, _ in wanted})
        return winner_R[self.which_B]


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Return sequences of ids as int64 (n, longest), ended by zeros."""
    out = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, own in zip(out, sequences, strict=True):
        row[: len(own)] = own
    return torch.from_numpy(out)
