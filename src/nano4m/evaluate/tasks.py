"""Tasks of the evaluation: independent of each other, and distributed over processes.

Every task draws from random streams of its own and computes in one thread, so results do not depend
on the number of processes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch

from nano4m.compute.precision import float32_math
from nano4m.compute.workers import count_workers, worker_pool
from nano4m.config.run import Config
from nano4m.evaluate.caption_classification import classify, conditions
from nano4m.evaluate.class_consistency import decode_batch, directions_into, predict, real_ids
from nano4m.evaluate.classifiers import Classifier, chosen_clips, train_classifier
from nano4m.evaluate.context import EvalContext, RunLoader, clip_origins, clip_rows, open_context
from nano4m.evaluate.continuation import continuation
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.likelihood_evaluator import LEAST_CLIPS, TRAIN_MEDIA
from nano4m.evaluate.memorization import memorization
from nano4m.evaluate.ngram import NgramModel
from nano4m.evaluate.ngram_smoothing import fit_ngrams
from nano4m.evaluate.probe_results import Score
from nano4m.evaluate.results import ClassifierScore
from nano4m.evaluate.retrieval import retrieval_of
from nano4m.evaluate.stats import score
from nano4m.evaluate.task_results import (
    Classified,
    Likelihoods,
    Made,
    Recall,
    TaskFiles,
    TaskResult,
)
from nano4m.media import media_kind
from nano4m.progress import bar, log_info

MOST_TRAIN_MEDIA = 512
"""Most train clips on which a classifier is scored."""


def classifier_of(context: EvalContext, target: int) -> tuple[Classifier, ClassifierScore]:
    """Train the classifier of a modality; score it on the evaluated clips and their round trips."""
    evaluator, table, evaluate = (
        context.evaluator.of(target),
        context.table,
        context.config.evaluate,
    )
    modality = evaluator.tokens.modalities[target]
    kind, tokenizer = modality.media, context.tokenizers[modality.name]
    labels = np.searchsorted(evaluator.classes, table.labels[context.train_rows])
    classifier = train_classifier(
        kind, context.clips, clip_rows(table, context.clips, context.train_rows), labels,
        len(evaluator.classes), evaluate.classifier_steps, context.config.seed,
        evaluator.model.device,
    )  # fmt: skip

    def classes() -> np.ndarray:
        """Return the classes of real media and of their round trips, int64 (2, n)."""
        found = []
        clip_numbers = clip_rows(table, context.clips, evaluator.rows)
        for part in np.array_split(clip_numbers, -(-len(evaluator) // decode_batch(tokenizer))):
            media = context.first_media(modality.name, part)
            back = tokenizer.decode(tokenizer.encode(media))
            found.append(np.stack([classifier.predict(own) for own in (media, back)]))
        return np.concatenate(found, axis=1)

    real, back = context.recall(f"classified-{modality.name}", classes) == evaluator.labels
    figure = score(
        real, evaluator.labels, len(evaluator.classes), evaluator.clusters([target]),
        round_trip=float(back.mean()),
    )  # fmt: skip
    train = _on_train_media(context, target, classifier)
    return classifier, ClassifierScore(modality=modality.name, accuracy=figure, train=train)


def _on_train_media(context: EvalContext, target: int, classifier: Classifier) -> Score:
    """Return the score of a classifier on a seeded part of the media that it was trained on."""
    evaluator, clips = context.evaluator, context.clips
    kind = evaluator.tokens.modalities[target].media
    rows = clip_rows(context.table, clips, context.train_rows)
    learnt = rows[chosen_clips(kind, clips, rows, context.config.seed)]
    some = np.sort(evaluator.rng(TRAIN_MEDIA, target).permutation(learnt)[:MOST_TRAIN_MEDIA])
    is_plane = media_kind(kind).is_plane
    media = [
        clips.media(kind, part, frame=0 if is_plane else None)
        for part in np.array_split(some, -(-len(some) // 64))
    ]
    labels = np.searchsorted(evaluator.classes, clips.labels[some])
    return score(
        predict(classifier, media) == labels, labels, len(evaluator.classes),
        clip_origins(clips, some).clusters(is_plane),
    )  # fmt: skip


def generate_and_classify(context: EvalContext, target: int) -> Made:
    """Generate a modality from each other one, and classify it if there are classes."""
    classifier, result = None, None
    is_judged = len(context.evaluator.of(target)) >= LEAST_CLIPS
    if len(context.evaluator.classes) > 1 and is_judged:
        classifier, result = classifier_of(context, target)
    cells, all_sources, ids = directions_into(
        context.evaluator, target, context.config.generate, context.tokenizers, classifier,
        result.accuracy.round_trip if result else None, context.recall,
    )  # fmt: skip
    evaluator, names = context.evaluator, context.evaluator.names
    copied = memorization(
        evaluator, context.table, context.train_rows_with(target), target,
        {names.index(key.split("->")[0]): own for key, own in ids.items()},
        real_ids(evaluator, target),
    )  # fmt: skip
    return Made(
        classifier=result, cells=cells, all_sources=all_sources, memorization=copied, ids=ids
    )


def _counts(context: EvalContext, target: int) -> NgramModel:
    rows = context.train_rows_with(target)
    recordings = context.clips.groups[clip_rows(context.table, context.clips, rows)]
    modality = context.evaluator.tokens.modalities[target]
    return fit_ngrams(context.table, modality, rows, context.config.seed, recordings)


def score_likelihoods(context: EvalContext, target: int) -> Likelihoods:
    """Return what a modality's likelihoods give: cross-entropy, retrieval, continuation."""
    evaluator = context.evaluator.of(target)
    if len(evaluator) < LEAST_CLIPS:
        return Likelihoods(entropy=None, retrieval=[], continuation=None)
    counts = _counts(context, target)
    return Likelihoods(
        entropy=cross_entropy(
            evaluator, counts, target, context.config.clips.window_seconds, context.recall
        ),
        retrieval=retrieval_of(evaluator, target),
        continuation=continuation(evaluator, counts, target),
    )


