"""Likelihoods for all probes: log-probabilities of tokens given other tokens.

Only input tokens are passed to the model: all other slots hold zeros, so a probe cannot leak its
targets.

Values are gathered on the model's device, so logits of a whole vocabulary are never copied back.
A token's distribution is over the ids of its own codebook.

Shapes: B evaluated clips, R rows of one forward pass, L token slots of a clip, T slots of a target,
t of them, K ids, S scored sequences, W ids of one codebook.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nano4m.evaluate.clusters import ClipOrigins
from nano4m.generation.guidance import rows_that_fit
from nano4m.generation.likelihoods import log_prob_parts
from nano4m.media import media_kind
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence

LEAST_CLIPS = 2
"""Clips that a probe needs."""

# Random streams of the probes, one for each purpose.
CLIPS, SHUFFLE, GENERATE, CONTROL, HALF, BEGINNING, TRAIN_MEDIA = 100, 101, 103, 104, 105, 106, 107


@dataclass(frozen=True, kw_only=True)
class LikelihoodEvaluator:
    """The model and the fixed clips on which it is evaluated.

    Attributes:
        model: In evaluation mode.
        tokens: Order of the slots.
        rows: int64 (B,), rows of the token table.
        ids_BL, valid_BL: int64 ids of the first view, and bool mask of real tokens.
        labels: int64 (B,), index into ``classes``.
        classes: Sorted labels.
        batch_size: Rows of a forward pass on a CPU; on a GPU as many as fit.
        seed: Of shuffles and generation.
        origins: Recording and picture of each clip, for intervals; None: all are independent.
        together: Whether the model is trained to predict all codebooks at once, without levels.
    """

    model: FourM
    tokens: TokenSequence
    rows: np.ndarray
    ids_BL: Tensor
    valid_BL: Tensor
    labels: np.ndarray
    classes: list[str]
    batch_size: int
    seed: int
    origins: ClipOrigins | None = None
    together: bool = False
    _pairs: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)
    _parts: dict[frozenset[int], "LikelihoodEvaluator"] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.ids_BL)

    @property
    def names(self) -> list[str]:
        """Names of the modalities, in order."""
        return [m.name for m in self.tokens.modalities]

    def rng(self, *stream: int) -> np.random.Generator:
        """Return the random generator of one purpose."""
        return np.random.default_rng([self.seed, *stream])

    @cached_property
    def present_BC(self) -> np.ndarray:
        """Which modalities each clip has, bool (B, C)."""
        return self.tokens.count(self.valid_BL).numpy() > 0

    def clips_with(self, *modalities: int) -> np.ndarray:
        """Return the numbers of the clips that have all of these modalities, int64 (m,)."""
        return np.flatnonzero(self.present_BC[:, list(modalities)].all(axis=1))

    def of(self, *modalities: int) -> "LikelihoodEvaluator":
        """Return the evaluator of ``clips_with``, cached: this one where all clips have them."""
        if frozenset(modalities) not in self._parts:
            self._parts[frozenset(modalities)] = self.take(self.clips_with(*modalities))
        return self._parts[frozenset(modalities)]

    def clips_for(self, sources: Sequence[int], target: int) -> np.ndarray:
        """Return the numbers of the clips that have ``target`` and any of ``sources``, int64 (m,).

        They are those of which a figure of the target from these sources can be: what a clip lacks
        of several sources is no input. Without sources they are all that have the target.
        """
        is_there = self.present_BC[:, target]
        if sources:
            is_there = is_there & self.present_BC[:, list(sources)].any(axis=1)
        return np.flatnonzero(is_there)

    def take(self, clips: np.ndarray) -> "LikelihoodEvaluator":
        """Return the evaluator of some clips, ascending numbers (m,); this one for all."""
        if len(clips) == len(self):
            return self
        return replace(
            self,
            rows=self.rows[clips],
            ids_BL=self.ids_BL[clips],
            valid_BL=self.valid_BL[clips],
            labels=self.labels[clips],
            origins=self.origins.take(clips) if self.origins else None,
            _pairs={},
            _parts={},
        )

    def clusters(self, modalities: Sequence[int]) -> np.ndarray:
        """Return the cluster of each clip, int64 (B,): those of one are not independent.

        Clips are joined by recording, and by picture too if one of ``modalities``, the sources and
        the target of a figure, is of planes: depth and normals are as alike as their pictures.
        """
        if self.origins is None:
            return np.arange(len(self))
        planes = any(media_kind(self.tokens.modalities[i].media).is_plane for i in modalities)
        return self.origins.clusters(planes)

    def inputs(
        self, sources: Sequence[int], rows: np.ndarray | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ids and input mask, (R, L) each; inputs are all tokens of ``sources``, no others.

        Args:
            sources: Indices of modalities.
            rows: Clips whose tokens are used; None: all, in order.
        """
        chosen = torch.arange(len(self)) if rows is None else torch.as_tensor(rows)
        shown = torch.zeros(self.tokens.length, dtype=torch.bool)
        for source in sources:
            shown[self.tokens.slices[source]] = True
        inputs = self.valid_BL[chosen] & shown
        return self.ids_BL[chosen] * inputs, inputs

    @property
    def place(self) -> torch.device:
        """Device where values are gathered: the model's, but for Metal, which has no float64."""
        device = self.model.device
        return torch.device("cpu") if device.type == "mps" else device

    @property
    def rows_at_once(self) -> int:
        """Rows of a forward pass."""
        return rows_that_fit(self.model, self.tokens, 0, 0, 1, self.batch_size)

    def _log_probs(
        self, ids: Tensor, inputs: Tensor, slots: Tensor, count: int
    ) -> Iterator[tuple[Tensor, Tensor, int, Tensor]]:
        """Yield rows (r,), their index in the log-probabilities (r,), first slot and the latter.

        Log-probabilities are float32 (n, t, W) of unique rows; all is at ``place``, see
        ``log_prob_parts``.
        """
        # Clips share captions and beginnings of captions: duplicate rows are computed once.
        length, device = self.tokens.length, self.place
        rows, which_R = torch.cat([ids, inputs.long(), slots], 1).unique(dim=0, return_inverse=True)
        ids, shown, slots = rows.split([length, length, slots.shape[1]], dim=1)
        targets = log_prob_parts(
            self.model, self.tokens, ids, shown.bool(), slots, self.rows_at_once, count
        )
        for part, first, log_p in targets:
            place = torch.full((len(rows),), -1)
            place[part] = torch.arange(len(part))
            where_R = place[which_R]
            own = (where_R >= 0).nonzero()[:, 0]
            yield own.to(device), where_R[own].to(device), first, log_p.to(device)

    def _width(self, target: int) -> int:
        """Return the number of ids of one codebook, the columns of log-probabilities."""
        return self.tokens.modalities[target].codebook_size

    def pick(self, ids: Tensor, inputs: Tensor, slots: Tensor, wanted_RTK: Tensor) -> Tensor:
        """Return log p of K ids for each of the first slots, float32 (R, T, K).

        Args:
            ids, inputs: Ids and input mask of R rows.
            slots: int64 (R, T or more), all predicted at once.
            wanted_RTK: int64 ids, each of its slot's codebook.
        """
        width = self._width(int(self.tokens.modality_L[slots[0, 0]]))
        device, wanted_RTK = self.place, (wanted_RTK % width).to(self.place)
        out_RTK = torch.empty(wanted_RTK.shape, device=device)
        for own, where, first, log_p in self._log_probs(ids, inputs, slots, wanted_RTK.shape[1]):
            t = torch.arange(log_p.shape[1], device=device)[:, None]
            found = log_p[where[:, None, None], t, wanted_RTK[own, first : first + len(t)]]
            out_RTK[own, first : first + len(t)] = found
        return out_RTK.cpu()

    def parallel_log_prob(self, target: int, ids: Tensor, inputs: Tensor, own: Tensor) -> Tensor:
        """Return log p of given token sequences of ``target`` for each row, float64 (R, S).

        Args:
            target: Index of a modality other than text: all its T tokens are predicted at once.
            ids, inputs: Ids and input mask of R rows.
            own: int64 (S, T) tokens to be scored in every row.
        """
        span, device = self.tokens.slices[target], self.place
        slots = torch.arange(span.start, span.stop)
        own, parts = (own % self._width(target)).to(device), []
        for rows in torch.arange(len(ids)).split(self.rows_at_once):
            total = torch.zeros(len(rows), len(own), dtype=torch.float64, device=device)
            asked = slots.expand(len(rows), -1)
            targets = self._log_probs(ids[rows], inputs[rows], asked, len(slots))
            for these, where, first, log_p in targets:
                found = torch.zeros(len(log_p), len(own), dtype=torch.float64, device=device)
                for t in range(log_p.shape[1]):
                    found += log_p[:, t][:, own[:, first + t]]
                total[these] += found[where]
            parts.append(total)
        return torch.cat(parts).cpu()

    def pairwise(self, source: int, target: int) -> np.ndarray:
        """Return log p(target of clip j | source of clip i), float64 (B, B), cached.

        All tokens are predicted at once, those of several codebooks too: along the levels of
        decoding each pair would need passes of its own (B x B x Q instead of B).
        """
        if (source, target) not in self._pairs:
            own = self.ids_BL[:, self.tokens.slices[target]]
            rated = self.parallel_log_prob(target, *self.inputs([source]), own)
            self._pairs[source, target] = rated.numpy()
        return self._pairs[source, target]

    def unconditional(self, target: int) -> np.ndarray:
        """Return log p(target of clip j) without inputs, float64 (B,), at once as ``pairwise``."""
        own = self.ids_BL[:, self.tokens.slices[target]]
        nothing = self.inputs([], np.zeros(1, dtype=np.int64))
        return self.parallel_log_prob(target, *nothing, own)[0].numpy()

    def _at_once(self, target: int, ids: Tensor, inputs: Tensor, targets_BT: Tensor) -> np.ndarray:
        """Return log p of each clip's own tokens at some slots, predicted at once, float64 (B,).

        Args:
            target: Index of a modality other than text.
            ids, inputs: Ids and input mask; row i is of clip i.
            targets_BT: bool, tokens that are scored; their number may differ between rows.
        """
        start, total = self.tokens.slices[target].start, np.zeros(len(self))
        counts_B = targets_BT.sum(1)
        for count in counts_B[counts_B > 0].unique().tolist():
            for rows in (counts_B == count).nonzero()[:, 0].split(self.rows_at_once):
                slots = targets_BT[rows].nonzero()[:, 1].view(len(rows), count) + start
                wanted = self.ids_BL[rows].gather(1, slots)[..., None]
                picked = self.pick(ids[rows], inputs[rows], slots, wanted)[..., 0]
                total[rows.numpy()] = picked.double().sum(1).numpy()
        return total

    def own_autoregressive(
        self, target: int, ids: Tensor, inputs: Tensor, targets_BT: Tensor | None = None
    ) -> np.ndarray:
        """Return log p of each clip's own tokens by the chain rule in time, float64 (B,).

        A text goes token by token, each the only target, as in generation. A sound goes frame by
        frame, with the earlier frames as inputs; all later frames are targets too, as in training,
        and the codebooks of a frame are predicted at once.

        Args:
            target: Index of a sound or text.
            ids, inputs: Ids and input mask before the first frame.
            targets_BT: bool, tokens that are scored, whole frames at the end; None: all.
        """
        span, is_text = self.tokens.slices[target], self.tokens.modalities[target].is_text
        ids, inputs = ids.clone(), inputs.clone()
        targets_BT = self.valid_BL[:, span] if targets_BT is None else targets_BT
        total = np.zeros(len(self))
        frames, size = self.tokens.units[target]
        for first in range(0, frames * size, size):
            rows = targets_BT[:, first].nonzero()[:, 0]
            if not len(rows):
                continue
            start = span.start + first
            frame = torch.arange(start, start + size)
            slots = frame if is_text else torch.arange(start, span.stop)
            for part in rows.split(16 * self.rows_at_once):
                wanted = self.ids_BL[part][:, frame, None]
                asked = slots.expand(len(part), -1)
                picked = self.pick(ids[part], inputs[part], asked, wanted)[..., 0]
                total[part.numpy()] += picked.double().sum(1).numpy()
            ids[rows[:, None], frame] = self.ids_BL[rows[:, None], frame]
            inputs[rows[:, None], frame] = True
        return total

    def levels(self, target: int) -> int:
        """Return the number of levels that a modality is decoded in; 0 for texts."""
        modality = self.tokens.modalities[target]
        return 0 if modality.is_text else 1 if self.together else modality.num_codebooks

    def own_by_levels(
        self, target: int, ids: Tensor, inputs: Tensor, targets_BT: Tensor | None = None
    ) -> np.ndarray:
        """Return log p of each clip's own tokens along the levels of decoding, float64 (B,).

        The tokens of the first codebook are predicted at once, those of the next one at once with
        the former as inputs, and so on: the chain rule over codebooks, in which each factor is what
        the sampler asks (``codebooks`` "levels"). One level, see ``levels``, is one pass.

        Args:
            target: Index of a modality other than text.
            ids, inputs: Ids and input mask before the first level; row i is of clip i.
            targets_BT: bool, tokens that are scored; None: all.
        """
        span, books = self.tokens.slices[target], self.levels(target)
        ids, inputs, total = ids.clone(), inputs.clone(), np.zeros(len(self))
        targets_BT = self.valid_BL[:, span] if targets_BT is None else targets_BT
        for book in range(books):
            level_BT = targets_BT & (torch.arange(span.stop - span.start) % books == book)
            total += self._at_once(target, ids, inputs, level_BT)
            ids[:, span] = torch.where(level_BT, self.ids_BL[:, span], ids[:, span])
            inputs[:, span] |= level_BT
        return total

    def own(
        self, target: int, ids: Tensor, inputs: Tensor, targets_BT: Tensor | None = None
    ) -> np.ndarray:
        """Return log p of each clip's own tokens of ``target``, (B,), in the order of decoding.

        A text goes token by token, anything else level by level of its codebooks.
        """
        own = self.own_by_levels if self.levels(target) else self.own_autoregressive
        return own(target, ids, inputs, targets_BT)

    def own_given(
        self, target: int, sources: Sequence[int], rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return log p of each clip's own tokens of ``target`` given ``sources``, float64 (B,).

        It is ``own``, whatever the layout and the number of codebooks; where that is a single pass,
        what ``pairwise`` and ``unconditional`` have computed is used.

        Args:
            target, sources: Indices of modalities.
            rows: Clips whose sources are given; None: each clip's own.
        """
        at_once = self.levels(target) == 1 and rows is None
        if at_once and not sources:
            return self.unconditional(target)
        if at_once and len(sources) == 1:
            return np.diag(self.pairwise(sources[0], target))
        return self.own(target, *self.inputs(sources, rows))
