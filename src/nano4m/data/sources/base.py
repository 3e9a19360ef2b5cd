"""What a source of clips gives: a cheap plan of all clips, then the media of one clip at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """One clip before its media are read: small, picklable, cheap to make for all clips.

    Attributes:
        clip_id: Unique in the source; letters, digits, ``_ . -`` only.
        source: Name of the source.
        video_id: Recording that the clip comes from. A split never separates clips of one video.
        start_s: Where the clip starts in that recording, in seconds.
        label: Class, one lower-case word.
        caption: One sentence.
        split: train, val or test.
        licence: Licence of the media of this clip.
        details: What ``load`` needs to find or make the media (paths, a seed).
    """

    clip_id: str
    source: str
    video_id: str
    start_s: float
    label: str
    caption: str
    split: Split
    licence: str
    details: dict[str, str | int | float | list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RawMedia:
    """The media of one clip as recorded, before any cutting.

    Attributes:
        sound: float32 (samples,) mono or (samples, channels), in [-1, 1].
        sample_rate: In Hz.
        frames: uint8 (H, W, 3) pictures, in time order; all of one size where of one video.
        frame_times: Seconds of each frame in the same clock as ``sound``; None for still pictures,
            which belong to the whole sound.
        planes: Kind of media -> what lies on the pixels of the frames, (H, W) or (H, W, 3), one a
            frame: ``depth``, float32 distances along the ray in metres; ``normals``, float32 unit
            vectors in camera axes (x right, y up, z to the viewer); what the kind's ``crop`` takes.
        left_out: Files that could not be read and in whose place others stand: name and reason.
    """

    sound: np.ndarray
    sample_rate: int
    frames: tuple[np.ndarray, ...]
    frame_times: tuple[float, ...] | None = None
    planes: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class Source(Protocol):
    """A module of this folder with these two functions; SOURCES lists them by name.

    ``settings`` is the source's own section of the configuration.
    """

    def plan(self, settings: object, data: Path | None, seed: int) -> Sequence[ClipPlan]:
        """List every clip, the same for the same arguments.

        Raises:
            UserError: ``data`` is missing, empty or not of this source's form.
        """

    def load(self, plan: ClipPlan, settings: object) -> RawMedia:
        """Read or make the media of one clip; the result depends on the arguments alone.

        Raises:
            BadMedia: The media cannot be read; the clip gets a manifest row with the reason.
        """
