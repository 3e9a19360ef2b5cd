"""Memorisation: whether generated sequences are copies of train sequences.

A sample is compared with its nearest train sequence, that of most equal tokens at equal slots, and
so is the real clip that it was generated for. The figure is the share of clips whose sample is
closer to the train split than the clip itself is, ties half: about one half if samples are new
clips like those of the split, near one if they are copies. Samples that are more typical than real
clips (low temperature, strong guidance) are above one half too; the pairs of the results show what
it is.

The distance to the nearest train sequence relative to that of real held-out data is the test of
Meehan, Chaudhuri and Dasgupta (2020, https://arxiv.org/abs/2004.05675) for copying.

Shapes: Q queries, M train sequences, T slots of one modality, B evaluated clips.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nano4m.evaluate.diversity import real_tokens
from nano4m.evaluate.intervals import share_interval
from nano4m.evaluate.likelihood_evaluator import LEAST_CLIPS, LikelihoodEvaluator
from nano4m.evaluate.sample_results import ClosestPair, Memorization
from nano4m.modalities import Modality
from nano4m.tokens.table import TokenTable

MOST_PAIRS = 1 << 20
"""Most pairs of query and train sequence that are compared at once."""
SHOWN = 3
"""Closest pairs that are kept of each direction."""


class Nearest(NamedTuple):
    """The nearest train sequence of each query.

    Attributes:
        equal_Q: Share of equal tokens, float64; 0 without train sequences.
        row_Q: Its row of the token table, int64.
        view_Q: Its view, int64.
    """

    equal_Q: np.ndarray
    row_Q: np.ndarray
    view_Q: np.ndarray


def _plain(ids_NT: np.ndarray, modality: Modality, filler: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids with ``filler`` behind the end of a text, int32 (T, N), and lengths (N,)."""
    real = real_tokens(ids_NT, modality)
    plain = np.where(real, ids_NT.astype(np.int32), np.int32(filler))
    return np.ascontiguousarray(plain.T), real.sum(1)


def nearest_train(
    queries_QT: np.ndarray, table: TokenTable, modality: Modality, rows: np.ndarray
) -> Nearest:
    """Return the nearest train sequence of each query, of all views of ``rows``.

    Tokens that only the longer of two texts has are not equal. Of equally near sequences the first
    one is taken.
    """
    views = table.ids[modality.name].shape[1]
    own_TQ, length_Q = _plain(queries_QT, modality, -1)
    count = len(queries_QT)
    best = Nearest(np.full(count, -1.0), np.zeros(count, np.int64), np.zeros(count, np.int64))
    step = max(1, MOST_PAIRS // (count * views))
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        train = np.asarray(table.ids[modality.name][part]).reshape(-1, modality.length)
        train_TM, length_M = _plain(train, modality, -2)
        row_M, view_M = np.repeat(part, views), np.tile(np.arange(views), len(part))
        there = table.lengths[modality.name][part].reshape(-1) > 0
        train_TM, length_M = train_TM[:, there], length_M[there]
        row_M, view_M = row_M[there], view_M[there]
        if not len(row_M):
            continue
        equal_QM = np.zeros((count, len(row_M)), dtype=np.int32)
        for own_Q, train_M in zip(own_TQ, train_TM, strict=True):
            equal_QM += own_Q[:, None] == train_M
        share_QM = equal_QM / np.maximum(length_Q[:, None], length_M)
        place = share_QM.argmax(1)
        share = share_QM[np.arange(count), place]
        closer = share > best.equal_Q
        for found, new in zip(best, (share, row_M[place], view_M[place]), strict=True):
            found[closer] = new[closer]
    return best._replace(equal_Q=best.equal_Q.clip(min=0))


def _closest(
    clips: np.ndarray,
    sources: Sequence[str],
    made: Nearest,
    real_equal: np.ndarray,
    table: TokenTable,
) -> list[ClosestPair]:
    """Return the closest pairs, each of another clip; of equal ones that least expected."""
    found: dict[str, ClosestPair] = {}
    for i in np.lexsort((real_equal, -made.equal_Q)):
        if len(found) < SHOWN and clips[i] not in found:
            found[clips[i]] = ClosestPair(
                clip_id=clips[i],
                source=sources[i],
                train_clip_id=str(table.clip_ids[made.row_Q[i]]),
                train_view=int(made.view_Q[i]),
                equal=float(made.equal_Q[i]),
            )
    return list(found.values())


def memorization(
    evaluator: LikelihoodEvaluator,
    table: TokenTable,
    train_rows: np.ndarray,
    target: int,
    generated: Mapping[int, np.ndarray],
    real_BT: np.ndarray,
) -> list[Memorization]:
    """Return the memorisation figure of each direction into ``target``, and of all together first.

    Args:
        evaluator: The evaluated clips.
        table: Token table with the train split.
        train_rows: Its rows.
        target: Index of the modality.
        generated: Ids by index of the source, int (B, T); those of clips that lack the source or
            the target do not count.
        real_BT: Each clip's own ids.
    """
    modality, count = evaluator.tokens.modalities[target], len(evaluator)
    near = nearest_train(
        np.concatenate([real_BT, *generated.values()]), table, modality, train_rows
    )
    clips = table.clip_ids[evaluator.rows].astype(str)
    # Number of the clip and place among the queries of each sample of each source.
    samples = {
        source: (own, own + (block + 1) * count)
        for block, source in enumerate(generated)
        if len(own := evaluator.clips_with(source, target)) >= LEAST_CLIPS
    }

    def figure(sources: list[int]) -> Memorization:
        own = np.concatenate([samples[source][0] for source in sources])
        places = np.concatenate([samples[source][1] for source in sources])
        names = [evaluator.names[s] for s in sources for _ in samples[s][0]]
        made, reference = Nearest(*(values[places] for values in near)), near.equal_Q[own]
        hits = (made.equal_Q > reference) + 0.5 * (made.equal_Q == reference)
        return Memorization(
            source=names[0] if len(sources) == 1 else None,
            target=modality.name,
            is_text=modality.is_text,
            value=float(hits.mean()),
            **share_interval(hits, evaluator.clusters([*sources, target])[own])._asdict(),
            n=len(hits),
            made_equal=float(np.median(made.equal_Q)),
            real_equal=float(np.median(reference)),
            closest=_closest(clips[own], names, made, reference, table),
        )

    alone = [figure([source]) for source in samples]
    return [figure(list(samples)), *alone] if len(samples) > 1 else alone
