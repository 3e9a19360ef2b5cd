"""The schema of ``results.json``: every result of a run, with its baselines.

Every score has chance and majority baseline, controls, accuracy on tokenizer round trips, the
number of clips and of clusters of clips, and an interval over the clusters (``intervals``).
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nano4m.errors import UserError
from nano4m.json_files import FORMAT, read_json

RENAMED = {
    "judges": "classifiers",
    "together": "all_sources",
    "coherence": "class_consistency",
    "over": "gain_over",
    "upper": "round_trip",
}
"""Old field names -> new ones, in any part."""


class Part(BaseModel):
    """Base of all parts; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        new = {old: RENAMED[old] for old in given if RENAMED.get(old) in cls.model_fields}
        return {new.get(key, key): value for key, value in given.items()}


_CLUSTERS: int | None = Field(
    None,
    description="Clusters of clips that share a recording or a picture; the interval is over them.",
)
_EFFECTIVE: float | None = Field(
    None, description="Independent clips that would be as informative."
)


class Score(Part):
    """One score of a probe, as a share in [0, 1]."""

    value: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int = Field(description="Number of clips.")
    clusters: int | None = _CLUSTERS
    effective: float | None = _EFFECTIVE
    chance: float = Field(description="Score of uniform guessing.")
    majority: float | None = Field(
        None, description="Score of the most common class, for classification."
    )
    balanced: float | None = Field(None, description="Mean over classes, for classification.")
    round_trip: float | None = Field(
        None, description="Score of real media after a tokenizer round trip."
    )
    controls: dict[str, float] = Field(
        default_factory=dict,
        description="The same score with control inputs: shuffled (must be near chance), caption "
        "begun (must be near 1).",
    )


class Baseline(Part):
    """A counting baseline on the tokens of one figure, in nats a token."""

    value: float
    used: str = Field(
        description="The distribution that it is of: its own name, or uniform where counting came "
        "out worse than that on these tokens."
    )


class CrossEntropy(Part):
    """Cross-entropy of one modality in nats a token, on fixed clips."""

    modality: str
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(
        description="Train frequencies of each position and codebook; never above uniform."
    )
    bigram: float = Field(
        description="Train frequencies of each position and codebook given the true previous "
        "token; never above uniform."
    )
    baselines: dict[str, dict[str, Baseline]] = Field(
        default_factory=dict,
        description="By condition and name: the counting baselines that are given what the model "
        "is given there, and no more. Nothing: uniform and unigram. Half of itself: bigram, where "
        "the previous token is an input, else unigram. The caption: unigram of the clip's class. "
        "A text has its earlier tokens everywhere, so its baselines are uniform and bigram.",
    )
    conditions: dict[str, float] = Field(
        description="By inputs: nothing, half of itself (the targets are the other half; of a text "
        "the second half), each other modality alone, all others, shuffled others."
    )
    tokens: int = Field(description="Number of target tokens.")
    unit: str = Field(description="Unit of the bits: a picture, a second or a text.")
    bits: dict[str, float] = Field(
        description="Bits a unit, comparable across vocabularies: uniform, unigram, bigram and the "
        "conditions whose targets are all tokens."
    )


class Continuation(Part):
    """Nats a token of the second half of a sound or text, given its first half only."""

    modality: str
    value: float = Field(
        description="By the chain rule: each frame (of a text each token) given all earlier ones."
    )
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    at_once: float = Field(
        description="Second half predicted at once, as in training; of a text equal to value."
    )
    n: int = Field(description="Number of clips.")
    clusters: int | None = _CLUSTERS
    effective: float | None = _EFFECTIVE
    tokens: int = Field(description="Number of target tokens.")
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(description="Of the same tokens, see CrossEntropy.")
    bigram: float = Field(
        description="Of the same tokens, given the true previous token, as for value."
    )
    baselines: dict[str, dict[str, Baseline]] = Field(
        default_factory=dict,
        description="By figure and name, those that are given the same. Value: uniform and bigram. "
        "At once (not for texts): uniform and unigram.",
    )
    controls: dict[str, float] = Field(
        description="As at_once, given another clip's first half (shuffled), or none (nothing; not "
        "for texts)."
    )


class Spread(Part):
    """Diversity of a set of token sequences of one modality."""

    entropy: float = Field(description="Entropy of the tokens at all positions, in nats.")
    distinct_sequences: float = Field(description="Distinct sequences over sequences.")
    distinct_tokens: float = Field(description="Ids in use over the vocabulary.")
    within: float | None = Field(
        None, description="Mean share of tokens in which two sequences of one class differ."
    )
    between: float | None = Field(None, description="The same for different classes.")


class Diversity(Part):
    """Diversity of generated and of as many real clips: a collapsed sampler has less."""

    generated: Spread
    real: Spread


class Direction(Part):
    """One cell of the any-to-any matrix: ``target`` generated from ``source`` only."""

    source: str
    target: str
    class_consistency: Score = Field(
        description="Share of generated media in which a classifier finds the clip's class."
    )
    diversity: Diversity | None = Field(None, description="Diversity of the generated ids.")


class Difference(Part):
    """Difference of two shares on the same clips."""

    value: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int | None = Field(None, description="Number of clips.")
    clusters: int | None = _CLUSTERS
    effective: float | None = _EFFECTIVE


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
        description="On real media; its round_trip field is on tokenizer round trips."
    )


class Probe(Part):
    """A named score: class from a sound, retrieval of a picture by a sound."""

    name: str
    task: str = Field(description="classification or retrieval.")
    source: str
    target: str
    score: Score


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
    matrix: list[Direction]
    all_sources: list[AllSources] = Field(
        description="One for each target, with three modalities or more."
    )
    seconds: dict[str, float] = Field(description="Wall time of each stage.")


def read_results(path: Path) -> Results:
    """Return the content of ``results.json``.

    Raises:
        UserError: It is damaged, or of an incompatible version.
    """
    try:
        return Results.model_validate(read_json(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is damaged ({error}); measure the run again: nano4m evaluate PRESET --out OUT "
            "--overwrite"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is damaged or of another version ({place}{': ' * bool(place)}{first['msg']}); "
            "measure the run again: nano4m evaluate PRESET --out OUT --overwrite"
        ) from error


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
        Results, CrossEntropy, Continuation, Baseline, ClassifierScore, Probe, Direction,
        AllSources, Difference, Diversity, Spread, Score,
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
            shown = kind or str(field.annotation).replace("typing.", "").replace(f"{__name__}.", "")
            lines.append(f"| `{name}` | `{shown.replace('|', 'or')}` | {field.description or ''} |")
    return "\n".join(lines) + "\n"
