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


def trim(path: Path, step: int) -> None:
    """Delete log lines after ``step``, so that a resumed run logs them once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        # A killed process may have left half a line at the end.
        with suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    part = path.with_name(path.name + ".part")
    part.write_text("".join(kept))
    os.replace(part, path)


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
        if kind == "tensorboard":
            if not find_spec("tensorboard"):
                raise UserError(
                    "--train.tracker tensorboard: it is not installed; "
                    "run: pip install 'nano4m-audio[scale]'"
                )
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        elif kind == "wandb":
            if not find_spec("wandb"):
                raise UserError(
                    "--train.tracker wandb: it is not installed; "
                    "run: pip install 'nano4m-audio[wandb]'"
                )
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

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(self, *error: object) -> None:
        pass
