"""Checkpoints: a folder of safetensors and JSON, never a pickle.

``model.safetensors`` (averaged weights), ``config.json`` (architecture), ``modalities.json`` (token
spec: modalities and tokenizer fingerprints). ``training.state`` writes what resuming needs.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nano4m.compute.distributed import DistributedContext
from nano4m.config.compatibility import read_stored
from nano4m.config.model import ModelConfig
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.storage.arrays import read_tensors, read_weights, write_tensors
from nano4m.storage.damage import reading
from nano4m.storage.files import whole_folder
from nano4m.storage.json_files import read_object, write_json
from nano4m.tokens.batch import MaskedBatch
from nano4m.tokens.table import TokenSpec


def save_model(
    model: FourM, token_spec: TokenSpec, folder: Path, world: DistributedContext | None = None
) -> None:
    """Write a model for ``load_model``, replacing the folder as a whole.

    With a ``world``, every rank calls this: shards are gathered, and rank 0 writes.
    """
    weights = {}
    for name, weight in model.state_dict().items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        weights[name] = whole.detach().cpu().contiguous()
    if world is not None and world.rank:
        return
    with whole_folder(folder) as part:
        write_tensors(part / "model.safetensors", weights)
        # Activation checkpointing is not part of the architecture.
        write_json(part / "config.json", model.config.model_dump(exclude={"checkpointing"}))
        write_json(part / "modalities.json", token_spec.to_json())


def different_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return which tensors differ in name or shape, with the first ones in full; "" if none do."""
    wanted = {k: tuple(v.shape) for k, v in expected.items()}
    there = {k: tuple(v.shape) for k, v in found.items()}
    names = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
    shown = ", ".join(
        f"{k} {there.get(k, 'absent')} for {wanted.get(k, 'none')}" for k in names[:4]
    )
    return f"{len(names)} tensors differ, {shown}" if names else ""


def load_model(folder: Path, finite: bool = True) -> tuple[FourM, TokenSpec]:
    """Return a model in evaluation mode, and its token spec.

    Args:
        folder: Of the checkpoint.
        finite: Refuse weights that are not; those of a step that failed may be wanted.

    Raises:
        UserError: A file is missing or damaged, or the weights have another architecture.
    """
    architecture, spec, tensors = (
        folder / name for name in ("config.json", "modalities.json", "model.safetensors")
    )
    try:
        with reading(architecture):
            config = read_stored(ModelConfig, read_object(architecture))
        with reading(spec):
            token_spec = TokenSpec.from_json(read_object(spec))
        weights = read_weights(tensors) if finite else read_tensors(tensors)
    except FileNotFoundError as error:
        missing = Path(error.filename or folder).name
        raise UserError(
            f"no checkpoint at {folder}: {missing} is missing; run: nano4m train PRESET --out OUT"
        ) from error
    with reading(architecture):
        model = FourM(config, token_spec.modalities)
    differ = different_tensors(model.state_dict(), weights)
    if differ:
        raise UserError(
            f"the weights at {folder} are of another architecture: {differ}; its config.json and "
            f"modalities.json say otherwise"
        )
    with reading(tensors):
        model.load_state_dict(weights)
    return model.eval(), token_spec


def save_reproducer(
    folder: Path,
    model: FourM,
    token_spec: TokenSpec,
    batches: list[MaskedBatch],
    clips: list[str],
    dtype: torch.dtype,
    world: DistributedContext | None = None,
) -> None:
    """Write what a step was computed from: weights, batches, and their clips.

    ``load_model(folder, finite=False)`` and ``load_batches(folder)`` read it; to reproduce the
    step, compute ``token_cross_entropy`` of each batch with the model in the ``dtype`` of
    ``step.json``. With a ``world``, every rank calls this.
    """
    save_model(model, token_spec, folder, world)
    if world is not None and world.rank:
        return
    tensors = {
        f"{number:03d}.{name}": tensor.contiguous()
        for number, batch in enumerate(batches)
        for name, tensor in batch._asdict().items()
    }
    write_tensors(folder / "batches.safetensors", tensors)
    write_json(folder / "step.json", {"clips": clips, "dtype": str(dtype).removeprefix("torch.")})


def load_batches(folder: Path) -> list[MaskedBatch]:
    """Return the batches that ``save_reproducer`` wrote."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_tensors(folder / "batches.safetensors").items():
        number, entry = name.split(".")
        found.setdefault(number, {})[entry] = tensor
    return [MaskedBatch(**found[number]) for number in sorted(found)]
