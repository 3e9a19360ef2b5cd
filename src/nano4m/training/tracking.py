"""Log of a training run: JSON lines always, TensorBoard or Weights & Biases optionally."""

import json
import math
import os
import uuid
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nano4m.errors import UserError
from nano4m.storage.files import write_text

PACKAGES = {"tensorboard": "scale", "wandb": "wandb"}
"""Tracker -> the extra of this package that installs it."""


def check_tracker(kind: str) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        UserError: With what installs it.
    """
    if kind in PACKAGES and not find_spec(kind):
        raise UserError(
            f"--train.tracker {kind}: it is not installed; "
            f"run: pip install 'nano4m-audio[{PACKAGES[kind]}]'"
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``log.jsonl``; none if there is no log, and none that is damaged.

    A killed process may leave half a line. The log is for people and their curves; no result
    depends on it.
    """
    lines = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                lines.append(entry)
    return lines


def trim(path: Path, step: int) -> None:
    """Delete log lines after ``step``, so that a resumed run logs them once."""
    if path.exists():
        kept = [json.dumps(line) for line in read_log(path) if line["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}/")
        elif key != "step" and value is not None:
            found[prefix + key] = float(value)
    return found


def _finite(value: Any) -> Any:
    """Return ``value`` with None for numbers that JSON lacks, such as the norm of an overflow."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Tracker:
    """Writes ``log.jsonl`` in ``folder`` and, if configured, to a tracker.

    Args:
        folder: Folder of the stage; the log is continued after ``step``.
        kind: ``auto``, ``none``, ``tensorboard`` or ``wandb``, see ``TrainConfig.tracker``.
        step: Last step of the resumed state.
        settings: The configuration, for trackers that display it.

    Raises:
        UserError: The tracker's package is not installed.
    """

    def __init__(self, folder: Path, kind: str, step: int, settings: dict[str, Any]) -> None:
        trim(folder / "log.jsonl", step)
        self._log = (folder / "log.jsonl").open("a")
        self._board: Any = None
        self._run: Any = None
        if kind == "auto":
            kind = "tensorboard" if find_spec("tensorboard") else "none"
        check_tracker(kind)
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        elif kind == "wandb":
            import wandb

            name = folder / "wandb-run"
            if not step or not name.exists():
                name.write_text(uuid.uuid4().hex)
            self._run = wandb.init(
                project="nano4m",
                dir=folder,
                config=settings,
                id=name.read_text(),
                resume="allow",
            )

    def write(self, line: dict[str, Any]) -> None:
        """Log one line; ``step`` is its position, every other number belongs to a curve.

        A number that is not finite is null in the log and a gap in its curve.
        """
        line = _finite(line)
        self._log.write(json.dumps(line, allow_nan=False) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in _flat(line).items():
                self._board.add_scalar(name, value, line["step"])
        if self._run is not None:
            self._run.log(_flat(line), step=line["step"])

    def sync(self) -> None:
        """Return when the lines of the log are on the disk."""
        os.fsync(self._log.fileno())

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish()


class NullTracker:
    """Tracker that does nothing, for all ranks but 0."""

    def __init__(self, *_: object) -> None:
        pass

    def write(self, line: dict[str, Any]) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(self, *error: object) -> None:
        pass
