"""How much of the class is in media or in their tokens: a linear probe, and nearest neighbours.

Both are trained on clips of the train split and judged on clips of other recordings. Features are
standardised on the train clips; the strength of the probe's regularisation is chosen by
cross-validation over the recordings of the train clips.

Legend: n clips, P positions (frames or places), Q codebooks, V ids, C width of a code.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.evaluate.intervals import share_interval
from nano4m.evaluate.stats import balanced_accuracy
from nano4m.media import media_kind
from nano4m.media.mel import FLOOR_DB, MelSpectrogram
from nano4m.media.sound_distances import MEL_FORM

SEGMENTS = 8
"""Equal parts of a clip's time over which features are averaged; of a picture, 4 x 4 places."""

BELOW_PEAK_DB = 60.0
"""Levels further below the loudest are inaudible: they count as this."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of regularisation that are tried."""

NEIGHBOURS = 5

BAG, MEAN, VECTORS = "bag of ids", "mean code vectors", "code vectors in parts"
"""Names of the features of ids."""


class Split(NamedTuple):
    """Clips that probes are trained on, and those that they are judged on.

    Attributes:
        train, judged: Rows of the clips table.
        labels, groups: Class, int, and recording, int, of the train clips.
        judged_labels, judged_groups: Of the judged clips.
        counted: Which judged clips count, bool: those of classes with enough recordings.
    """

    train: np.ndarray
    judged: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    judged_labels: np.ndarray
    judged_groups: np.ndarray
    counted: np.ndarray


def in_segments(x_ncP: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the mean of (n, channels, P) over equal parts of its positions, (n, features).

    Args:
        x_ncP: Values at each position.
        shape: Frames, or rows and columns, of the positions.
    """
    if len(shape) == 1:
        return F.adaptive_avg_pool1d(x_ncP, min(SEGMENTS, shape[0])).flatten(1)
    grid = x_ncP.unflatten(2, shape)
    return F.adaptive_avg_pool2d(grid, (min(4, shape[0]), min(4, shape[1]))).flatten(1)


def media_features(kind: str, media: Tensor, sample_rate: int) -> Tensor:
    """Return what a probe of the media themselves sees: log-mels, or a small picture."""
    if media_kind(kind).is_plane:
        return F.adaptive_avg_pool2d(media.float(), 8).flatten(1)
    mel = MelSpectrogram(sample_rate, **MEL_FORM)
    parts = []
    for part in media.float().split(256):
        logmel = mel(part)
        floor = (logmel.amax((1, 2), keepdim=True) - BELOW_PEAK_DB).clamp_min(FLOOR_DB)
        parts.append(in_segments(torch.maximum(logmel, floor), logmel.shape[2:]))
    return torch.cat(parts)


def bag_of_ids(ids: Tensor, vocab_size: int) -> Tensor:
    """Return the root of each id's share of a clip's ids, float32 (n, vocab_size).

    Roots make the Euclidean distance that of Hellinger, which a common id does not rule.
    """
    flat = ids.flatten(1).cpu()
    counts = torch.zeros(len(flat), vocab_size).scatter_add_(1, flat, torch.ones(flat.shape))
    return (counts / flat.shape[1]).sqrt()


def token_features(tokenizer: Any, ids: Tensor) -> dict[str, Tensor]:
    """Return the features of token ids (n, *shape) by name, each (n, features).

    Without a codebook there is the bag of ids alone.
    """
    found = {BAG: bag_of_ids(ids, tokenizer.vocab_size)}
    book = tokenizer.codebook()
    if book is not None:
        # Sounds have an axis of codebooks, of one too; pictures have rows and columns.
        books = tokenizer.num_codebooks
        shape = tuple(ids.shape[1:2]) if ids.shape[-1] == books else tuple(ids.shape[1:])
        vectors = book.float()[ids.cpu()].reshape(len(ids), math.prod(shape), -1)
        channels_ncP = vectors.transpose(1, 2)
        found[MEAN] = channels_ncP.mean(2)
        found[VECTORS] = in_segments(channels_ncP, shape)
    return found


def _standardised(train: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(0), train.std(0)
    kept = std > 1e-6 * max(float(std.max()), 1e-12)
    return ((train - mean)[:, kept] / std[kept], (judged - mean)[:, kept] / std[kept])


def linear_classes(train: np.ndarray, judged: np.ndarray, split: Split) -> np.ndarray:
    """Return the classes that a linear probe finds for the judged clips, int64."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold

    folds = min(3, len(np.unique(split.groups)))
    probe: Any = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        # A hundred steps are enough for a probe that is regularised.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds > 1:
            strengths = {"C": list(STRENGTHS)}
            probe = GridSearchCV(probe, strengths, cv=GroupKFold(folds))
            probe.fit(train, split.labels, groups=split.groups)
        else:
            probe.fit(train, split.labels)
    return probe.predict(judged)


def neighbour_classes(train: np.ndarray, judged: np.ndarray, split: Split) -> np.ndarray:
    """Return the most common class of the nearest train clips, int64, by cosine distance."""
    from sklearn.neighbors import KNeighborsClassifier

    count = min(NEIGHBOURS, len(train))
    probe = KNeighborsClassifier(count, metric="cosine", algorithm="brute")
    return probe.fit(train, split.labels).predict(judged)


def score_classes(classes: np.ndarray, split: Split) -> dict[str, float]:
    """Return accuracy, its interval over recordings, and balanced accuracy of counted clips."""
    own = split.counted
    hits = (classes == split.judged_labels)[own]
    found = share_interval(hits, split.judged_groups[own])
    return {
        "accuracy": float(hits.mean()),
        "low": found.low,
        "high": found.high,
        "balanced": balanced_accuracy(hits, split.judged_labels[own]),
    }


def probe_features(
    features: Mapping[str, tuple[Tensor, Tensor]], split: Split
) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by features and by probe, the scores of ``score_classes``.

    Args:
        features: Name -> those of the train clips and of the judged ones.
        split: The clips.
    """
    found = {}
    for name, pair in features.items():
        train, judged = _standardised(*(part.double().numpy() for part in pair))
        found[name] = {
            "linear": score_classes(linear_classes(train, judged, split), split),
            "nearest": score_classes(neighbour_classes(train, judged, split), split),
        }
    return found
