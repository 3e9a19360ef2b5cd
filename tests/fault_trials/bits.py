"""What a run holds, in a form that is equal for two runs if and only if their results are."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

VARYING = re.compile(
    r"seconds|provenance|memory_gb|gflops|_per_second|mfu|command|commit|machine|files|page$|picture$"
)
"""Names of entries that hold times, speeds, places, or what made a result."""

NO_RESULT = ("step-", "tensorboard", "nonfinite-", "log.jsonl")
"""Beginnings of names that are no part of a result: they may stay, be missing, or differ."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in sorted(value.items()) if not VARYING.search(k)}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def page_text(path: Path) -> str:
    """Return a page without its numbers, which are those of results.json, and its commands."""
    # Times and speeds are written in units of their size.
    text = re.sub(r"<code>.*?</code>", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"[0-9][0-9.,]*(e[-+]?[0-9]+)?", "0", text)
    return re.sub(r"\b0 h 0 min|\b0 min|\b0 ms", "0 s", text)


def _content(path: Path) -> str:
    if path.suffix == ".json":
        found: Any = _plain(json.loads(path.read_bytes()))
        return json.dumps(found)
    if path.suffix == ".html":
        return page_text(path)
    return path.read_bytes().hex()


def held(out: Path, *stages: str) -> dict[str, str]:
    """Return a digest of each file of a run, or of some of its stages.

    Files that are there and should not be, such as parts, are in it too.
    """
    found = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        if path.is_dir() or any(p.startswith(NO_RESULT) for p in relative.parts):
            continue
        if stages and relative.parts[0] not in stages and len(relative.parts) > 1:
            continue
        if stages and len(relative.parts) == 1 and not relative.name.startswith("."):
            continue
        try:
            content = _content(path)
        except ValueError as error:
            content = f"damaged: {error}"
        found[relative.as_posix()] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of files that two runs do not have in common, with equal content."""
    return sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """Return number and time of each file of a run's stages: equal only if it is the same file."""
    found = {}
    for path in sorted(out.glob("*/**/*")):
        if path.is_file() and not path.relative_to(out).parts[0].startswith("."):
            found[str(path.relative_to(out))] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found
