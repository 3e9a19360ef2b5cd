"""Being asked to stop: a signal is remembered, and answered where stopping is safe."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Ctrl-C or a termination asks training to stop after the running step; twice stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def watch(self) -> Iterator["Interrupt"]:
        """Listen while training; elsewhere than in the main thread, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        # A job in the background of a shell ignores SIGINT, for Ctrl-C is for the one in front.
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
