"""Conversion of published nano4M checkpoints to our checkpoint folders and back.

Tensors are copied bit by bit; only names change. The all-zero buffers in the place of LayerNorm
biases are checked, left out, and written again.

The position table is one of the tensors: sin and cos of large angles differ between float32 and
float64 by up to 3.4e-5, and between machines in the last bits, so the model keeps the table that it
was trained with (see ``Positions``). Here it is only compared with the formula, to refuse a file
with other positions.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nano4m.checkpoints.folder import different_tensors, load_model, save_model
from nano4m.checkpoints.published import (
    OUTSIDE,
    PublishedMetadata,
    published_metadata,
    published_name,
    published_tensors,
)
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.model.positions import sincos1d
from nano4m.stage import writable
from nano4m.storage.files import whole_file
from nano4m.tokens.table import TokenSpec


def read_published(path: Path) -> tuple[FourM, TokenSpec]:
    """Return the model of a published nano4M checkpoint, in evaluation mode, and its token spec.

    Raises:
        UserError: Not such a file, a modality that is not in the registry, names, shapes or types
            of tensors that differ from the metadata, a LayerNorm bias that is not zero, positions
            that are not the sines and cosines of the published model.
    """
    where = str(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{where} cannot be read as safetensors: {error}") from error
    published = PublishedMetadata.read(metadata, where)
    token_spec = published.token_spec(where)
    # Checked before building a model of a depth that the file may claim falsely.
    if published.enc_depth + published.dec_depth > len(tensors):
        raise UserError(
            f"{where}: {len(tensors)} tensors are too few for enc_depth {published.enc_depth} and "
            f"dec_depth {published.dec_depth}"
        )
    try:
        config = published.config()
    except ValidationError as error:
        raise UserError(f"{where}: {error.errors()[0]['msg']}") from error
    with torch.device("meta"):
        expected = published_tensors(FourM(config, token_spec.modalities))
    differ = different_tensors(expected, tensors)
    if differ:
        raise UserError(f"{where} does not hold what its metadata describe: {differ}")
    odd = sorted(name for name, t in tensors.items() if t.dtype != torch.float32)
    if odd:
        raise UserError(f"{where}: {odd[0]} is {tensors[odd[0]].dtype}, not float32")
    model = FourM(config, token_spec.modalities)
    trained = {name: published_name(name) for name in model.state_dict()}
    buffers = sorted(tensors.keys() - set(trained.values()))
    biased = [name for name in buffers if bool(tensors[name].any())]
    if biased:
        raise UserError(
            f"{where}: LayerNorms have no bias in this architecture, and these are not zero: "
            f"{', '.join(biased[:4])}"
        )
    positions = tensors[OUTSIDE["positions.table"]]
    formula = sincos1d(torch.arange(len(positions)), config.dim)
    furthest = float((positions - formula).abs().max())
    if not furthest < 1e-4:
        raise UserError(
            f"{where}: pos_emb is up to {furthest:.2g} away from sines, then cosines of "
            f"position * 10000^(-k / {config.dim // 2})"
        )
    model.load_state_dict({name: tensors[theirs] for name, theirs in trained.items()})
    return model.eval(), token_spec


def write_published(model: FourM, path: Path) -> None:
    """Write a model as a published file, atomically.

    Raises:
        UserError: See ``published_metadata``.
    """
    metadata = published_metadata(model.config, model.modalities)
    tensors = {k: v.detach().cpu().contiguous() for k, v in published_tensors(model).items()}
    with whole_file(path) as part:
        save_file(tensors, part, metadata)


def convert(source: Path, out: Path) -> dict[str, Any]:
    """Convert a published file to a checkpoint folder, or a checkpoint folder to a published file.

    Args:
        source: A file, or the folder of a checkpoint or of a run that has one.
        out: Path to write; it must not exist.

    Returns:
        Summary: paths, parameters and modalities.

    Raises:
        UserError: See ``read_published`` and ``published_metadata``; ``source`` does not exist, or
            ``out`` does.
    """
    if out.exists():
        raise UserError(f"{out} is there already; choose another --out")
    if source.is_dir():
        inside = source / "train" / "checkpoint"
        model, token_spec = load_model(inside if inside.is_dir() else source)
        with writable(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_published(model, out)
    elif source.is_file():
        model, token_spec = read_published(source)
        with writable(out.parent):
            save_model(model, token_spec, out)
    else:
        raise UserError(
            f"nothing is at {source}; give a published .safetensors file or a checkpoint's folder"
        )
    return {
        "from": str(source),
        "to": str(out),
        "parameters": model.num_parameters,
        "modalities": [m.name for m in token_spec.modalities],
    }
