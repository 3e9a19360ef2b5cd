"""Commands in processes of their own, with a fault at a chosen call of the operating system.

A command is forked from a process that has imported everything and computed nothing, so it starts
at once. It is a process as a user's: its own arguments, output, signals and exit code.
"""

import builtins
import errno
import io
import os
import re
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 240.0
"""Seconds after which a command counts as hung."""

CALLS = ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir")
"""Calls of ``os`` that are counted; opening a file to write is counted too."""


@dataclass(frozen=True)
class Fault:
    """What happens at a call.

    Attributes:
        what: "kill" (signal 9), "pause" (until it is continued), "full" or "read-only" (this call
            and all that follow fail), "interrupt", "terminate", "hang up" (signals 2, 15, 1).
        at: Number of the call, from 1.
        after: The call is done before; otherwise it is not.
    """

    what: str
    at: int
    after: bool = False


SIGNALS = {
    "kill": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "hang up": signal.SIGHUP,
}
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS}
PASS_WHEN = {"full": {"replace", "rename", "unlink", "rmdir"}, "read-only": set()}
"""Calls that a full disk, or one that was mounted again for reading, still does."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (minus the signal that ended it), and what it said."""

    code: int
    said: str
    calls: int = 0
    seconds: float = 0.0

    @property
    def traceback(self) -> str:
        """The last traceback it printed, or ""."""
        found = self.said.rfind("Traceback (most")
        return self.said[found:] if found >= 0 else ""

    @property
    def sentence(self) -> str:
        """What it says to the user at the end, or ""."""
        found = self.said.rfind("nano4m: ")
        return self.said[found:] if found >= 0 else ""

    @property
    def mending(self) -> list[str]:
        """The words of the command that the sentence names, without the program; or []."""
        found = re.search(r"run: (nano4m [^\n]*)", self.sentence)
        return shlex.split(found[1].rstrip(".;"))[1:] if found else []


class Running:
    """A command that has been started."""

    def __init__(self, process: int, log: Path) -> None:
        self.process, self.log, self.started = process, log, time.perf_counter()

    def wait(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end; a command that takes longer is killed, and that is its code."""
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
                return Ended(-999, self.log.read_text(errors="replace"))
            time.sleep(0.01)
        calls = Path(f"{self.log}.calls")
        return Ended(
            os.waitstatus_to_exitcode(status),
            self.log.read_text(errors="replace"),
            int(calls.read_text() or 0) if calls.exists() else 0,
            time.perf_counter() - self.started,
        )

    def signal(self, number: int) -> None:
        """Send a signal; it may have ended."""
        os.kill(self.process, number)

    def wait_until(self, is_so: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait until something is so; return False if the command ended before."""
        end = time.monotonic() + seconds
        while not is_so() and time.monotonic() < end:
            if os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return is_so()
            time.sleep(0.005)
        return is_so()

    def is_paused(self) -> bool:
        """Whether it has been stopped by a "pause"."""
        return Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def start(args: Sequence[str], log: Path, fault: Fault | None = None) -> Running:
    """Start ``nano4m ARGS``; what it says goes to the file ``log``."""
    process = os.fork()
    if process:
        return Running(process, log)
    code = 1
    try:
        code = _be_the_command(list(args), log, fault)
    finally:
        os._exit(code)


def run(args: Sequence[str], log: Path, fault: Fault | None = None) -> Ended:
    """Run ``nano4m ARGS`` to its end."""
    return start(args, log, fault).wait()


def _be_the_command(args: list[str], log: Path, fault: Fault | None) -> int:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout = os.fdopen(os.dup(handle), "w", buffering=1)
    sys.stderr = os.fdopen(os.dup(handle), "w", buffering=1)
    sys.argv = ["nano4m", *args]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    count = _plant(fault, Path(f"{log}.calls"))

    from nano4m.cli import main

    code = 0
    try:
        main(args)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    count()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _plant(fault: Fault | None, counted: Path) -> Callable[[], None]:
    """Count the calls, and do what is asked for at one of them; return a writer of the count."""
    calls, real_open = 0, io.open

    def around(
        name: str, call: Callable[..., Any], counts: Callable[..., bool]
    ) -> Callable[..., Any]:
        def planted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if not counts(*args, **kwargs):
                return call(*args, **kwargs)
            calls += 1
            if fault is None or calls < fault.at:
                return call(*args, **kwargs)
            if fault.what in ERRORS:
                if name in PASS_WHEN[fault.what]:
                    return call(*args, **kwargs)
                number = ERRORS[fault.what]
                raise OSError(number, os.strerror(number), str(args[0]))
            if calls > fault.at:
                return call(*args, **kwargs)
            if not fault.after:
                os.kill(os.getpid(), SIGNALS[fault.what])
                return call(*args, **kwargs)
            found = call(*args, **kwargs)
            os.kill(os.getpid(), SIGNALS[fault.what])
            return found

        return planted

    def writes(file: Any, mode: str = "r", *rest: Any, **kwargs: Any) -> bool:
        # Not the null device, nor descriptors.
        is_file = isinstance(file, str | os.PathLike) and not str(file).startswith("/dev")
        return is_file and bool(set(mode) & set("wxa+"))

    def count() -> None:
        with real_open(counted, "w") as file:
            file.write(str(calls))

    for name in CALLS:
        setattr(os, name, around(name, getattr(os, name), lambda *args, **kwargs: True))
    opened = around("open", real_open, writes)
    builtins.open = io.open = opened  # type: ignore[assignment]
    return count
