"""Results of the evaluation's tasks, and the files in which a finished task is kept.

A task that is done is stored in ``tasks/`` of the stage's folder, and what takes long within a task
as soon as it is there: generated ids, predicted classes, likelihoods of a condition. A repeated
command reads them. They are removed when all is done.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ConfigDict, Field

from nano4m.config.run import Config
from nano4m.evaluate.likelihood_results import Continuation, CrossEntropy
from nano4m.evaluate.probe_results import LeftOut, Probe
from nano4m.evaluate.results import AllSources, ClassifierScore, Direction
from nano4m.evaluate.results_part import Part
from nano4m.evaluate.sample_results import Memorization
from nano4m.progress import log_info
from nano4m.stage import versions
from nano4m.storage.finished_units import FinishedUnits, made_from

FOLDER = "tasks"
"""Folder of finished tasks in that of the stage."""


class TaskResult(Part):
    """Base of the results of tasks; ``ids`` are arrays, the rest is JSON."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    ids: dict[str, np.ndarray] = Field(default_factory=dict, exclude=True)


class Made(TaskResult):
    """What is generated as one modality, and the results of its classifier.

    ``ids`` are generated ids, uint16 (n, length), as "<source>-><target>".
    """

    classifier: ClassifierScore | None
    cells: list[Direction]
    all_sources: AllSources | None
    memorization: list[Memorization]


class Likelihoods(TaskResult):
    """Results from the likelihoods of one modality's tokens."""

    entropy: CrossEntropy | None
    retrieval: list[Probe]
    continuation: Continuation | None


class Classified(TaskResult):
    """The probes of one condition, and those that were left out."""

    probes: list[Probe]
    left_out: list[LeftOut]


Recall = Callable[[str, Callable[[], np.ndarray]], np.ndarray]
"""Function of the name and the maker of an array that a task needs; it returns the array."""


def compute(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return ``make()``: a ``Recall`` that stores nothing."""
    return make()


_R = TypeVar("_R", bound=TaskResult)


class TaskFiles:
    """Finished tasks of one evaluation, in files; any process of it reads and writes them.

    Args:
        folder: Folder of the stage, with its settings and inputs.
        config: ``seed``, ``generate`` and ``evaluate`` are settings of the tasks.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        settings = config.model_dump(
            mode="json", include={"seed": True, "generate": True, "evaluate": True},
            exclude={"evaluate": {"workers"}},
        )  # fmt: skip
        origin = made_from(folder, settings, versions())
        self._units = FinishedUnits(folder / FOLDER, origin, _tell)
        self.seconds = 0.0
        """Wall time of earlier attempts, up to the last task that they finished."""

    def read(self, name: str, kind: type[_R]) -> _R | None:
        """Return the result of a finished task, or None; add up ``seconds``."""

        def decode(value: Any, arrays: dict[str, np.ndarray]) -> tuple[_R, float]:
            result = kind.model_validate(value["result"] | {"ids": arrays})
            return result, float(value["seconds"])

        found = self._units.read(name, decode)
        if found is None:
            return None
        self.seconds = max(self.seconds, found[1])
        return found[0]

    def write(self, name: str, result: TaskResult, seconds: float) -> None:
        """Store the result of a task that was finished ``seconds`` after the evaluation began."""
        value = {"seconds": seconds, "result": json.loads(result.model_dump_json())}
        self._units.write(name, value, result.ids or None)

    def recall(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array ``name`` if it is there, else that of ``make()``, which is stored."""
        found = self._units.read(name, lambda _, arrays: arrays["array"])
        if found is None:
            found = make()
            self._units.write(name, None, {"array": found})
        return found

    def remove(self) -> None:
        """Remove all files of tasks."""
        self._units.remove()


def _tell(line: str) -> None:
    log_info(f"evaluate: {line}")
