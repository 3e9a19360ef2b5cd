"""Which steps of a training are logged, validated and saved; a state is saved by time too."""

import time
from collections.abc import Callable
from enum import IntEnum

from nano4m.config.training import TrainConfig

LEAST_SHARE = 10
"""Between two saves by time lies at least this many times what the last one took."""


class Request(IntEnum):
    """What a process asks for after a step; the largest request of all processes counts."""

    NOTHING = 0
    SAVE = 1
    STOP = 2
    """Save and stop."""


class SaveClock:
    """Tells when a state is due because of the time that has passed since the last one.

    It is due after ``minutes``, and never sooner than after ``LEAST_SHARE`` times the seconds that
    the last save took: a large model on a slow disk, or a tiny interval, then costs at most a tenth
    of the training.

    Args:
        minutes: From ``TrainConfig.save_minutes``.
        clock: Seconds that do not run backwards. The default stands still while the machine sleeps
            (on Linux and macOS): what a kill could lose is computing, not sleep.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._interval = clock, 60 * minutes
        self._saved, self._cost = clock(), 0.0

    @property
    def is_due(self) -> bool:
        """Whether a state is to be saved now."""
        return self._clock() - self._saved >= max(self._interval, LEAST_SHARE * self._cost)

    def saving(self, save: Callable[[], None]) -> None:
        """Call ``save``, of any reason; the time is counted from its end."""
        started = self._clock()
        save()
        self._saved = self._clock()
        self._cost = self._saved - started


class Schedule:
    """Which steps of a training are logged, validated and saved, by its settings.

    A step is named by how many are done with it, from 1.
    """

    def __init__(self, settings: TrainConfig) -> None:
        self._settings = settings
        self._every = max(1, min(20, settings.steps // 50))

    def is_last(self, done: int) -> bool:
        """Whether no step follows."""
        return done == self._settings.steps

    def is_logged(self, done: int) -> bool:
        """Whether the step ends a line of the log."""
        return done % self._every == 0 or self.is_last(done)

    def is_validated(self, done: int) -> bool:
        """Whether this line of the log has validation losses."""
        return done % self._settings.val_every < self._every or self.is_last(done)

    def is_saved(self, done: int, request: Request) -> bool:
        """Whether a state is saved after the step."""
        by_steps = done % self._settings.save_every == 0 or self.is_last(done)
        return by_steps or request != Request.NOTHING
