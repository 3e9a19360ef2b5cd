"""Output files of generation: one a sample and modality, all ids, and a record of the call."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nano4m.errors import UserError
from nano4m.media import media_kind
from nano4m.modalities import Modality
from nano4m.stage import writable
from nano4m.storage.damage import DamagedFile
from nano4m.storage.files import drop, sync
from nano4m.storage.json_files import read_object, write_json
from nano4m.storage.lock import LOCK
from nano4m.tokenizers.base import Tokenizer

RECORD_FILE = "generate.json"
"""The record of a call; a later one may replace the files that it lists."""

ASIDE = ".generate.part"
"""Folder in which files are made."""

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
    """Create the folder, and refuse one that holds files without ``overwrite``.

    Raises:
        UserError: It is no folder, cannot be written, or is not empty and ``overwrite`` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--dir {folder} is a file; choose a folder")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name not in (LOCK, ASIDE) for path in folder.iterdir()) and not overwrite:
            raise UserError(
                f"--dir {folder} is not empty; choose another folder, or add --overwrite to "
                "replace what this command left there"
            )


@contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill inside ``folder``; at the end its files take the place of those of
    an earlier call.

    Files that are not of this command stay. If the block raises, all files of before do.

    Raises:
        UserError: The folder cannot be written; what was there before is there.
    """
    aside = folder / ASIDE
    with writable(folder):
        if not (aside / RECORD_FILE).exists():
            drop(aside)
        else:
            # A call was stopped while it moved its files here.
            _move(aside, folder)
        aside.mkdir()
        try:
            yield aside
            for path in aside.iterdir():
                sync(path)
        except BaseException:
            drop(aside)
            raise
        _move(aside, folder)


def _move(aside: Path, folder: Path) -> None:
    """Move finished files into the folder, the record last, and drop those of an earlier call."""
    new = [path.name for path in aside.iterdir() if path.name != RECORD_FILE]
    for name in set(_listed(folder / RECORD_FILE)) - set(_listed(aside / RECORD_FILE)):
        # Never a path outside the folder, whatever the record says.
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    for name in new:
        os.replace(aside / name, folder / name)
    os.replace(aside / RECORD_FILE, folder / RECORD_FILE)
    sync(folder)
    drop(aside)


def _listed(record: Path) -> list[str]:
    """Return the files that a record lists; none if it cannot be read."""
    try:
        files = read_object(record).get("files", [])
    except (FileNotFoundError, DamagedFile):
        return []
    return [str(name) for name in files] if isinstance(files, list) else []


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
    write_json(folder / RECORD_FILE, {**record, "files": [*files]})
