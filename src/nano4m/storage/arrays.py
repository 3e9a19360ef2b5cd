"""Files of arrays: safetensors, npz and Arrow, written whole; damage is one kind of error.

Arrow files are mapped into memory, not read.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors of any device to a safetensors file, whole."""
    from safetensors.torch import save_file

    with whole_file(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part)


def read_tensors(path: Path, mend: str | None = None) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file, on the CPU.

    Raises:
        DamagedFile: It is no whole safetensors file.
        OSError: The file cannot be read.
    """
    from safetensors.torch import load_file

    with reading(path, mend):
        return load_file(path)


def read_weights(path: Path, mend: str | None = None) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file, all of whose numbers are finite.

    Raises:
        DamagedFile: It is no whole safetensors file, or has a NaN or an infinity, by tensor.
        OSError: The file cannot be read.
    """
    found = read_tensors(path, mend)
    bad = not_finite(found)
    if bad:
        raise DamagedFile(path, f"weights are not finite: {bad}", mend)
    return found


def not_finite(tensors: "Mapping[str, Tensor]") -> str:
    """Return which tensors have a NaN or an infinity, and how many; "" if none has."""
    import torch

    bad = {
        name: int((~torch.isfinite(value)).sum())
        for name, value in tensors.items()
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=torch.float64))
    }
    some = [f"{name} ({count:,} of {tensors[name].numel():,})" for name, count in bad.items()]
    rest = f" and {len(some) - 4} more" if len(some) > 4 else ""
    return ", ".join(some[:4]) + rest


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to a compressed npz file, whole."""
    with whole_file(path) as part, part.open("wb") as file:
        values: dict[str, Any] = dict(arrays)
        np.savez_compressed(file, allow_pickle=False, **values)


def read_arrays(path: Path, mend: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file.

    Raises:
        DamagedFile: It is no whole npz file, or has Python objects.
        OSError: The file cannot be read.
    """
    with reading(path, mend), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is empty" if not path.stat().st_size else "it is no npz file")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)


def map_arrow(path: Path, mend: str | None = None) -> pa.Table:
    """Return the table of an Arrow IPC file, mapped into memory.

    Raises:
        DamagedFile: It is no whole Arrow file.
        FileNotFoundError: There is no such file.
    """
    with reading(path, mend):
        if not path.stat().st_size:
            raise ValueError("it is empty")
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def read_parquet_schema(path: Path, mend: str | None = None) -> pa.Schema:
    """Return the schema of a Parquet file.

    Raises:
        DamagedFile: It is no whole Parquet file.
        FileNotFoundError: There is no such file.
    """
    with reading(path, mend):
        return pq.read_schema(path)
