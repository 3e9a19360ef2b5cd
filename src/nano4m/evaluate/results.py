"""The schema of ``results.json``: every figure of a run, with its baselines.

A score is never alone: it stands with what chance and the majority class reach, with its controls
and upper bound, the number of clips and a bootstrap interval.
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
"""Fields of before -> those of now, wherever they stand in a figure."""


class Part(BaseModel):
    """Base of all parts; a field that this version does not know is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        new = {old: RENAMED[old] for old in given if RENAMED.get(old) in cls.model_fields}
        return {new.get(key, key): value for key, value in given.items()}


class Score(Part):
    """One figure of a probe, as a share in [0, 1]."""

    value: float
    low: float = Field(description="Lower end of the 95 % bootstrap interval.")
    high: float = Field(description="Upper end of the 95 % bootstrap interval.")
    n: int = Field(description="Clips that it was measured on.")
    chance: float = Field(description="What uniform guessing reaches.")
    majority: float | None = Field(
        None, description="What the commonest class reaches, if classes."
    )
    balanced: float | None = Field(None, description="Mean over classes, if classes.")
    round_trip: float | None = Field(
        None, description="What real media reach through the tokenizer."
    )
    controls: dict[str, float] = Field(
        default_factory=dict,
        description="The same figure with a planted input: shuffled, caption begun.",
    )


class CrossEntropy(Part):
    """Cross-entropy of one modality in nats a token, on fixed clips."""

    modality: str
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(description="Train frequencies of each position and codebook.")
    bigram: float = Field(
        description="Train frequencies of each position and codebook after the token before it, "
        "which the bigram is told."
    )
    conditions: dict[str, float] = Field(
        description="By what is given: nothing, half of itself (the other half is asked for; of a "
        "text the second half), each other modality alone, all others, shuffled others."
    )
    tokens: int = Field(description="Tokens measured.")
    unit: str = Field(description="What bits are given for: a picture, a second or a text.")
    bits: dict[str, float] = Field(
        description="Bits a unit, comparable across vocabularies: uniform, unigram, bigram and the "
        "conditions under which the whole is asked for."
    )


class Continuation(Part):
    """Nats a token of the second half of a sound or text, given its first half and nothing else."""

    modality: str
    value: float = Field(
        description="By the chain rule: each frame (of a text each token) given all before it."
    )
    low: float = Field(description="Lower end of the 95 % bootstrap interval over clips.")
    high: float = Field(description="Upper end of the 95 % bootstrap interval over clips.")
    at_once: float = Field(
        description="All of the second half asked for at once, as in training; of a text the value."
    )
    n: int = Field(description="Clips that it was measured on.")
    tokens: int = Field(description="Tokens measured.")
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(description="Of the same tokens, see CrossEntropy.")
    bigram: float = Field(
        description="Of the same tokens: told each true token before the one it predicts, as the "
        "value is."
    )
    controls: dict[str, float] = Field(
        description="As at_once, given the beginning of another clip (shuffled), or none (nothing; "
        "not texts)."
    )


class Spread(Part):
    """How varied a set of token sequences of one modality is."""

    entropy: float = Field(description="Of the tokens, whatever their place, in nats.")
    distinct_sequences: float = Field(description="Different sequences over sequences.")
    distinct_tokens: float = Field(description="Ids in use over the vocabulary.")
    within: float | None = Field(
        None, description="Mean share of tokens in which two sequences of one class differ."
    )
    between: float | None = Field(None, description="The same for two of different classes.")


class Diversity(Part):
    """What was generated beside as many real clips: a collapsed sampler is less varied."""

    generated: Spread
    real: Spread


class Direction(Part):
    """One cell of the any-to-any matrix: what is generated as ``target`` from ``source`` alone."""

    source: str
    target: str
    class_consistency: Score = Field(
        description="How often a classifier sees the clip's class in what is made."
    )
    diversity: Diversity | None = Field(None, description="How varied what is made is.")


class Difference(Part):
    """One share minus another of the same clips."""

    value: float
    low: float = Field(description="Lower end of the 95 % bootstrap interval over pairs.")
    high: float = Field(description="Upper end of the 95 % bootstrap interval over pairs.")


class AllSources(Part):
    """What is generated as ``target`` from all other modalities at once: more must not hurt."""

    target: str
    class_consistency: Score = Field(description="As in Direction.")
    gain_over: dict[str, Difference] = Field(
        description="Coherence from all minus that from this source alone, by source."
    )


class ClassifierScore(Part):
    """A classifier of real media of the train split that classifiers what the model makes."""

    modality: str
    accuracy: Score = Field(
        description="On real media; its round_trip field is on tokenizer round trips."
    )


class Probe(Part):
    """A figure with a name: class from a sound, retrieval of a picture by a sound."""

    name: str
    task: str = Field(description="classification or retrieval.")
    source: str
    target: str
    score: Score


class Results(Part):
    """Everything that the report shows as a number."""

    format: int = Field(FORMAT, description="Of this file; a newer one is refused.")
    preset: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    split: str
    classes: list[str]
    clips: dict[str, Any] = Field(description="NgramModel of the clips stage.")
    tokenizers: dict[str, Any] = Field(description="Quality of each tokenizer, by modality.")
    training: dict[str, Any] = Field(description="Summary of the train stage.")
    cross_entropy: list[CrossEntropy]
    continuation: list[Continuation] = Field(description="One a sound and a text.")
    classifiers: list[ClassifierScore]
    probes: list[Probe]
    matrix: list[Direction]
    all_sources: list[AllSources] = Field(
        description="One a target, with three modalities or more."
    )
    seconds: dict[str, float] = Field(description="Wall time of each stage.")


def read_results(path: Path) -> Results:
    """Read ``results.json``.

    Raises:
        UserError: It is damaged, or another version of this project measured other things.
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
        Results, CrossEntropy, Continuation, ClassifierScore, Probe, Direction, AllSources, Difference,
        Diversity, Spread, Score,
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
