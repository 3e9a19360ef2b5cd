"""How a recording becomes a clip."""

from typing import Annotated, Literal

from pydantic import Field

from nano4m.config.section import Positive, Section, Workers


class ClipsConfig(Section):
    """Cutting: one sound window, keyframes inside it, one crop for all pictures of a frame."""

    window_seconds: Annotated[float, Field(gt=0.1, le=30)] = Field(
        1.024, description="Sound window."
    )
    sample_rate: Literal[16000, 22050, 24000, 44100, 48000] = Field(24000, description="In Hz.")
    frames: Positive = Field(1, description="Keyframes a clip, evenly spaced inside the window.")
    picture_size: Annotated[int, Field(ge=8, le=512)] = Field(
        64, description="Pixels after the crop."
    )
    window: Literal["loudest", "start", "centre"] = Field(
        "loudest", description="Which part of a longer recording is kept; shorter ones are padded."
    )
    target_rms_db: float | None = Field(
        None,
        description="RMS level of every window, in dB of full scale; none: as recorded.",
    )
    require: tuple[str, ...] = Field(
        ("picture", "sound"),
        description="Kinds of media without which a clip is not kept; it may lack all others.",
    )
    min_seconds: Annotated[float, Field(ge=0)] = Field(
        0.05, description="A recording shorter than this is not kept."
    )
    silence_db: float = Field(-60.0, description="A window quieter than this is not kept.")
    depth_near: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Distance in metres that is stored as 1 (inverse depth, 0 is infinity)."
    )
    workers: Workers = Field(
        "auto", description="Processes; 0 works in this one; auto: one a core, at most 16."
    )
