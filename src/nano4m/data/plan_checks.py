"""Checks of the plan of a run, before any medium is read."""

from collections import Counter
from collections.abc import Sequence

from nano4m.config.run import Config
from nano4m.data.clip_ids import check_plans
from nano4m.data.sources.base import ClipPlan
from nano4m.errors import UserError


def check_planned(plans: Sequence[ClipPlan], config: Config) -> None:
    """Refuse a plan that no run can be made from.

    Raises:
        UserError: As ``check_plans``, or a split that is needed has too few clips.
    """
    check_plans(plans, config.clips.windows_per_recording)
    planned: Counter[str] = Counter(plan.split for plan in plans)
    least = least_clips(config)
    few = [split for split in least if planned[split] < least[split]]
    if few:
        raise UserError(
            f"too few clips for {', '.join(few)}: the source plans {dict(planned)}, and "
            f"{', '.join(f'{least[s]} of {s}' for s in few)} are needed; add data, or change the "
            f"shares under --dataset or --evaluate.split"
        )


def least_clips(config: Config) -> dict[str, int]:
    """Return the fewest clips that each split needs."""
    # A probe needs two clips; fail now rather than after training.
    needed = sorted({"train", "val", config.evaluate.split})
    return {split: 1 + (split == config.evaluate.split) for split in needed}
