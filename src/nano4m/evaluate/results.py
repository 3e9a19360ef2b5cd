"""The schema of ``results.json``: every result of a run, with its baselines.

Every score has chance and majority baseline, controls, accuracy on tokenizer round trips, the
number of clips and of clusters of clips, and an interval over the clusters (``intervals``).
"""

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from nano4m.evaluate.likelihood_results import Baseline, Continuation, CrossEntropy
from nano4m.evaluate.probe_results import Control, LeftOut, Probe, Score
from nano4m.evaluate.results_part import CLUSTERS, EFFECTIVE, Part
from nano4m.evaluate.sample_results import ClosestPair, Diversity, Memorization, Spread
from nano4m.storage.damage import reading
from nano4m.storage.json_files import FORMAT, read_object


class Direction(Part):
    """One cell of the any-to-any matrix: ``target`` generated from ``source`` only."""

    source: str
    target: str
    class_consistency: Score | None = Field(
        None,
        description="Share of generated media in which a classifier finds the clip's class; null "
        "in a run of one class.",
    )
    diversity: Diversity | None = Field(None, description="Diversity of the generated ids.")


class Difference(Part):
    """Difference of two shares on the same clips."""

    value: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int | None = Field(None, description="Number of clips.")
    clusters: int | None = CLUSTERS
    effective: float | None = EFFECTIVE


class AllSources(Part):
    """``target`` generated from all other modalities at once: more inputs must not hurt."""

    target: str
    class_consistency: Score = Field(description="As in Direction.")
    gain_over: dict[str, Difference] = Field(
        description="Class consistency from all minus that from this source only, by source."
    )


class ClassifierScore(Part):
    """Score of a classifier, trained on real media, that evaluates generated media."""

    modality: str
    accuracy: Score = Field(
        description="On real media of the evaluated clips; its round_trip field is on their "
        "tokenizer round trips."
    )
    train: Score | None = Field(
        None,
        description="On real media that it was trained on, at most 512 clips. Far above accuracy, "
        "it knows them by heart, and media copied from the train split would score as high.",
    )


class Results(Part):
    """All results of a run that the report shows."""

    format: int = Field(FORMAT, description="Format number of this file; newer ones are refused.")
    preset: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    split: str
    evaluated: int | None = Field(None, description="Clips that are evaluated.")
    available: int | None = Field(None, description="Clips of the split.")
    classes: list[str]
    clips: dict[str, Any] = Field(description="Counts of the clips stage.")
    tokenizers: dict[str, Any] = Field(description="Quality of each tokenizer, by modality.")
    training: dict[str, Any] = Field(description="Summary of the train stage.")
    cross_entropy: list[CrossEntropy]
    continuation: list[Continuation] = Field(description="One for each sound and text.")
    classifiers: list[ClassifierScore]
    probes: list[Probe]
    left_out: list[LeftOut] = Field(
        default_factory=list, description="Probes that were not measured, and why."
    )
    matrix: list[Direction]
    all_sources: list[AllSources] = Field(
        description="One for each target, with three modalities or more."
    )
    memorization: list[Memorization] = Field(
        default_factory=list, description="By target: all sources together, then each alone."
    )
    seconds: dict[str, float] = Field(description="Wall time of each stage.")

    @property
    def consistencies(self) -> dict[tuple[str, str], Score]:
        """Class consistency by (source, target); empty in a run of one class."""
        return {
            (d.source, d.target): d.class_consistency for d in self.matrix if d.class_consistency
        }


def read_results(path: Path) -> Results:
    """Return the content of ``results.json``.

    Raises:
        DamagedFile: It is damaged, or of an incompatible version.
        UserError: It has a newer format.
    """
    with reading(path):
        return Results.model_validate(read_object(path))


def schema_markdown() -> str:
    """Return ``docs/SCHEMA.md``: every field of ``results.json``, made from this module."""
    lines = [
        "# results.json",
        "",
        "Shares are in [0, 1], cross-entropies in nats a token unless they are called bits, times",
        "in seconds. Generated from",
        "`src/nano4m/evaluate/results.py`; a test keeps the two equal.",
    ]
    parts = (
        Results, CrossEntropy, Continuation, Baseline, ClassifierScore, Probe, LeftOut, Direction,
        AllSources, Memorization, ClosestPair, Difference, Diversity, Spread, Score, Control,
    )  # fmt: skip
    for part in parts:
        summary = (part.__doc__ or "").strip().splitlines()[0]
        lines += [
            "",
            f"## {part.__name__}",
            "",
            summary,
            "",
            "| field | type | meaning |",
            "|---|---|---|",
        ]
        for name, field in part.model_fields.items():
            kind = (
                getattr(field.annotation, "__name__", "")
                if isinstance(field.annotation, type)
                else ""
            )
            shown = kind or re.sub(r"typing\.|nano4m[\w.]*\.", "", str(field.annotation))
            lines.append(f"| `{name}` | `{shown.replace('|', 'or')}` | {field.description or ''} |")
    return "\n".join(lines) + "\n"
