"""Checkpoints: a folder of safetensors and JSON, never a pickle.

``model.safetensors`` (averaged weights), ``config.json`` (architecture), ``modalities.json``
(vocabulary: modalities and tokenizer fingerprints). What training needs to go on is in folders
``step-000200`` beside it, written whole (a rename) or not at all.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano4m.config import ModelConfig
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.progress import say
from nano4m.stage import write_json
from nano4m.table import Vocabulary


def save_model(model: FourM, vocabulary: Vocabulary, folder: Path) -> None:
    """Write a model that ``load_model`` reads; an earlier one of the folder is replaced whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, part / "model.safetensors")
    # How blocks were computed is no part of what they are.
    write_json(part / "config.json", model.config.model_dump(exclude={"checkpointing"}))
    write_json(part / "modalities.json", vocabulary.to_json())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def different_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return which tensors differ in name or shape, the first of them in full; "" if none do."""
    wanted = {k: tuple(v.shape) for k, v in expected.items()}
    there = {k: tuple(v.shape) for k, v in found.items()}
    names = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
    shown = ", ".join(
        f"{k} {there.get(k, 'absent')} for {wanted.get(k, 'none')}" for k in names[:4]
    )
    return f"{len(names)} tensors differ, {shown}" if names else ""


def load_model(folder: Path) -> tuple[FourM, Vocabulary]:
    """Read a model in evaluation mode, and the vocabulary that it speaks.

    Raises:
        UserError: A file is missing or damaged, or the weights are of another architecture.
    """
    try:
        config = ModelConfig(**json.loads((folder / "config.json").read_text()))
        vocabulary = Vocabulary.from_json(json.loads((folder / "modalities.json").read_text()))
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        missing = Path(error.filename or folder).name
        raise UserError(
            f"no checkpoint at {folder}: {missing} is missing; run: nano4m train PRESET --out OUT"
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the checkpoint at {folder} is damaged ({error!r}); run: nano4m train "
            f"PRESET --out OUT --overwrite"
        ) from error
    model = FourM(config, vocabulary.modalities)
    differ = different_tensors(model.state_dict(), weights)
    if differ:
        raise UserError(
            f"the weights at {folder} are of another architecture: {differ}; its config.json and "
            f"modalities.json say otherwise"
        )
    model.load_state_dict(weights)
    return model.eval(), vocabulary


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    """Write the training state after ``step`` steps; the two newest are kept."""
    target = folder / f"step-{step:06d}"
    part = folder / f"part-{step:06d}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / "state.safetensors"
    )
    write_json(part / "state.json", {"step": step} | note)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    for old in sorted(folder.glob("step-*"))[:-2]:
        shutil.rmtree(old)


def newest_state(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Return the newest state that can be read as (step, tensors, note), or None."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            note = json.loads((candidate / "state.json").read_text())
            return int(note["step"]), load_file(candidate / "state.safetensors"), note
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
            say(f"train: {candidate} cannot be read ({error}); an earlier state is looked for")
    return None


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
    """Restore what ``pack_optimizers`` returned."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, index, key = name.split(".")
            states[int(number)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
