"""How sampling changes from step to step: tokens filled, temperature, guidance.

Token schedules after MaskGIT (arXiv:2202.04200), temperature schedules after 4M (arXiv:2312.06647), rising
guidance after Muse (arXiv:2301.00704).
"""

import math
from collections.abc import Sequence

from nano4m.config.generation import GuidanceSchedule, Sampling, TokenSchedule, onex

ONEX_RANGE = 100.0
"""``onex`` follows x ** -power from x = 1 to this."""


def token_counts(total: int, steps: int, schedule: TokenSchedule) -> list[int]:
    """Return how many tokens each step fills: one or more each, ``total`` together.

    cosine leaves cos(pi/2 r) of the tokens after the share r of the steps, linear fills numbers in
    the proportion 1 : 2 : 3 ..., constant equal ones (they differ by one at most).

    Args:
        total: Tokens to fill, 0 or more.
        steps: At most; never more than ``total`` are made.
        schedule: See ``Sampling.schedule``.

    Raises:
        ValueError: An unknown schedule, a negative total, or no step.
    """
    if total < 0 or steps < 1:
        raise ValueError(f"{total} tokens in {steps} steps")
    count = min(steps, total)
    shares = {
        "cosine": lambda i: math.cos(math.pi / 2 * i / count),
        "linear": lambda i: 1 - i * (i + 1) / (count * (count + 1)),
        "constant": lambda i: 1 - i / count,
    }
    if schedule not in shares:
        raise ValueError(f"unknown schedule {schedule!r}; choose from {', '.join(shares)}")
    counts, left = [], total
    for i in range(1, count + 1):
        wanted = math.floor(total * shares[schedule](i) + 1e-9)
        # A token or more now, and one or more for each step that follows.
        now = min(left - 1, max(wanted, count - i))
        counts.append(left - now)
        left = now
    return counts


def temperatures(settings: Sampling, counts: Sequence[int]) -> list[float]:
    """Return the temperature of each step of ``counts`` tokens.

    constant: always the same. linear: in proportion to the tokens left before the step.
    onex:MIN:POWER: MIN + (T - MIN) g(x), g falling from 1 to 0 as x ** -POWER, x going from 1 to
    ONEX_RANGE with the tokens that are filled before the step; a MIN above T is T.
    """
    total, done, found = sum(counts), 0, []
    schedule = onex(settings.temperature_schedule)
    for count in counts:
        share = 1.0
        low = 0.0
        if schedule is not None:
            low, power = min(schedule[0], settings.temperature), schedule[1]
            x = 1 + (ONEX_RANGE - 1) * done / total
            end = ONEX_RANGE**-power
            share = (x**-power - end) / (1 - end)
        elif settings.temperature_schedule == "linear":
            share = 1 - done / total
        found.append(low + (settings.temperature - low) * share)
        done += count
    return found


def guidance_factor(schedule: GuidanceSchedule, step: int, steps: int) -> float:
    """Return how far guidance has risen at ``step`` of ``steps``, in (0, 1]; 1 at the last one.

    Raises:
        ValueError: A step that is not there.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} of {steps}")
    share = (step + 1) / steps
    if schedule == "linear":
        return share
    return 1.0 if schedule == "constant" else 1 - math.cos(math.pi / 2 * share)


def condition_weights(weights: Sequence[float], factor: float) -> list[float]:
    """Return the weights of several conditions when guidance has risen to ``factor``.

    The sum of the positive ones rises from 1, an unguided model, to what it is; one that is 1 or
    less stays. For one condition of weight s this is 1 + (s - 1) factor.
    """
    total = max(1.0, sum(w for w in weights if w > 0))
    scale = factor + (1 - factor) / total
    return [w * scale for w in weights]


def share_steps(steps: int, levels: int) -> list[int]:
    """Return the steps of each of ``levels`` codebooks: all in all ``steps``, at least one each.

    What does not divide goes to the coarse ones, on which the others depend.
    """
    each, more = divmod(max(steps, levels), levels)
    return [each + (level < more) for level in range(levels)]
