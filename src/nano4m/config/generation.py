"""Sampling settings: the section ``generate`` of a configuration.

The fields of ``Sampling`` apply to every modality; ``modalities`` overrides some of them for one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from tyro.constructors import PrimitiveConstructorSpec

from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, Section
from nano4m.errors import nearest
from nano4m.modalities import MODALITIES

Setting = str | int | float | bool
Overrides = dict[str, dict[str, Setting]]
Order = Literal["confidence", "random", "halton", "raster"]
TokenSchedule = Literal["cosine", "linear", "constant"]
Codebooks = Literal["levels", "together", "interleave", "parallel", "delay"]
GuidanceSchedule = Literal["constant", "linear", "cosine"]
GuidanceWeight = Annotated[float, Range(-1000, 1000)]

LEAST_TEMPERATURE = 1e-6
"""Below it the most likely ids are taken: logits over a smaller one may not be finite."""

LOWEST, POWER = Range(0, 1e6), Range(0.01, 100)
"""The numbers of ``onex:MIN:POWER``."""

_ONEX = re.compile(r"onex:(\d+(?:\.\d*)?):(\d+(?:\.\d*)?)")


def onex(text: str) -> tuple[float, float] | None:
    """Return (lowest temperature, power) of ``onex:MIN:POWER``, or None for any other text.

    So does a number out of range: a power of 0 would be no schedule.
    """
    match = _ONEX.fullmatch(text)
    if match is None:
        return None
    low, power = float(match[1]), float(match[2])
    return (low, power) if LOWEST.holds(low) and POWER.holds(power) else None


class Sampling(Section):
    """Sampling settings of one modality. A text is always decoded from left to right."""

    steps: Annotated[int, Range(1, 10**6)] = Field(
        8,
        description="Forward passes a modality, at most one a token to generate. Codebooks share "
        "them, the coarse ones first, at least one each.",
    )
    order: Order = Field(
        "confidence",
        description="Decoding order: most confident tokens first (MaskGIT), random (ROAR), spread "
        "over the grid (halton), or line by line (raster).",
    )
    schedule: TokenSchedule = Field(
        "cosine", description="Tokens a step: few first (cosine, linear), or constant."
    )
    temperature: Annotated[float, Range(LEAST_TEMPERATURE, 1e6, or_zero=True)] = Field(
        0.6, description="Sampling temperature; 0 takes the most likely ids."
    )
    temperature_schedule: str = Field(
        "constant",
        description="constant, linear (in the unknown tokens), or onex:MIN:POWER, which falls to "
        "MIN as one over a power of the tokens filled.",
    )
    noise: Annotated[float, Range(0, 1e6)] = Field(
        8.0, description="Gumbel noise on the confidence at the first step, annealed to 0."
    )
    top_k: Annotated[int, Range(0, 10**6)] = Field(
        0, description="Draw from the k most likely ids; 0: all."
    )
    top_p: Annotated[float, Range(1e-6, 1)] = Field(
        0.95, description="Nucleus sampling, after temperature."
    )
    guidance: GuidanceWeight = Field(
        1.0,
        description="Classifier-free guidance s: l_u + s (l_c - l_u). 1: none, 0: the conditions "
        "are ignored.",
    )
    guidance_schedule: GuidanceSchedule = Field(
        "constant", description="Full guidance at all steps, or rising from 1."
    )
    codebooks: Codebooks = Field(
        "levels",
        description="Residual codebooks coarse to fine, or all at once (together); or in the order "
        "of a sequence, a forward pass a step at least: token by token (interleave), frame by "
        "frame (parallel), or codebook q a frame later than q - 1 (delay, MusicGen).",
    )
    remask_rounds: Annotated[int, Range(0, 1000)] = Field(
        0, description="Further passes that redraw the least confident generated tokens."
    )
    remask_share: Annotated[float, Range(0, 1, above=True)] = Field(
        0.25, description="Share of the generated tokens that such a pass redraws."
    )

    @field_validator("temperature_schedule")
    @classmethod
    def _known_schedule(cls, value: str) -> str:
        if value not in ("constant", "linear") and onex(value) is None:
            raise ValueError(
                f"unknown temperature schedule {value!r}; choose from constant, linear, "
                f"onex:MIN:POWER, such as onex:0.5:0.5, with MIN {LOWEST.says(float)} and POWER "
                f"{POWER.says(float)}"
            )
        return value


def check_setting(name: str, value: Any) -> Setting:
    """Return a value for one field of ``Sampling``, converted to its type.

    Raises:
        ValueError: An unknown setting, or a value that it cannot have.
    """
    if name not in Sampling.model_fields:
        raise ValueError(f"unknown setting {name!r}; {nearest(name, Sampling.model_fields)}")
    try:
        return getattr(Sampling(**{name: value}), name)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} {value}: {message[0].lower()}{message[1:]}") from error


def parse_overrides(words: Sequence[str]) -> Overrides:
    """Return the settings in ``MODALITY.SETTING=VALUE`` words of the command line.

    Raises:
        ValueError: A word of another form; names and values are not checked here.
    """
    found: Overrides = {}
    for word in words:
        match = re.fullmatch(r"([^.=]+)\.([^.=]+)=(.+)", word)
        if match is None:
            raise ValueError(
                f"{word!r} is not of the form MODALITY.SETTING=VALUE, such as sound.noise=2"
            )
        found.setdefault(match[1], {})[match[2].replace("-", "_")] = match[3]
    return found


_WORDS: Any = PrimitiveConstructorSpec(
    nargs="*",
    metavar="MODALITY.SETTING=VALUE",
    instance_from_str=parse_overrides,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [
        f"{name}.{setting}={v}" for name, own in value.items() for setting, v in own.items()
    ],
)


def _checked(modality: str, own: Any) -> Any:
    """Return the settings of a modality, checked; anything but a mapping is returned as is."""
    if not isinstance(own, Mapping):
        return own
    named = {str(name).replace("-", "_"): value for name, value in own.items()}
    try:
        return {name: check_setting(name, value) for name, value in named.items()}
    except ValueError as error:
        raise ValueError(f"{modality}: {error}") from None


class GenerateConfig(Sampling):
    """MaskGIT sampling (arXiv:2202.04200) and variants, with overrides by modality."""

    batch_size: BatchSize = Field(
        64, description="Samples a forward pass on a CPU; on a GPU as many as fit."
    )
    modalities: Annotated[Overrides, _WORDS] = Field(
        default_factory=dict,
        description="Settings of single modalities, such as sound.noise=2 sound.temperature=1; "
        "modalities that a run lacks are ignored. The command line replaces the preset's.",
    )

    @field_validator("modalities", mode="before")
    @classmethod
    def _known_settings(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for name in value:
            if name not in MODALITIES:
                raise ValueError(f"unknown modality {name!r}; {nearest(str(name), MODALITIES)}")
        return {name: _checked(name, own) for name, own in value.items()}

    def for_modality(self, name: str) -> Sampling:
        """Return the settings of one modality, with its overrides."""
        shared = {field: getattr(self, field) for field in Sampling.model_fields}
        return Sampling(**(shared | self.modalities.get(name, {})))
