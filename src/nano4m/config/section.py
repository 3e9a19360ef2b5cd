"""Base class of the configuration's sections, and the numbers that several of them have."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from nano4m.config.numbers import Range


class Section(BaseModel):
    """Base of all sections: immutable, no unknown fields, finite numbers, defaults validated too.

    Every number has a ``Range``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
Clips = Annotated[int, Range(1, 10**7)]
Steps = Annotated[int, Range(1, 10**8)]
BatchSize = Annotated[int, Range(1, 65536)]
Width = Annotated[int, Range(1, 16384)]
LearningRate = Annotated[float, Range(0, 10, above=True)]
Workers = Annotated[int | Literal["auto"], Range(0, 1024)]
"""A number of processes; ``compute.workers.count_workers`` says what auto is."""
