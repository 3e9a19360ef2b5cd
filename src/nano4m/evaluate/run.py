"""Evaluation of a run: all probes on the same clips, into ``results.json``, ``generated.npz``."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.config.run import Config
from nano4m.evaluate.desk import Opener, open_desk
from nano4m.evaluate.results import Direction, Results
from nano4m.evaluate.tasks import ask_class, make, rate, run_tasks, tasks_of
from nano4m.progress import say


def evaluate_run(
    config: Config, opener: Opener, folder: Path, context: Mapping[str, Any]
) -> Results:
    """Run every probe and write ``folder/results.json`` and ``folder/generated.npz``.

    Args:
        config: Of the run.
        opener: Opens the run; every process of ``evaluate.workers`` calls it.
        folder: Of this stage; it exists.
        context: ``provenance``, ``clips``, ``tokenizers``, ``training`` and ``seconds`` of Results,
            and perhaps ``preset``; the time taken is added to ``seconds`` as "evaluate".

    Returns:
        What was written. In ``generated.npz``: "clip_ids", and what was made, uint16 (n, length),
        as "<source>-><target>". A run of one class has no judges, matrix and classification.

    Raises:
        UserError: Too few clips, or tables that do not belong together.
    """
    started = time.perf_counter()
    desk = open_desk(config, opener)
    bench = desk.bench
    if len(bench.classes) < 2:
        say("evaluate: one class only, nothing to classify")
    tasks = tasks_of(desk)
    found = {
        (task.work.__name__, task.argument): result
        for task, result in zip(tasks, run_tasks(desk, opener, tasks), strict=True)
    }
    targets = range(len(bench.names))
    made = [found[make.__name__, target] for target in targets]
    rated = [found[rate.__name__, target] for target in targets]
    asked = [result for (work, _), result in found.items() if work == ask_class.__name__]
    cells: dict[tuple[str, str], Direction] = {
        (cell.source, cell.target): cell for column in made for cell in column.cells
    }
    pairs = [(s, t) for s in bench.names for t in bench.names if s != t]
    ids = {name: own for column in made for name, own in column.ids.items()}
    np.savez_compressed(
        folder / "generated.npz", allow_pickle=False,
        **{f"{s}->{t}": ids[f"{s}->{t}"] for s, t in pairs},
        clip_ids=desk.table.clip_ids[bench.rows],
    )  # fmt: skip
    results = Results(
        preset=context.get("preset", config.preset),
        config=config.model_dump(mode="json"),
        provenance=context["provenance"],
        split=config.evaluate.split,
        classes=bench.classes,
        clips=context["clips"],
        tokenizers=context["tokenizers"],
        training=context["training"],
        cross_entropy=[own.entropy for own in rated],
        continuation=[own.continuation for own in rated if own.continuation],
        judges=[own.judge for own in made if own.judge],
        probes=asked[::-1] + [probe for own in rated for probe in own.retrieval],
        matrix=[cells[pair] for pair in pairs if pair in cells],
        together=[own.together for own in made if own.together],
        seconds=dict(context["seconds"]) | {"evaluate": round(time.perf_counter() - started, 1)},
    )
    part = folder / "results.json.part"
    part.write_text(results.model_dump_json(indent=1) + "\n")
    os.replace(part, folder / "results.json")
    return results
