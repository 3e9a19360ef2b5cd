"""Requests to stop: a signal is remembered, and handled where stopping is safe."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Ctrl-C or a termination stops training after the current step; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def watch(self) -> Iterator["Interrupt"]:
        """Handle the signals while training; do nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        # A background job of a shell ignores SIGINT: Ctrl-C is for the foreground job.
        signals = [s for s in WATCHED if signal.getsignal(s) is not signal.SIG_IGN]

        def ask(signum: int, frame: object) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        old = {s: signal.signal(s, ask) for s in signals}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
