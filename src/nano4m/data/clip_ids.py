"""Ids of clips: unique and of few characters, one for each window of a recording."""

import re
from collections import Counter
from collections.abc import Sequence

from nano4m.data.sources.base import ClipPlan
from nano4m.errors import UserError

_CLIP_ID = re.compile(r"[A-Za-z0-9_.-]+")


def window_id(clip_id: str, number: int) -> str:
    """Return the id of the clip of a recording's window, from 0; the first has the recording's."""
    return f"{clip_id}.w{number + 1}" if number else clip_id


def check_plans(plans: Sequence[ClipPlan], windows: int = 1) -> None:
    """Check a plan: ids are unique and valid, and each recording is in one split.

    Args:
        plans: Of all recordings.
        windows: Most clips of each.

    Raises:
        UserError: No clips, a duplicate or invalid clip_id, or a video in two splits.
    """
    if not plans:
        raise UserError("the source gives no clip; check --data and the settings under --dataset")
    twice = [name for name, count in Counter(plan.clip_id for plan in plans).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} clip ids are given more than once (first {sorted(twice)[0]!r}); every "
            "clip needs its own: rename the files or the ids in the table of the source"
        )
    ids = {plan.clip_id for plan in plans}
    taken = [(i, k) for i in sorted(ids) for k in range(1, windows) if window_id(i, k) in ids]
    if taken:
        own, number = taken[0]
        raise UserError(
            f"window {number + 1} of {own!r} would have the id of another clip, "
            f"{window_id(own, number)!r}; rename one of them, or give fewer "
            "--clips.windows-per-recording"
        )
    wrong = [plan.clip_id for plan in plans if not _CLIP_ID.fullmatch(plan.clip_id)]
    if wrong:
        raise UserError(f"clip id {wrong[0]!r} may only have letters, digits and _ . -")
    splits: dict[str, str] = {}
    for plan in plans:
        if splits.setdefault(plan.video_id, plan.split) != plan.split:
            raise UserError(
                f"recording {plan.video_id!r} is in two splits, {splits[plan.video_id]} and "
                f"{plan.split}; clips of one recording must be in one split"
            )
