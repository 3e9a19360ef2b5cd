"""Training state for resuming: folders ``step-000200``, written atomically (by a rename).

Weights, optimizers, averaged weights and the progress state (steps, sums, counts). One process, or
several with replicated weights, write one safetensors file; shards are written in parallel by
torch.distributed.checkpoint and can be loaded by any number of processes.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.compute.distributed import DistributedContext
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.progress import log_info
from nano4m.storage.arrays import read_weights, write_tensors
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.files import sync
from nano4m.storage.json_files import read_object, write_json
from nano4m.training.kept_weights import BEST, FACTORS, KEPT_AT, KeptWeights
from nano4m.training.optim import WeightAverage

NOTHING: Mapping[str, Any] = {}

STATE, PART = re.compile(r"step-[0-9]{6,}", re.ASCII), re.compile(r"part-[0-9]{6,}", re.ASCII)
"""Names of a saved state, and of one that is being written."""

KEPT = 2
"""States of a run that are kept: the newest, and the previous one in case it is damaged."""


def _folders(folder: Path) -> list[Path]:
    """Return the saved states, oldest first; what has another name is the user's."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and STATE.fullmatch(path.name)),
        key=lambda path: int(path.name[5:]),
    )


def _commit(part: Path, target: Path) -> None:
    """Rename a finished state to its final name, and delete obsolete ones."""
    sync(part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    sync(target.parent)
    states = _folders(target.parent)
    newest = states.index(target) + 1
    # Later states are unreadable (else this run would have resumed them), parts unfinished.
    for other in (*states[: max(0, newest - KEPT)], *states[newest:]):
        shutil.rmtree(other)
    for begun in target.parent.iterdir():
        if PART.fullmatch(begun.name):
            shutil.rmtree(begun, ignore_errors=True)


def _begin(folder: Path, step: int) -> tuple[Path, Path]:
    part, target = folder / f"part-{step:06d}", folder / f"step-{step:06d}"
    shutil.rmtree(part, ignore_errors=True)
    # Not its parents: a folder that was moved while training must not come back as a part of it.
    part.mkdir()
    return part, target


def save_state(
    folder: Path, step: int, tensors: dict[str, Tensor], progress_state: dict[str, Any]
) -> None:
    """Write the training state after ``step`` steps, and delete old ones."""
    part, target = _begin(folder, step)
    write_tensors(part / "state.safetensors", tensors)
    listed = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_json(part / "state.json", {"step": step} | progress_state | {"tensors": listed})
    _commit(part, target)


def newest_state(
    folder: Path, expected: Mapping[str, Any] = NOTHING
) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest whole state as (step, tensors, progress_state), or None.

    Args:
        folder: Of the states.
        expected: Values of the form that those of the progress state must have.
    """
    for candidate in reversed(_folders(folder)):
        try:
            progress_state = read_progress(candidate, expected)
            tensors = read_weights(candidate / "state.safetensors")
            listed = progress_state.pop("tensors", None)
            found = {name: list(tensor.shape) for name, tensor in tensors.items()}
            if listed is not None and listed != found:
                raise DamagedFile(
                    candidate / "state.safetensors", "its tensors are not those of the state"
                )
            return progress_state["step"], tensors, progress_state
        except (OSError, DamagedFile) as error:
            _warn_unreadable(candidate, error)
    if _folders(folder):
        log_info(f"train: no state in {folder} can be read; training starts again")
    return None


def read_progress(candidate: Path, expected: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Return the progress state of a saved state.

    Raises:
        DamagedFile: It lacks the step, or a value has another form than the one ``expected``.
        OSError: It cannot be read.
    """
    path = candidate / "state.json"
    found = read_object(path)
    with reading(path):
        if int(candidate.name.removeprefix("step-")) != found["step"]:
            raise ValueError(f"it is of step {found['step']}")
        for key, value in expected.items():
            there = found.get(key, value)
            if isinstance(there, str) != isinstance(value, str):
                raise ValueError(f"{key} is {there!r}")
            # Numbers, and lists of as many.
            if not isinstance(value, str) and np.shape(np.asarray(there, float)) != np.shape(value):
                raise ValueError(f"{key} is {there!r}")
    return found


def _warn_unreadable(candidate: Path, error: BaseException) -> None:
    reason = f"{error.path.name}: {error.what}" if isinstance(error, DamagedFile) else error
    log_info(f"train: {candidate} cannot be read ({reason}); an earlier state is tried")


def pack_optimizers(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return optimizer states as flat tensors ``optimizer.<number>.<parameter>.<entry>``."""
    return {
        f"optimizer.{n}.{i}.{key}": torch.as_tensor(value)
        for n, optimizer in enumerate(optimizers)
        for i, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def unpack_optimizers(
    optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Restore the optimizer states that ``pack_optimizers`` returned."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, index, key = name.split(".")
            states[int(number)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


class TrainingState:
    """Saves and resumes one run.

    Args:
        folder: Folder of the stage.
        world: The processes; every rank calls ``save`` and ``resume``.
        model, optimizers, average: Saved, and restored in place.
        kept: Likewise, where a run keeps the best weights.
    """

    def __init__(
        self,
        folder: Path,
        world: DistributedContext,
        model: FourM,
        optimizers: Sequence[torch.optim.Optimizer],
        average: WeightAverage,
        kept: KeptWeights | None = None,
    ) -> None:
        self.folder, self.world = folder, world
        self.model, self.optimizers, self.average = model, optimizers, average
        self.kept = kept

    def _averages(self) -> dict[str, Tensor]:
        weights = self.average.weights if self.average.is_kept else []
        return {f"average.{i}": w for i, w in enumerate(weights)}

    def save(self, step: int, progress_state: dict[str, Any]) -> None:
        """Write the state after ``step`` steps."""
        progress_state = progress_state | {"updates": self.average.updates}
        if self.world.sharded:
            self._save_shards(step, progress_state)
        elif not self.world.rank:
            tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= self._averages() | pack_optimizers(self.optimizers)
            tensors |= self.kept.tensors() if self.kept else {}
            save_state(self.folder, step, tensors, progress_state)
        self.world.barrier()

    def resume(self, progress_state: dict[str, Any]) -> int:
        """Restore the newest state and ``progress_state`` in place; return its step, or 0.

        Raises:
            UserError: The state is sharded and this run is not, or the other way round; or no
                sharded state can be read.
        """
        there = _folders(self.folder)
        if there and self.world.sharded != (there[-1] / ".metadata").exists():
            other = "ddp" if self.world.sharded else "fsdp"
            raise UserError(
                f"the state in {there[-1]} is of a run with --train.strategy {other}; go on with "
                f"that, or start anew in another --out"
            )
        if self.world.sharded:
            return self._resume_shards(progress_state)
        found = newest_state(self.folder, progress_state)
        if found is None:
            return 0
        step, tensors, saved = found
        progress_state.update({key: saved[key] for key in progress_state if key in saved})
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(weights)
        unpack_optimizers(self.optimizers, tensors)
        # On a GPU skipped steps update the average too; in older states they did not.
        self.average.updates = int(saved.get("updates", step - int(saved.get("skipped", 0))))
        for name, weight in self._averages().items():
            weight.copy_(tensors[name])
        for name, weight in (self.kept.tensors() if self.kept else {}).items():
            weight.copy_(tensors[name])
        return step

    def resumed(self, modalities: int, dtype: torch.dtype) -> tuple[int, dict[str, Any]]:
        """Restore the newest state, see ``resume``; return its step and the progress state.

        If the compute type has changed, loss scaling starts anew.
        """
        scale = 2.0**12 if dtype == torch.float16 else 1.0
        start: dict[str, Any] = {"scale": scale, "precision": str(dtype)}
        none = [0.0] * modalities
        progress_state: dict[str, Any] = {
            "seconds": 0.0,
            "tokens": 0,
            "operations": 0,
            "skipped": 0,
            "good": 0,
        }
        progress_state |= {"sums": none, "counts": none} | start
        progress_state |= {KEPT_AT: [0.0, 0.0], FACTORS: [1.0] * modalities, BEST: none}
        step = self.resume(progress_state)
        if progress_state["precision"] != start["precision"]:
            progress_state |= start
        return step, progress_state

    def _shards(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, optimizers = get_state_dict(self.model, list(self.optimizers))
        return {"model": weights, "optimizers": optimizers, "average": self._averages()}

    def _save_shards(self, step: int, progress_state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict_saver import save

        part, target = self.folder / f"part-{step:06d}", self.folder / f"step-{step:06d}"
        if not self.world.rank:
            _begin(self.folder, step)
        self.world.barrier()
        save(self._shards(), checkpoint_id=part)
        if not self.world.rank:
            write_json(part / "state.json", {"step": step} | progress_state)
            _commit(part, target)

    def _resume_shards(self, progress_state: dict[str, Any]) -> int:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict import set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        there = _folders(self.folder)
        if not there:
            return 0
        # Only here, because reading the layout of the optimizers' state takes an empty step.
        tensors = self._shards()
        for candidate in reversed(there):
            failed = True
            try:
                saved = read_progress(candidate, progress_state)
                load(tensors, checkpoint_id=candidate)
                failed = False
            except (OSError, ValueError, CheckpointException) as error:
                _warn_unreadable(candidate, error)
            if self.world.any_rank(failed):
                continue
            set_state_dict(
                self.model,
                list(self.optimizers),
                model_state_dict=tensors["model"],
                optim_state_dict=tensors["optimizers"],
            )
            progress_state.update({key: saved[key] for key in progress_state if key in saved})
            done = int(saved["step"]) - int(saved["skipped"])
            self.average.updates = int(saved.get("updates", done))
            return int(saved["step"])
        raise UserError(f"no state in {self.folder} can be read; start again with --overwrite")
