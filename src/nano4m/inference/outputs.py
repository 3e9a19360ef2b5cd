"""Output files of generation: one a sample and modality, all ids, and a record of the call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nano4m.errors import UserError
from nano4m.json_files import read_json, write_json
from nano4m.media import media_kind
from nano4m.modalities import Modality
from nano4m.stage import writable
from nano4m.tokenizers.base import Tokenizer

RECORD = "generate"
"""Name of the record, ``generate.json``; a later call may replace the files that it lists."""

DECODE_BATCH = 64
DECODE_BATCH_GPU = 256
"""Samples that are decoded at once."""


def decode(tokenizer: Tokenizer, modality: Modality, ids_NT: Tensor) -> list[Any]:
    """Return the media of each sequence of ids, on the CPU, decoded on the tokenizer's device."""
    media: list[Any] = []
    for part in ids_NT.split(DECODE_BATCH if tokenizer.device.type == "cpu" else DECODE_BATCH_GPU):
        decoded = tokenizer.decode(part.reshape(-1, *modality.shape))
        media += list(decoded.cpu() if isinstance(decoded, Tensor) else decoded)
    return media


@dataclass(frozen=True, kw_only=True)
class Made:
    """The samples of one modality, those of one input after the other.

    Attributes:
        modality: Of the run.
        ids_NT: int64 ids; a text is padded with its end token.
        media: N decoded items.
    """

    modality: Modality
    ids_NT: Tensor
    media: list[Any]


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Create the folder; if it holds files, refuse, or remove those of an earlier call.

    Raises:
        UserError: It is no folder, cannot be written, or is not empty and ``overwrite`` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--dir {folder} is a file; choose a folder")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            if not overwrite:
                raise UserError(
                    f"--dir {folder} is not empty; choose another folder, or add --overwrite to "
                    "replace what this command left there"
                )
            record = folder / f"{RECORD}.json"
            listed = _listed(record) if record.exists() else []
            for name in listed:
                # Never a path outside the folder, whatever the record says.
                if Path(name).name == name:
                    (folder / name).unlink(missing_ok=True)
            record.unlink(missing_ok=True)


def _listed(record: Path) -> list[str]:
    """Return the files that an earlier record lists; none if it cannot be read."""
    try:
        files = read_json(record).get("files", [])
    except (json.JSONDecodeError, AttributeError):
        return []
    return [str(name) for name in files]


def write_media(folder: Path, names: Sequence[str], made: Made, rate: int) -> list[str]:
    """Write one file a sample, ``<name>.<modality>.png``, and return their names.

    Args:
        folder: It exists.
        names: Of each sample, as many as items.
        made: What was generated.
        rate: Sample rate of a sound, in Hz.
    """
    kind = media_kind(made.modality.media)
    files = []
    for name, item in zip(names, made.media, strict=True):
        file = f"{name}.{made.modality.name}{kind.suffix}"
        (folder / file).write_bytes(kind.part("write")(item, rate))
        files.append(file)
    return files


def write_ids(folder: Path, names: Sequence[str], made: Sequence[Made]) -> str:
    """Write ``ids.npz``: sample_names and uint16 (N, T) of each modality; return its name."""
    arrays: dict[str, Any] = {m.modality.name: m.ids_NT.numpy().astype(np.uint16) for m in made}
    with (folder / "ids.npz").open("wb") as file:
        np.savez_compressed(file, sample_names=np.array(names), **arrays)
    return "ids.npz"


def write_record(folder: Path, record: Mapping[str, Any], files: Sequence[str]) -> None:
    """Write ``generate.json``, last: if it exists, all other files do."""
    write_json(folder / f"{RECORD}.json", {**record, "files": [*files]})
