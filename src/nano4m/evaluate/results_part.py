"""Base of all parts of ``results.json``."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

RENAMED = {
    "judges": "classifiers",
    "together": "all_sources",
    "coherence": "class_consistency",
    "over": "gain_over",
    "upper": "round_trip",
}
"""Old field names -> new ones, in any part."""


CLUSTERS: int | None = Field(
    None,
    description="Clusters of clips that share a recording or a picture; the interval is over them.",
)
EFFECTIVE: float | None = Field(None, description="Independent clips that would be as informative.")


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
