"""Context of an evaluation: a loaded run, and the fixed clips on which it is evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nano4m.compute.precision import resolve_device
from nano4m.config.run import Config
from nano4m.data.clip_table import ClipTable
from nano4m.errors import UserError
from nano4m.evaluate.caption_classification import CaptionCandidates, candidates
from nano4m.evaluate.clusters import ClipOrigins
from nano4m.evaluate.likelihood_evaluator import CLIPS, LikelihoodEvaluator
from nano4m.evaluate.task_results import Recall, compute
from nano4m.media import media_kind
from nano4m.model.fourm import FourM
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.batch import TokenSequence
from nano4m.tokens.table import TokenTable

_NOT_OF_ONE_RUN = (
    "the two are not of one run: bring the clips back that the table was made from, or make a "
    "table of these in a run of its own (another --out)"
)


@dataclass(frozen=True)
class RunArtifacts:
    """A run as evaluation uses it.

    Attributes:
        clips, table: The same clips as media and as tokens.
        tokenizers: By modality.
        model: Trained on ``table``.
    """

    clips: ClipTable
    tokenizers: Mapping[str, Tokenizer]
    table: TokenTable
    model: FourM


RunLoader = Callable[[], RunArtifacts]
"""Loads a run, in any process: it can be pickled and compares equal to its copies."""


def choose_clips(
    rows: np.ndarray, labels: np.ndarray, clusters: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Return at most ``most`` of ``rows``, ascending, equally many of each class if possible.

    Of each class one clip of every cluster is chosen before a second one: clips of one cluster
    are not independent, so a second one adds less.

    Args:
        rows: Row numbers (n,).
        labels, clusters: Class, string (n,), and cluster, int (n,), of each row.
        most: Maximum number of rows.
        rng: Source of all random numbers.
    """
    order = rng.permutation(len(rows))
    seen: dict[tuple[str, int], int] = {}
    turn = np.empty(len(rows), dtype=np.int64)
    for i in order:
        key = (str(labels[i]), int(clusters[i]))
        turn[i] = seen[key] = seen.get(key, -1) + 1
    order = order[np.argsort(turn[order], kind="stable")]
    rank = np.empty(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.sort(rows[order[np.argsort(rank[order], kind="stable")][:most]])


def clip_rows(table: TokenTable, clips: ClipTable, rows: np.ndarray) -> np.ndarray:
    """Return the rows of the clips table for ``rows`` of the token table.

    Raises:
        UserError: A clip is missing there, or has another label.
    """
    number = {clip: i for i, clip in enumerate(clips.clip_ids.tolist())}
    wanted = table.clip_ids[rows].tolist()
    missing = [clip for clip in wanted if clip not in number]
    if missing:
        raise UserError(
            f"{len(missing)} clips of the token table (first {missing[0]!r}) are not in "
            f"{clips.folder}; {_NOT_OF_ONE_RUN}"
        )
    found = np.array([number[clip] for clip in wanted], dtype=np.int64)
    differ = np.flatnonzero(clips.labels[found] != table.labels[rows])
    if len(differ):
        clip = wanted[int(differ[0])]
        raise UserError(
            f"clip {clip!r} has another label in {clips.folder} than in the token table; "
            f"{_NOT_OF_ONE_RUN}"
        )
    return found


def clip_origins(clips: ClipTable, rows: np.ndarray) -> ClipOrigins:
    """Return recording and first picture of ``rows`` of the clips table."""
    return ClipOrigins(
        recordings=clips.groups[rows],
        pictures=np.array([next(iter(clips.pictures[row]), "") for row in rows.tolist()]),
    )


def build_evaluator(
    config: Config, clips: ClipTable, table: TokenTable, model: FourM
) -> LikelihoodEvaluator:
    """Return the evaluator of the chosen clips, with their tokens.

    Raises:
        UserError: Fewer than two clips in the split, or none in the train split.
    """
    split = config.evaluate.split
    rows = table.rows(split)
    if len(rows) < 2:
        raise UserError(
            f"the {split} split has {len(rows)} clips, a probe needs two or more; choose another "
            "with --evaluate.split, or make more clips"
        )
    if not len(table.rows("train")):
        raise UserError(
            "the train split has no clips; baselines and classifiers are made from them"
        )
    rng = np.random.default_rng([config.seed, CLIPS])
    clusters = clip_origins(clips, clip_rows(table, clips, rows)).clusters(with_pictures=True)
    rows = choose_clips(rows, table.labels[rows], clusters, config.evaluate.clips, rng)
    ids, valid = table.gather(rows, None)
    return LikelihoodEvaluator(
        model=model,
        tokens=TokenSequence(table.modalities),
        rows=rows,
        ids_BL=torch.from_numpy(ids),
        valid_BL=torch.from_numpy(valid),
        labels=np.searchsorted(table.classes, table.labels[rows]),
        classes=table.classes,
        batch_size=config.generate.batch_size,
        seed=config.seed,
        origins=clip_origins(clips, clip_rows(table, clips, rows)),
        together=config.masks.codebooks == "together",
    )


@dataclass(frozen=True)
class EvalContext:
    """Everything that the tasks of an evaluation need; every process loads the same one.

    ``recall`` returns what an earlier attempt has stored, or makes and stores it.
    """

    config: Config
    clips: ClipTable
    tokenizers: Mapping[str, Tokenizer]
    table: TokenTable
    evaluator: LikelihoodEvaluator
    recall: Recall = compute

    @cached_property
    def train_rows(self) -> np.ndarray:
        """Rows of the token table for n-gram baselines and classifiers."""
        return self.table.rows("train")

    def train_rows_with(self, modality: int) -> np.ndarray:
        """Return those of ``train_rows`` that have a modality of this index."""
        name = self.evaluator.names[modality]
        return self.train_rows[self.table.present(name)[self.train_rows]]

    def first_media(self, name: str, rows: np.ndarray) -> Any:
        """Return the media of the first view of clips of a modality, as the token table has it.

        Args:
            name: Of the modality.
            rows: Of the clips table; they have it in the token table.
        """
        modality = self.evaluator.tokens.modalities[self.evaluator.names.index(name)]
        if not modality.is_text:
            frame = 0 if media_kind(modality.media).is_plane else None
            return self.clips.media(modality.media, rows, frame=frame)
        section, tokenizer = self.config.tokenizers[name], self.tokenizers[name]
        return [tokenizer.usable(self.clips.captions[row], section)[0] for row in rows]

    @property
    def text(self) -> int | None:
        """Index of the text modality, or None."""
        return next((i for i, m in enumerate(self.evaluator.tokens.modalities) if m.is_text), None)

    @cached_property
    def captions(self) -> CaptionCandidates:
        """Candidate captions of each class for classification."""
        assert self.text is not None
        name = self.evaluator.names[self.text]
        texts = candidates(self.table, name, self.train_rows, self.evaluator.classes)
        most = self.config.evaluate.caption_predictions
        return CaptionCandidates(self.evaluator, self.text, texts, most)


def open_context(config: Config, load_run: RunLoader, recall: Recall = compute) -> EvalContext:
    """Return the context of a run with its chosen clips; see ``EvalContext``.

    Raises:
        UserError: Too few clips, or tables that do not match.
    """
    artifacts = load_run()
    model = artifacts.model.to(resolve_device(config.device)).eval()
    evaluator = build_evaluator(config, artifacts.clips, artifacts.table, model)
    return EvalContext(
        config, artifacts.clips, artifacts.tokenizers, artifacts.table, evaluator, recall
    )
