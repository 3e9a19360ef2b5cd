"""Schedules of parallel decoding, for the sampler and for masks that look like its steps.

Sources: MaskGIT (arXiv:2202.04200) for the cosine; the Halton order (arXiv:2503.17076).
"""

import math
from functools import lru_cache


def cosine_unknown(step: int, steps: int, total: int) -> int:
    """Return how many of ``total`` tokens are unknown after ``step`` of ``steps`` steps.

    floor(total * cos(pi / 2 * step / steps)), and at least one token less after every step.

    Args:
        step: 0 (all unknown) to ``steps`` (none).
        steps: Steps in all, 1 to ``total``.
        total: Tokens unknown at the start, at least 1.
    """
    if not 0 <= step <= steps or not 1 <= steps <= total:
        raise ValueError(f"step {step} of {steps} for {total} tokens: 0 <= step <= steps <= total")
    unknown = total
    for i in range(1, step + 1):
        unknown = min(unknown - 1, math.floor(total * math.cos(math.pi / 2 * i / steps)))
    return unknown


def _radical_inverse(index: int, base: int) -> float:
    """Return ``index`` with its digits in ``base`` mirrored behind the point, in [0, 1)."""
    value, digit = 0.0, 1.0 / base
    while index:
        index, remainder = divmod(index, base)
        value += remainder * digit
        digit /= base
    return value


@lru_cache(maxsize=64)
def halton_order(rows: int, columns: int) -> tuple[int, ...]:
    """Return the cells of a grid, ``row * columns + column``, in an order whose starts are spread.

    The points of the Halton sequence in bases 2 and 3, each cell at its first hit. One column gives
    the van der Corput order of a line.
    """
    seen: dict[int, None] = {}
    index = 0
    while len(seen) < rows * columns:
        row = int(_radical_inverse(index, 2) * rows)
        seen.setdefault(row * columns + int(_radical_inverse(index, 3) * columns))
        index += 1
    return tuple(seen)
