"""Speed of a training: tokens a second, machine utilization and memory, from its running totals."""

import time
from typing import Any

from nano4m.compute.distributed import DistributedContext
from nano4m.training.accounting import peak_memory


class SpeedMeter:
    """Measures a training between two lines of its log, and over all attempts.

    Args:
        totals: Progress state; ``tokens`` and ``operations`` are read, ``seconds`` is kept.
        peak: Operations a second of which the device is capable.
        world: The processes that train together.
    """

    def __init__(self, totals: dict[str, Any], peak: float, world: DistributedContext) -> None:
        self._totals, self._peak, self._world = totals, peak, world
        self._started = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Begin the next line of the log."""
        self._logged = time.perf_counter(), self._totals["tokens"], self._totals["operations"]

    def line(self) -> dict[str, float]:
        """Return the figures since the last ``restart``, for the log."""
        then, tokens, operations = self._logged
        passed = time.perf_counter() - then
        return self._figures(
            passed, self._totals["tokens"] - tokens, self._totals["operations"] - operations
        )

    def count_seconds(self) -> None:
        """Add the seconds since the last call to the total, before a state is saved."""
        now = time.perf_counter()
        self._totals["seconds"] += now - self._started
        self._started = now

    def summary(self) -> dict[str, float]:
        """Return the figures of the whole training, interrupted or not."""
        totals = self._totals
        seconds = max(totals["seconds"], 1e-9)
        found = {"train_seconds": round(totals["seconds"], 1), "tokens": int(totals["tokens"])}
        found |= self._figures(seconds, totals["tokens"], totals["operations"])
        return found | {"peak_gflops": round(self._peak / 1e9)}

    def _figures(self, seconds: float, tokens: int, operations: int) -> dict[str, float]:
        return {
            "tokens_per_second": round(tokens / seconds),
            "mfu": round(operations / seconds / self._world.size / self._peak, 4),
            "memory_gb": round(peak_memory(self._world.device) / 1e9, 3),
        }
