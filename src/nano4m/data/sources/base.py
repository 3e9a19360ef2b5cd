"""Interface of a source: a cheap plan of all clips, and the media of one clip at a time."""

from collections.abc import Iterable, Mapping, Sequence
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
        video_id: Recording that the clip comes from; all its clips are in one split.
        group: Recording or video, the unit that repeats in statistics; None: ``video_id``.
        start_s: Where the clip starts in that recording, in seconds.
        label: Class, one lower-case word.
        caption: One sentence; "": it has none.
        more_captions: Further ones of the same clip.
        split: train, val or test.
        licence: Licence of the media of this clip.
        measures: Numbers that are known of the clip before its media, such as what a synthetic
            source drew; columns of the clips table.
        reason: Why the clip is not kept, where that is known before its media are read; it is
            counted by what stands before the first colon.
        is_split_given: Whether the user or the source says the split, so that it is never changed;
            else it is dealt.
        draws_pictures: Whether its pictures are drawn from those of its class and split, see
            ``Source.in_split``.
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
    more_captions: tuple[str, ...] = ()
    group: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    is_split_given: bool = False
    draws_pictures: bool = False
    details: dict[str, str | int | float | list[str]] = field(default_factory=dict)

    @property
    def captions(self) -> tuple[str, ...]:
        """All of them, () if it has none."""
        return (self.caption, *self.more_captions) if self.caption else ()


class ClipPlans(list[ClipPlan]):
    """Clips of a source, and how many of its files no clip reads.

    Attributes:
        unread: Reason -> class, or "" -> how many files; ``{"no medium: .txt": {"cat": 2}}``.
        pairing: How clips have their pictures -> how many, ``{"are films": 3}``.
    """

    def __init__(
        self,
        plans: Iterable[ClipPlan],
        unread: Mapping[str, Mapping[str, int]] | None = None,
        pairing: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(plans)
        self.unread = dict(unread or {})
        self.pairing = dict(pairing or {})


@dataclass(frozen=True, kw_only=True)
class RawMedia:
    """The media of one clip as recorded, before any cutting.

    Attributes:
        sound: float32 (samples,) mono or (samples, channels), in [-1, 1]; None: the clip has none.
        sample_rate: In Hz; of no meaning without a sound.
        frames: uint8 (H, W, 3) pictures, in order of time; those of one video have one size. Empty:
            the clip has none, and no planes.
        frame_times: Seconds of each frame on the clock of ``sound``; None for still pictures,
            which belong to the whole sound. Several windows of it begin at different pictures.
        planes: Kind of media -> arrays (H, W) or (H, W, 3), one a frame, that hold a value for each
            pixel: ``depth``, float32 distances along the ray in metres; ``normals``, float32 unit
            vectors in camera axes (x right, y up, z to the viewer); what the kind's ``crop`` takes.
            A clip may lack any of them.
        left_out: Unreadable files that were replaced by others: name and reason.
        originals: Pictures that ``frames`` were made from, where those are random variants of them;
            they alone decide whether two frames are the same picture. None: the frames themselves.
        absent: Kind of media -> why the clip has none, for the reason of one that needs it.
        measures: Numbers known of these media alone; columns of the clips table.
        recording: A sound or a film that ``cut`` reads, since its windows decide what; ``sound`` is
            None then, and ``frames`` are those of a recording without pictures of its own.
    """

    sound: np.ndarray | None
    sample_rate: int
    frames: tuple[np.ndarray, ...]
    frame_times: tuple[float, ...] | None = None
    planes: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    originals: Sequence[np.ndarray] | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    recording: Path | None = None


class Source(Protocol):
    """A module of this folder with these functions; SOURCES lists them by name.

    ``settings`` is the source's own section of the configuration. ``in_split`` is needed only of a
    source whose clips draw pictures.
    """

    def plan(self, settings: object, data: Path | None, seed: int) -> Sequence[ClipPlan]:
        """Return all clips, the same for the same arguments; ``ClipPlans`` say what is not read.

        Raises:
            UserError: ``data`` is missing, empty or not of this source's layout.
        """

    def load(self, plan: ClipPlan, settings: object) -> RawMedia:
        """Return the media of one clip, read or made; they depend on the arguments alone.

        Raises:
            BadMedia: The media cannot be read; the clip gets a manifest row with the reason.
        """

    def in_split(
        self, chosen: Sequence[ClipPlan], splits: Mapping[str, str], plans: Sequence[ClipPlan]
    ) -> list[ClipPlan]:
        """Return clips that move to the split of their ``video_id`` and draw from its pictures."""