def classify_by_caption(context: EvalContext, condition: str) -> Classified:
    """Classify the clips by the likelihood of captions under one condition."""
    return Classified(**classify(context.captions, condition)._asdict())


class Task(NamedTuple):
    """One call of ``work`` with a context and ``argument``, of which ``name`` tells."""

    work: Callable[[EvalContext, Any], TaskResult]
    argument: Any
    name: str

    @property
    def kind(self) -> type[TaskResult]:
        """Type of the result."""
        return get_type_hints(self.work)["return"]


def tasks_of(context: EvalContext) -> list[Task]:
    """Return all tasks, the longest first, so that no process waits long for another at the end."""
    modalities = context.evaluator.tokens.modalities
    order = sorted(range(len(modalities)), key=lambda i: -modalities[i].length)
    tasks = [
        Task(work, target, f"{work.__name__}-{modalities[target].name}")
        for work in (generate_and_classify, score_likelihoods)
        for target in order
    ]
    if context.text is not None and len(context.evaluator.classes) > 1:
        names = reversed(conditions(context.evaluator, context.text))
        work = classify_by_caption
        tasks += [Task(work, name, f"{work.__name__}-{name}") for name in names]
    return tasks


@lru_cache(maxsize=1)
def _context_of_worker(config: str, load_run: RunLoader, recall: Recall) -> EvalContext:
    return open_context(Config.model_validate_json(config), load_run, recall)


@float32_math()
def _work(config: str, load_run: RunLoader, recall: Recall, task: Task) -> TaskResult:
    return task.work(_context_of_worker(config, load_run, recall), task.argument)


@contextmanager
def _one_thread() -> Iterator[None]:
    # One thread, as in a worker: sums in another order would give other samples.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _results(
    context: EvalContext, load_run: RunLoader, tasks: Sequence[Task]
) -> Iterator[tuple[Task, TaskResult]]:
    """Yield each task with its result, in the order in which they are done.

    On a GPU, or with fewer than two ``evaluate.workers``, this process does all.
    """
    on_gpu = context.evaluator.model.device.type != "cpu"
    workers = 0 if on_gpu else min(count_workers(context.config.evaluate.workers), len(tasks))
    if workers < 2:
        for task in tasks:
            with _one_thread(), float32_math():
                result = task.work(context, task.argument)
            yield task, result
        return
    config = context.config.model_dump_json()
    with worker_pool(workers, "--evaluate.workers") as pool:
        futures = {pool.submit(_work, config, load_run, context.recall, t): t for t in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def run_tasks(
    context: EvalContext,
    load_run: RunLoader,
    tasks: Sequence[Task],
    files: TaskFiles | None = None,
    started: float | None = None,
) -> list[Any]:
    """Return the result of each task, in order; processes open the run by ``load_run``.

    Args:
        context: Of the run.
        load_run: Opens it in another process.
        tasks: To be done.
        files: Those that are finished there are read; the others are stored as soon as they are.
        started: ``time.perf_counter()`` when this attempt began.
    """
    started = time.perf_counter() if started is None else started
    found = {t: files.read(t.name, t.kind) for t in tasks} if files else {}
    found = {task: result for task, result in found.items() if result is not None}
    if found:
        log_info(f"evaluate: goes on after {len(found)} of {len(tasks)} tasks")
    left = [task for task in tasks if task not in found]
    earlier = files.seconds if files else 0.0
    with bar("evaluate", len(tasks), "task", len(found)) as progress:
        for task, result in _results(context, load_run, left):
            if files:
                files.write(task.name, result, earlier + time.perf_counter() - started)
            found[task] = result
            progress.advance()
    return [found[task] for task in tasks]
