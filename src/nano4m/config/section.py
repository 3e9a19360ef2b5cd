"""Base class of the configuration's sections: frozen, closed, validated."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: immutable, no unknown fields, defaults validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

Workers = Annotated[int, Field(ge=0)] | Literal["auto"]
"""A number of processes; ``compute.workers.count_workers`` says what auto is."""
