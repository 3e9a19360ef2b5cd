"""Requests to stop: a signal is remembered, and handled where stopping is safe."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """Ctrl-C, a termination or the end of the terminal stops training after the current step.

    A second Ctrl-C or termination stops it at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._was_told = False

    @contextmanager
    def watch(self) -> Iterator["Interrupt"]:
        """Handle the signals while training; do nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        # A background job of a shell ignores SIGINT, which is for the one in the foreground, and
        # nohup ignores SIGHUP.
        signals = [s for s in WATCHED if signal.getsignal(s) is not signal.SIG_IGN]

        def ask(signum: int, frame: object) -> None:
            self.requested = True
            # A terminal that closes sends SIGHUP several times: by itself, and through the shell.
            if signum != signal.SIGHUP:
                if self._was_told:
                    raise KeyboardInterrupt
                self._was_told = True

        old = {s: signal.signal(s, ask) for s in signals}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
