"""Evaluation of a run: all probes on the same clips, into ``results.json``, ``generated.npz``."""

import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from nano4m.config.run import Config
from nano4m.evaluate.context import RunLoader, open_context
from nano4m.evaluate.likelihood_evaluator import LEAST_CLIPS, LikelihoodEvaluator
from nano4m.evaluate.probe_results import LeftOut
from nano4m.evaluate.results import Direction, Results
from nano4m.evaluate.task_results import TaskFiles
from nano4m.evaluate.tasks import (
    classify_by_caption,
    generate_and_classify,
    run_tasks,
    score_likelihoods,
    tasks_of,
)
from nano4m.progress import log_info
from nano4m.storage.arrays import write_arrays
from nano4m.storage.files import write_text


def too_few(evaluator: LikelihoodEvaluator) -> list[LeftOut]:
    """Return the directions of which too few clips have both modalities."""
    found = []
    for source, target in permutations(range(len(evaluator.names)), 2):
        count = len(evaluator.clips_with(source, target))
        if count < LEAST_CLIPS:
            found.append(
                LeftOut(
                    probe=f"{evaluator.names[source]} -> {evaluator.names[target]}",
                    reason=f"{count} of {len(evaluator)} evaluated clips have both; a probe needs "
                    f"{LEAST_CLIPS}",
                )
            )
    return found


def evaluate_run(
    config: Config, load_run: RunLoader, folder: Path, about: Mapping[str, Any]
) -> Results:
    """Run every probe and write ``folder/results.json`` and ``folder/generated.npz``.

    Tasks that an attempt has finished before it was stopped are read, see ``task_results``.

    Args:
        config: Configuration of the run.
        load_run: Loads the run; every process of ``evaluate.workers`` calls it.
        folder: Folder of this stage; it exists.
        about: ``provenance``, ``clips``, ``tokenizers``, ``training`` and ``seconds`` of Results,
            and optionally ``preset``; the time taken is added to ``seconds`` as "evaluate".

    Returns:
        The results. ``generated.npz`` has "clip_ids" and generated ids, uint16 (n, length), as
        "<source>-><target>". A run of one class has no classifiers, class consistency and
        classification.

    Raises:
        UserError: Too few clips, or tables that do not match.
    """
    started = time.perf_counter()
    files = TaskFiles(folder, config)
    context = open_context(config, load_run, files.recall)
    evaluator = context.evaluator
    if len(evaluator.classes) < 2:
        log_info("evaluate: one class only, nothing to classify")
    tasks = tasks_of(context)
    found = {
        (task.work.__name__, task.argument): result
        for task, result in zip(
            tasks, run_tasks(context, load_run, tasks, files, started), strict=True
        )
    }
    targets = range(len(evaluator.names))
    made = [found[generate_and_classify.__name__, target] for target in targets]
    rated = [found[score_likelihoods.__name__, target] for target in targets]
    asked = [result for (work, _), result in found.items() if work == classify_by_caption.__name__]
    cells: dict[tuple[str, str], Direction] = {
        (cell.source, cell.target): cell for column in made for cell in column.cells
    }
    pairs = [(s, t) for s in evaluator.names for t in evaluator.names if s != t]
    ids = {name: own for column in made for name, own in column.ids.items()}
    arrays = {f"{s}->{t}": ids[f"{s}->{t}"] for s, t in pairs}
    clip_ids = context.table.clip_ids[evaluator.rows]
    write_arrays(folder / "generated.npz", arrays | {"clip_ids": clip_ids})
    results = Results(
        preset=about.get("preset", config.preset),
        config=config.model_dump(mode="json"),
        provenance=about["provenance"],
        split=config.evaluate.split,
        evaluated=len(evaluator),
        available=len(context.table.rows(config.evaluate.split)),
        classes=evaluator.classes,
        clips=about["clips"],
        tokenizers=about["tokenizers"],
        training=about["training"],
        cross_entropy=[own.entropy for own in rated if own.entropy],
        continuation=[own.continuation for own in rated if own.continuation],
        classifiers=[own.classifier for own in made if own.classifier],
        probes=[probe for own in asked[::-1] for probe in own.probes]
        + [probe for own in rated for probe in own.retrieval],
        left_out=[entry for own in asked[::-1] for entry in own.left_out] + too_few(evaluator),
        matrix=[cells[pair] for pair in pairs if pair in cells],
        all_sources=[own.all_sources for own in made if own.all_sources],
        memorization=[figure for own in made for figure in own.memorization],
        seconds=dict(about["seconds"])
        | {"evaluate": round(files.seconds + time.perf_counter() - started, 1)},
    )
    write_text(folder / "results.json", results.model_dump_json(indent=1) + "\n")
    files.remove()
    return results
