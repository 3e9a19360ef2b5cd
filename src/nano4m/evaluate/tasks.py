"""What evaluation consists of: tasks that need nothing of each other, shared out to processes.

Every task draws from random streams of its own and computes in one thread, so results do not depend
on how many processes there are.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from nano4m.compute.workers import count_workers, worker_pool
from nano4m.config.run import Config
from nano4m.evaluate.bench import RESAMPLE
from nano4m.evaluate.classify import classify, conditions
from nano4m.evaluate.coherence import decode_batch, directions_into, predict
from nano4m.evaluate.continuation import continuation
from nano4m.evaluate.counting import Counts, count_tokens
from nano4m.evaluate.cross_entropy import cross_entropy
from nano4m.evaluate.desk import Desk, Opener, clip_rows, open_desk
from nano4m.evaluate.judges import Judge, train_judge
from nano4m.evaluate.results import Continuation, CrossEntropy, Direction, Probe, Together
from nano4m.evaluate.results import Judge as JudgeResult
from nano4m.evaluate.retrieval import retrieval_of
from nano4m.evaluate.stats import score
from nano4m.modalities import FRAMED
from nano4m.progress import bar


class Made(NamedTuple):
    """What is generated as one modality, and what its judge says."""

    judge: JudgeResult | None
    cells: list[Direction]
    together: Together | None
    ids: dict[str, np.ndarray]


class Likelihoods(NamedTuple):
    """What the likelihood of one modality's tokens tells."""

    entropy: CrossEntropy
    retrieval: list[Probe]
    continuation: Continuation | None


def judge_of(desk: Desk, target: int) -> tuple[Judge, JudgeResult]:
    """Train the judge of a modality and score it on the judged clips, real and through ids."""
    bench, table, evaluate = desk.bench, desk.table, desk.config.evaluate
    modality = bench.tokens.modalities[target]
    kind, tokenizer = modality.media, desk.tokenizers[modality.name]
    labels = np.searchsorted(bench.classes, table.labels[desk.train_rows])
    judge = train_judge(
        kind, desk.clips, clip_rows(table, desk.clips, desk.train_rows), labels,
        len(bench.classes), evaluate.judge_steps, desk.config.seed, bench.model.device,
    )  # fmt: skip
    real, back = [], []
    judged = clip_rows(table, desk.clips, bench.rows)
    for part in np.array_split(judged, -(-len(bench) // decode_batch(tokenizer))):
        media = desk.clips.media(kind, part, frame=0 if kind in FRAMED else None)
        real.append(media)
        back.append(tokenizer.decode(tokenizer.encode(media)))
    round_trip = predict(judge, back) == bench.labels
    figure = score(
        predict(judge, real) == bench.labels, bench.labels, len(bench.classes),
        bench.rng(RESAMPLE, target), bench.resamples, upper=float(round_trip.mean()),
    )  # fmt: skip
    return judge, JudgeResult(modality=modality.name, accuracy=figure)


def make(desk: Desk, target: int) -> Made:
    """Generate a modality from each other one and judge it; a run of one class has no judge."""
    judge, result = judge_of(desk, target) if len(desk.bench.classes) > 1 else (None, None)
    cells, together, ids = directions_into(
        desk.bench, target, desk.config.generate, desk.tokenizers, judge,
        result.accuracy.upper if result else None,
    )  # fmt: skip
    return Made(result, cells, together, ids)


def _counts(desk: Desk, target: int) -> Counts:
    return count_tokens(desk.table, desk.bench.tokens.modalities[target], desk.train_rows)


def rate(desk: Desk, target: int) -> Likelihoods:
    """Ask how likely the tokens of a modality are: cross-entropy, retrieval, continuation."""
    bench, counts = desk.bench, _counts(desk, target)
    return Likelihoods(
        cross_entropy(bench, counts, target, desk.config.clips.window_seconds),
        retrieval_of(bench, target),
        continuation(bench, counts, target),
    )


def ask_class(desk: Desk, condition: str) -> Probe:
    """Classify the clips by the likelihood of captions under one condition."""
    assert desk.text is not None
    return classify(desk.bench, desk.trie, desk.begun, desk.text, condition)


class Task(NamedTuple):
    """One call of ``work`` with a desk and ``argument``."""

    work: Callable[[Desk, Any], Any]
    argument: Any


def tasks_of(desk: Desk) -> list[Task]:
    """Return all tasks, the longest first, so that no process waits long for another at the end."""
    modalities = desk.bench.tokens.modalities
    order = sorted(range(len(modalities)), key=lambda i: -modalities[i].length)
    tasks = [Task(make, target) for target in order] + [Task(rate, target) for target in order]
    if desk.text is not None and len(desk.bench.classes) > 1:
        names = list(conditions(desk.bench, desk.text))
        tasks += [Task(ask_class, name) for name in reversed(names)]
    return tasks


@lru_cache(maxsize=1)
def _desk_of_worker(config: str, opener: Opener) -> Desk:
    return open_desk(Config.model_validate_json(config), opener)


def _work(config: str, opener: Opener, task: Task) -> Any:
    return task.work(_desk_of_worker(config, opener), task.argument)


@contextmanager
def _one_thread() -> Iterator[None]:
    # As many as a worker has: sums in another order would give other samples.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_tasks(desk: Desk, opener: Opener, tasks: Sequence[Task]) -> list[Any]:
    """Return the result of each task, in order; processes open the run by ``opener``.

    On a GPU, or with fewer than two ``evaluate.workers``, this process does all.
    """
    on_gpu = desk.bench.model.device.type != "cpu"
    workers = 0 if on_gpu else min(count_workers(desk.config.evaluate.workers), len(tasks))
    with bar("evaluate", len(tasks), "task") as progress:
        if workers < 2:
            results = []
            with _one_thread():
                for task in tasks:
                    results.append(task.work(desk, task.argument))
                    progress.advance()
            return results
        config = desk.config.model_dump_json()
        with worker_pool(workers, "--evaluate.workers") as pool:
            futures = [pool.submit(_work, config, opener, task) for task in tasks]
            for future in as_completed(futures):
                future.result()
                progress.advance()
            return [future.result() for future in futures]
