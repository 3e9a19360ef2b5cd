"""JSON files: written whole, with a format number; newer formats are refused.

Readers ignore unknown keys, so a later version may add some without a new number.
"""

import json
from pathlib import Path
from typing import Any

from nano4m.errors import UserError
from nano4m.storage.damage import reading
from nano4m.storage.files import write_text

FORMAT = 1
"""Format number of every JSON object; incremented if older files would be misread."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; an object gets the key ``format``.

    Raises:
        ValueError: A number that is not finite.
    """
    if isinstance(value, dict):
        value = {"format": FORMAT} | value
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, mend: str | None = None) -> Any:
    """Return what ``write_json`` wrote, without its format.

    Args:
        path: The file.
        mend: What to do if it is damaged; None: found from its place in a run.

    Raises:
        UserError: A newer format.
        DamagedFile: It is not JSON.
        OSError: The file cannot be read.
    """
    with reading(path, mend):
        value = json.loads(path.read_text(encoding="utf-8"))
    return without_format(value, path)


def read_object(path: Path, mend: str | None = None) -> dict[str, Any]:
    """Return the JSON object that ``write_json`` wrote, see ``read_json``.

    Raises:
        DamagedFile: It is not JSON, or no object.
    """
    value = read_json(path, mend)
    with reading(path, mend):
        if not isinstance(value, dict):
            raise ValueError(f"it holds {type(value).__name__}, not an object")
    return value


def without_format(value: Any, place: object) -> Any:
    """Return an object read from ``place``, without its format.

    Raises:
        UserError: A newer format.
    """
    if not isinstance(value, dict):
        return value
    found = value.get("format", FORMAT)
    if isinstance(found, int) and found > FORMAT:
        raise UserError(
            f"{place} has format {found}, and this version reads up to format {FORMAT}; "
            "install a newer nano4m-audio"
        )
    return {k: v for k, v in value.items() if k != "format"}
