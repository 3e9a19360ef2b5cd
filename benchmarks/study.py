"""What the studies share: a finished run's data, trained and judged again under other settings.

A study takes clips, tokenizers and table of a run, so that only the settings under study differ,
and trains each classifier once a process.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nano4m.checkpoints.folder import load_model
from nano4m.compute.precision import float32_math
from nano4m.config.compatibility import read_stored
from nano4m.config.generation import GenerateConfig
from nano4m.config.run import Config
from nano4m.data.clip_table import open_clips
from nano4m.evaluate.class_consistency import decode, generate_from, predict, sampling_precision
from nano4m.evaluate.context import EvalContext, RunArtifacts, open_context
from nano4m.evaluate.tasks import classifier_of
from nano4m.stage import provenance
from nano4m.storage.json_files import read_json
from nano4m.tokenizers import load_tokenizer
from nano4m.tokens.table import open_table


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """Return ``config`` with fields named as on the command line: {"train.steps": 300}."""
    values = config.model_dump()
    for path, value in settings.items():
        *sections, name = path.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = value
    return Config.model_validate(values)


def config_of(run: Path) -> Config:
    """Return the configuration of a run."""
    return read_stored(Config, read_json(run / "config.json"))


@dataclass(frozen=True)
class RunLoader:
    """Opens a run's data with the model of ``checkpoint``."""

    run: Path
    checkpoint: Path

    def __call__(self) -> RunArtifacts:
        """Open them."""
        table = open_table(self.run / "table")
        model, token_spec = load_model(self.checkpoint)
        token_spec.require_same(table.token_spec, "the checkpoint", "the token table")
        tokenizers = {m.name: load_tokenizer(self.run / "tokenizers" / m.name)
                      for m in table.modalities}  # fmt: skip
        return RunArtifacts(open_clips(self.run / "clips"), tokenizers, table, model)


_process = ExitStack()
"""Settings that last as long as the process."""


def start_process() -> None:
    """Compute in one thread: a study runs as many processes as there are cores."""
    torch.set_num_threads(1)
    _process.enter_context(float32_math())


@lru_cache
def classifiers(
    run: Path, checkpoint: Path, split: str, clips: int
) -> tuple[EvalContext, list[Any]]:
    """Return a context of ``run`` and the classifier of each modality; trained once a process."""
    config = with_settings(config_of(run), {"evaluate.split": split, "evaluate.clips": clips})
    context = open_context(config, RunLoader(run, checkpoint))
    return context, [
        classifier_of(context, target) for target in range(len(context.evaluator.names))
    ]


def coherent(
    context: EvalContext,
    target: int,
    classifier: Any,
    source: int,
    settings: GenerateConfig,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples of ``target`` from ``source`` alone are of their class, and their ids.

    Args:
        context: Of the run; the model of its evaluator draws.
        target, source: Indices of modalities.
        classifier: Of the target.
        settings: Of the sampler.
        seed: Of the samples.
    """
    evaluator = replace(context.evaluator, seed=seed)
    name, modality = evaluator.names[target], evaluator.tokens.modalities[target]
    with sampling_precision(evaluator.model.device):
        ids = generate_from(evaluator, [source], target, settings)
    found = predict(classifier, decode(context.tokenizers[name], modality, ids))
    return found == evaluator.labels, ids.numpy()


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Return ``61.2 +- 1.4`` in percent: mean and standard deviation over seeds."""
    spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{100 * np.mean(values):.{digits}f} +- {100 * spread:.{digits}f}"


def paired_difference(values: Sequence[float], base: Sequence[float], digits: int = 1) -> str:
    """Return ``+1.4 [+0.2, +2.6]`` in percent: mean difference over seeds, paired by seed.

    The interval is 95 %, by Student's t over the seeds; with one seed there is none.
    """
    change = 100 * (np.asarray(values) - np.asarray(base))
    mean, count = float(change.mean()), len(change)
    if count < 2:
        return f"{mean:+.{digits}f}"
    half = stats.t.ppf(0.975, count - 1) * float(change.std(ddof=1)) / count**0.5
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a study's JSON with where it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"provenance": provenance()}, indent=1) + "\n")
