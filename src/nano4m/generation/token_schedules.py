"""Schedules over the steps of sampling: tokens filled, temperature, guidance.

Token schedules after MaskGIT (arXiv:2202.04200), temperature schedules after 4M (arXiv:2312.06647),
rising guidance after Muse (arXiv:2301.00704).
"""

import math
from collections.abc import Sequence

from nano4m.config.generation import (
    LEAST_TEMPERATURE,
    GuidanceSchedule,
    Sampling,
    TokenSchedule,
    onex,
)

ONEX_RANGE = 100.0
"""Last x of ``onex``, x ** -power from x = 1."""


def token_counts(total: int, steps: int, schedule: TokenSchedule) -> list[int]:
    """Return how many tokens each step fills: at least one each, ``total`` together.

    cosine: after fraction r of the steps, cos(pi r / 2) of the tokens are unknown. linear: steps
    fill parts 1, 2, 3 ... constant: equal parts (they differ by at most one).

    Args:
        total: Tokens to fill, 0 or more.
        steps: Maximum number of steps; never more than ``total`` are made.
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
        # At least one token now and in each later step.
        now = min(left - 1, max(wanted, count - i))
        counts.append(left - now)
        left = now
    return counts


def temperatures(settings: Sampling, counts: Sequence[int]) -> list[float]:
    """Return the temperature of each step of ``counts`` tokens.

    constant: T at every step. linear: T times the fraction of tokens unknown before the step.
    onex:MIN:POWER: MIN + (T - MIN) g(x), where g falls from 1 to 0 as x ** -POWER and x goes from 1
    (nothing filled before the step) to ONEX_RANGE (all filled); MIN is at most T. What falls below
    LEAST_TEMPERATURE is 0.
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
        now = low + (settings.temperature - low) * share
        found.append(now if now >= LEAST_TEMPERATURE else 0.0)
        done += count
    return found


def guidance_factor(schedule: GuidanceSchedule, step: int, steps: int) -> float:
    """Return the fraction of the guidance at ``step`` of ``steps``, in (0, 1]; 1 at the last one.

    Raises:
        ValueError: ``step`` is not in [0, steps).
    """
    if not 0 <= step < steps:
        raise ValueError(f"step {step} of {steps}")
    share = (step + 1) / steps
    if schedule == "linear":
        return share
    return 1.0 if schedule == "constant" else 1 - math.cos(math.pi / 2 * share)


def condition_weights(weights: Sequence[float], factor: float) -> list[float]:
    """Return the weights of several conditions for a guidance factor.

    The sum of the positive ones rises from 1 (unguided) to its full value; a sum of 1 or less
    stays. For one condition of weight s this is 1 + (s - 1) factor.
    """
    total = max(1.0, sum(w for w in weights if w > 0))
    scale = factor + (1 - factor) / total
    return [w * scale for w in weights]


def share_steps(steps: int, levels: int) -> list[int]:
    """Return the steps of each of ``levels`` codebooks: ``steps`` in total, at least one each.

    Coarse codebooks, on which the others depend, get the remainder.
    """
    each, more = divmod(max(steps, levels), levels)
    return [each + (level < more) for level in range(levels)]
