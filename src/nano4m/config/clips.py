"""How a recording becomes a clip."""

from typing import Annotated, Literal

from pydantic import Field

from nano4m.config.numbers import Range
from nano4m.config.section import Section, Workers


class ClipsConfig(Section):
    """Cutting: one sound window, keyframes inside it, one crop for all pictures of a frame."""

    window_seconds: Annotated[float, Range(0.1, 30, above=True)] = Field(
        1.024, description="Sound window."
    )
    sample_rate: Literal[16000, 22050, 24000, 44100, 48000] = Field(24000, description="In Hz.")
    frames: Annotated[int, Range(1, 1024)] = Field(
        1, description="Keyframes a clip, evenly spaced inside the window."
    )
    picture_size: Annotated[int, Range(8, 512)] = Field(64, description="Pixels after the crop.")
    window: Literal["loudest", "start", "centre"] = Field(
        "loudest", description="Which part of a longer recording is kept; shorter ones are padded."
    )
    search_seconds: Annotated[float, Range(1, 600)] = Field(
        600.0,
        description="Of a recording, in which its window is looked for; of a longer one, ten parts "
        "evenly spread over it are heard.",
    )
    windows_per_recording: Annotated[int, Range(1, 100)] = Field(
        1,
        description="Most clips of a recording: its best windows that do not overlap and are not "
        "silent, all in one split.",
    )
    target_rms_db: Annotated[float | None, Range(-120, 0)] = Field(
        None,
        description="RMS level of every window, in dB of full scale; none: as recorded.",
    )
    require: tuple[str, ...] = Field(
        ("picture", "sound"),
        description="Kinds of media without which a clip is not kept; it may lack all others.",
    )
    min_seconds: Annotated[float, Range(0, 3600)] = Field(
        0.05, description="A recording shorter than this is not kept."
    )
    silence_db: Annotated[float, Range(-300, 0, note="-300: all are kept")] = Field(
        -60.0, description="A window quieter than this is not kept."
    )
    depth_near: Annotated[float, Range(1e-3, 1e4)] = Field(
        1.0, description="Distance in metres that is stored as 1 (inverse depth, 0 is infinity)."
    )
    workers: Workers = Field(
        "auto", description="Processes; 0 works in this one; auto: one a core, at most 16."
    )
