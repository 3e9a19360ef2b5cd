"""The plan of a run over a folder, and what the headers of its files say of each clip."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FolderDataset
from nano4m.config.run import Config
from nano4m.data.clip_ids import window_id
from nano4m.data.plan_checks import check_planned
from nano4m.data.sources.base import ClipPlan, ClipPlans
from nano4m.data.sources.folder import plan_contents
from nano4m.data.sources.folder_contents import Contents
from nano4m.data.sources.folder_layouts import find_contents
from nano4m.errors import BadMedia, UserError
from nano4m.media import media_kind
from nano4m.media.gate import opened
from nano4m.media.headers import Header, film_header, sound_header
from nano4m.progress import collected_log, track

MOST_SOUNDS = 10_000
MOST_FILMS = 500
"""Recordings whose headers are read; of more, as many evenly spread over all."""


@dataclass(kw_only=True)
class Planned:
    """What a run would find in a folder, and the clips that it would cut.

    Attributes:
        notes: What the run says.
        refusal: Why it would not work; "": it would.
        headers: File -> its header, of those that were looked at.
        lost: Clip -> why it will not be kept, as far as headers tell.
    """

    contents: Contents
    plans: ClipPlans
    notes: list[str]
    refusal: str
    headers: dict[str, Header] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def used(self) -> list[ClipPlan]:
        """Clips that are expected to be kept."""
        return [plan for plan in self.plans if plan.clip_id not in self.lost]

    def expected(self) -> Counter[tuple[str, str]]:
        """Return the clips that are expected to be kept by (class, split)."""
        return Counter((plan.label, plan.split) for plan in self.used)


def plan_folder(config: Config, data: Path) -> Planned:
    """Return what a run of ``config`` would make of a folder; recordings are not opened.

    Raises:
        UserError: The folder has none of the forms that are read, or its list is wrong.
    """
    assert isinstance(config.dataset, FolderDataset)
    plans, refusal = ClipPlans([]), ""
    with collected_log() as notes:
        contents = find_contents(data, config.dataset)
        try:
            plans = plan_contents(contents, config.dataset, config.seed)
            check_planned(plans, config)
        except UserError as error:
            refusal = str(error)
    return Planned(contents=contents, plans=plans, notes=notes, refusal=refusal)


def media_of(plan: ClipPlan, header: Header | None = None) -> dict[str, bool]:
    """Return which kinds of media a clip is expected to have."""
    if plan.details.get("is_video"):
        absent = header.absent if header else {}
        return {kind: kind not in absent for kind in ("sound", "picture")} | {
            "caption": bool(plan.caption)
        }
    return {
        "sound": "file" in plan.details,
        "picture": bool(plan.details.get("pictures")),
        "caption": bool(plan.caption),
    }


def read_headers(planned: Planned, clips: ClipsConfig) -> None:
    """Look at the recordings of all clips, and set ``headers`` and ``lost``.

    Every file is looked for, and MOST_SOUNDS and MOST_FILMS headers are read.
    """
    recorded = [plan for plan in planned.plans if not plan.reason and "file" in plan.details]
    films = [plan for plan in recorded if plan.details["is_video"]]
    sounds = [plan for plan in recorded if not plan.details["is_video"]]
    chosen = {plan.clip_id for plan in _evenly(films, MOST_FILMS)}
    chosen |= {plan.clip_id for plan in _evenly(sounds, MOST_SOUNDS)}
    planned.lost = {plan.clip_id: plan.reason for plan in planned.plans if plan.reason}
    for plan in track(recorded, "headers", len(recorded), "files"):
        name = str(plan.details["file"])
        try:
            with opened(Path(name)):
                pass
            if plan.clip_id in chosen and name not in planned.headers:
                read = film_header if plan.details["is_video"] else sound_header
                planned.headers[name] = read(Path(name))
        except BadMedia as error:
            planned.lost[plan.clip_id] = str(error)
    for plan in planned.plans:
        if plan.clip_id not in planned.lost:
            header = planned.headers.get(str(plan.details.get("file")))
            if why := _lost(plan, header, clips):
                planned.lost[plan.clip_id] = why
    planned.plans[:] = [own for plan in planned.plans for own in _windows(planned, plan, clips)]


def _windows(planned: Planned, plan: ClipPlan, clips: ClipsConfig) -> list[ClipPlan]:
    """Return a plan for each window that a recording has room for, one at least."""
    header = planned.headers.get(str(plan.details.get("file")))
    if plan.clip_id in planned.lost or header is None:
        return [plan]
    room = int(header.seconds / clips.window_seconds)
    count = max(1, min(clips.windows_per_recording, room))
    return [replace(plan, clip_id=window_id(plan.clip_id, k)) for k in range(count)]


def _lost(plan: ClipPlan, header: Header | None, clips: ClipsConfig) -> str:
    """Return why a clip will not be kept, in the words of the run, or "" where none is seen."""
    if header and 0 < header.seconds < clips.min_seconds and not plan.details.get("is_video"):
        return f"too short: {header.seconds:.4f} s, below min_seconds {clips.min_seconds:g} s"
    has = media_of(plan, header)
    for kind in clips.require:
        if not has.get(kind):
            told = header.absent.get(kind) if header else None
            return told or f"no {kind}: none of class {plan.label!r}"
    is_there = any(there for kind, there in has.items() if media_kind(kind).form != "text")
    return "" if is_there else "no sound and no picture"


def _evenly(plans: Sequence[ClipPlan], most: int) -> list[ClipPlan]:
    """Return at most ``most`` of them, evenly spread."""
    if len(plans) <= most:
        return list(plans)
    return [plans[i * len(plans) // most] for i in range(most)]
