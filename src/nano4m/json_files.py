"""JSON files: written atomically, with a format number; newer formats are refused.

Readers ignore unknown keys, so a later version may add some without a new number. Standard library
only.
"""

import json
import os
from pathlib import Path
from typing import Any

from nano4m.errors import UserError

FORMAT = 1
"""Format number of every JSON object; incremented if older files would be misread."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; an object gets the key ``format``."""
    if isinstance(value, dict):
        value = {"format": FORMAT} | value
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """Return what ``write_json`` wrote, without its format.

    Raises:
        UserError: A newer format.
        json.JSONDecodeError: The file is damaged.
        OSError: The file cannot be read.
    """
    return without_format(json.loads(path.read_text()), path)


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
