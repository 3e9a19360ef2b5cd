"""What docs/EVALUATION.md defines, for tests that every figure is."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "EVALUATION.md"


def undefined(names: Iterable[str], text: str | None = None) -> list[str]:
    """Return the names that do not stand between backticks on the page (or in ``text``), sorted."""
    ticked = re.findall(r"`([^`]+)`", PAGE.read_text() if text is None else text)
    return sorted(set(names) - set(ticked))
