"""Damage of our own files: one error that names the file, what is wrong, and how to mend it."""

import errno
import json
import os
import shlex
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError

from nano4m.errors import UserError

SIGNS = (
    ValueError,  # JSON, UTF-8, ids and numbers
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    OverflowError,
    SafetensorError,
    ValidationError,
    zipfile.BadZipFile,
    zlib.error,
    RecursionError,
    NotImplementedError,  # zipfile: compression that it does not know
)
"""Errors that reading a damaged file, or one of another form, can raise."""


class DamagedFile(UserError):
    """A file of ours that is missing, cut off, or has the content of another one.

    Args:
        path: The file.
        what: What is wrong with it, without a full stop.
        mend: What to do about it if the file is not in a run; there ``mending`` knows it.
    """

    def __init__(self, path: Path, what: str, mend: str | None = None) -> None:
        self.path, self.what = path, what
        super().__init__(f"{path} is damaged ({what}); {mending(path) or mend or 'make it again'}")


@contextmanager
def reading(path: Path, mend: str | None = None) -> Iterator[None]:
    """Turn any sign of damage while reading and checking ``path`` into ``DamagedFile``.

    A file that is missing, or that may not be read, keeps its OSError.

    Raises:
        DamagedFile: With the cause in one line.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        # Of other libraries: not from the system, so without a number.
        if error.errno is not None:
            raise
        if not path.exists():
            missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            raise missing from error
        raise DamagedFile(path, cause(error), mend) from error
    except SIGNS as error:
        raise DamagedFile(path, cause(error), mend) from error
    except Exception as error:
        # By its name: importing pyarrow takes longer than a command that only prints its help.
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        raise DamagedFile(path, cause(error), mend) from error


def cause(error: BaseException) -> str:
    """Return the cause of damage in one short line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        text = f"{place}{': ' * bool(place)}{first['msg']}"
    elif isinstance(error, KeyError):
        text = f"{error.args[0]!r} is missing" if error.args else "an entry is missing"
    elif isinstance(error, json.JSONDecodeError) and not error.doc.strip():
        text = "it is empty"
    else:
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return text if len(text) < 160 else f"{text[:157]}..."


def mending(path: Path) -> str | None:
    """Return what to run to have a damaged file of a run, or of its stages, again.

    The command is the one that made it, which the manifests of a run remember. None: the file is
    in no run.
    """
    stage = next((p for p in path.parents if (p / "settings.json").exists()), None)
    if stage is None:
        is_run = (path.parent / "clips").is_dir()
        return f"run: {_command(path.parent, 'run')}" if is_run else None
    # A stage without a manifest is gone through again, on what it has made.
    anew = "" if path == stage / "manifest.json" else " --overwrite"
    return f"run: {_command(stage.parent, stage.name)}{anew}"


def _command(run: Path, stage: str) -> str:
    """Return the command line of a stage with the options that the run was made with."""
    found = [_words(run / name / "manifest.json") for name in (stage, *_stages(run))]
    for words in found:
        is_ours = len(words) > 2 and (words[1] == "run" or (run / words[1]).is_dir())
        if is_ours and not words[2].startswith("-"):
            kept = [w for w in words[3:] if w not in ("--overwrite", "--json")]
            return shlex.join(["nano4m", stage, words[2], *_into(run, words[2], kept)])
    preset = _preset(run / "config.json")
    return f"nano4m {stage} {preset} --out {shlex.quote(str(run))} (with the options of the run)"


def _into(run: Path, preset: str, options: list[str]) -> list[str]:
    """Return options with ``--out`` of where the run lies now: it may have been moved or copied."""
    out, others, rest = Path("runs") / preset, [], iter(options)
    for word in rest:
        if word == "--out":
            out = Path(next(rest, ""))
        elif word.startswith("--out="):
            out = Path(word.removeprefix("--out="))
        else:
            others.append(word)
    return options if out.resolve() == run.resolve() else ["--out", str(run), *others]


def _stages(run: Path) -> list[str]:
    return sorted(p.parent.name for p in run.glob("*/manifest.json"))


def _words(manifest: Path) -> list[str]:
    found: Any = _quietly(manifest).get("command", "")
    try:
        return shlex.split(found)
    except (ValueError, AttributeError):
        return []


def _preset(path: Path) -> str:
    found = _quietly(path).get("preset")
    return found if isinstance(found, str) else "PRESET"


def _quietly(path: Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one if it cannot be read: it only improves a message."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
