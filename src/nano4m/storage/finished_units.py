"""Finished units of a stage's work, which a repeated command reads instead of making them again.

A unit is a JSON object, ``NAME.json``, and perhaps arrays, ``NAME.npz``. The JSON is written last
and has the digest of the arrays, so a unit is there whole or not at all.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nano4m.errors import UserError
from nano4m.storage.arrays import read_arrays, write_arrays
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.files import drop
from nano4m.storage.json_files import read_object, write_json

Arrays = Mapping[str, np.ndarray]
_T = TypeVar("_T")


def made_from(stage: Path, *more: Any) -> str:
    """Return a digest of what the units of a stage depend on.

    Args:
        stage: Folder of the stage, with its settings and inputs.
        more: JSON of what is not in these, such as versions of packages.
    """
    files = [stage / "settings.json", stage / "inputs.json"]
    return _digest([*(p.read_text() if p.exists() else "" for p in files), *more])


def _digest(content: Any) -> str:
    """Return 16 hex digits of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FinishedUnits:
    """The finished units of one stage; any process of it may read and write them.

    Attributes:
        folder: Where they lie; made with the first one.
        made_from: Digest of everything that they depend on; units of another one are not used.
        tell: Called with a line for each unit that is there and cannot be used.
    """

    folder: Path
    made_from: str
    tell: Callable[[str], None]

    def read(self, name: str, decode: Callable[[Any, dict[str, np.ndarray]], _T]) -> _T | None:
        """Return ``decode(value, arrays)`` of a unit, or None if it is not there or not usable.

        Args:
            name: Of the unit.
            decode: Raises ValueError (pydantic's ValidationError too) if it is not what it must be.
        """
        path = self.folder / f"{name}.json"
        try:
            found = read_object(path)
            with reading(path):
                if _check(found) != found["check"]:
                    raise ValueError("its content is not what was made")
                if found["made_from"] != self.made_from:
                    raise ValueError("other settings, inputs or versions")
                if found["unit"] != name:
                    raise ValueError(f"it is of {found['unit']!r}")
                return decode(found["value"], self._arrays(name, found["arrays"]))
        except FileNotFoundError:
            return None
        except (UserError, OSError) as error:
            what = error.what if isinstance(error, DamagedFile) else error
            self.tell(f"{path} cannot be used ({what}); it is made again")
            return None

    def _arrays(self, name: str, digest: str | None) -> dict[str, np.ndarray]:
        if digest is None:
            return {}
        path = self.folder / f"{name}.npz"
        if not path.exists():
            raise ValueError(f"{path.name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DamagedFile(path, "its content is not what was made")
        return read_arrays(path)

    def write(self, name: str, value: Any, arrays: Arrays | None = None) -> None:
        """Store a unit: JSON and arrays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, digest = self.folder / f"{name}.npz", None
        if arrays is not None:
            write_arrays(path, arrays)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        unit = {"unit": name, "made_from": self.made_from, "arrays": digest, "value": value}
        write_json(self.folder / f"{name}.json", unit | {"check": _check(unit)})

    def remove(self) -> None:
        """Remove all units."""
        drop(self.folder)


def _check(unit: dict[str, Any]) -> str:
    """Return a digest of a unit, in which one bit may be wrong without the JSON being so."""
    content = {key: unit[key] for key in ("unit", "made_from", "arrays", "value")}
    return _digest(content)
