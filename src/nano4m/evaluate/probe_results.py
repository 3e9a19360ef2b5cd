"""Scores of probes as ``results.json`` has them, with what they must exceed."""

import re
from typing import Any

from pydantic import Field, model_validator

from nano4m.evaluate.results_part import CLUSTERS, EFFECTIVE, Part


class Control(Part):
    """The score that control inputs reach, with the one that they should reach."""

    value: float
    low: float | None = Field(None, description="Lower end of the 95 % interval.")
    high: float | None = Field(None, description="Upper end of the 95 % interval.")
    n: int | None = Field(None, description="Number of clips.")
    expected: float | None = Field(
        None,
        description="Shuffled: what the same predictions reach if they are independent of the "
        "labels. Caption begun: 1.",
    )

    @model_validator(mode="before")
    @classmethod
    def _value_alone(cls, given: Any) -> Any:
        return {"value": given} if isinstance(given, int | float) else given


class Score(Part):
    """One score of a probe, as a share in [0, 1]."""

    value: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int = Field(description="Number of clips.")
    clusters: int | None = CLUSTERS
    effective: float | None = EFFECTIVE
    chance: float = Field(description="Score of uniform guessing.")
    majority: float | None = Field(
        None, description="Score of the most common class, for classification."
    )
    balanced: float | None = Field(None, description="Mean over classes, for classification.")
    round_trip: float | None = Field(
        None, description="Score of real media after a tokenizer round trip."
    )
    ceilings: dict[str, float] = Field(
        default_factory=dict,
        description="For retrieval, the score of one who knows of each clip nothing but its class, "
        "or nothing but its caption.",
    )
    controls: dict[str, Control] = Field(
        default_factory=dict,
        description="The same score with control inputs: those of another clip (shuffled), or the "
        "beginning of the clip's own caption (caption begun).",
    )

    @property
    def bar(self) -> float:
        """What must be exceeded: the highest of chance, commonest class and all ceilings."""
        return max(self.chance, self.majority or 0.0, *self.ceilings.values())

    @property
    def is_above(self) -> bool:
        """Whether the whole interval lies above ``bar``, and the mean over classes above chance."""
        is_balanced = self.balanced is None or self.balanced > self.chance
        return self.low > self.bar and is_balanced


class Probe(Part):
    """A named score: class from a sound, retrieval of a picture by a sound."""

    name: str
    task: str = Field(description="classification, retrieval or instance retrieval.")
    source: str
    target: str
    score: Score
    rule: str | None = Field(
        None,
        description="For classification, what is highest for the chosen class: posterior, or "
        "mutual information (the same minus its value without inputs).",
    )
    k: int | None = Field(None, description="For retrieval, the k of recall at k.")
    within: str | None = Field(
        None,
        description="For instance retrieval, what all candidates share with the query: class, or "
        "class and caption.",
    )

    @property
    def is_above(self) -> bool:
        """Whether more was found than its yardsticks explain; a gallery needs its ceilings."""
        has_yardsticks = self.task != "retrieval" or bool(self.score.ceilings)
        return has_yardsticks and self.score.is_above

    @model_validator(mode="before")
    @classmethod
    def _k_of_the_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and "k" not in given:
            found = re.search(r", R@(\d+)$", str(given.get("name")))
            return given | ({"k": int(found[1])} if found else {})
        return given


class LeftOut(Part):
    """A probe that was not measured."""

    probe: str
    reason: str
