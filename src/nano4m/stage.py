"""A stage of a run: it reads folders, writes one folder with a manifest, and can be run again.

``settings.json`` is written first and identifies the configuration; ``manifest.json`` is written
last, marks the folder as complete and lists its files. A folder without a manifest is unfinished
and never used.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nano4m.errors import UserError
from nano4m.failures import in_words
from nano4m.progress import log_info
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.inventory import check_inventory, take_inventory
from nano4m.storage.json_files import read_object, write_json
from nano4m.storage.replaced import is_begun, set_aside, ways_on

MADE = {".parquet", ".arrow", ".safetensors", ".npz"}
LISTED = MADE | {".json", ".html", ".png", ".csv"}
"""Files that a later stage, or somebody, reads; others, such as logs, may change."""
NO_RESULT = (".", "step-", "nonfinite-", "tensorboard", "wandb")
"""Beginnings of names, in the folder of a stage, that are no part of its result."""
NOT_LISTED = {"manifest.json", "settings.json", "inputs.json"}
"""Compared by what they say."""
PACKAGES = ("nano4m-audio", "torch", "numpy", "pyarrow", "tokenizers", "vector-quantize-pytorch")


@cache
def provenance() -> dict[str, Any]:
    """Return package versions, commit, machine and command of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    try:
        git = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
        ]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "versions": versions,
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "command": shlex.join(["nano4m", *sys.argv[1:]]),
    }


def versions() -> dict[str, Any]:
    """Return commit and package versions: parts that others have made are not mixed with ours."""
    return {key: provenance()[key] for key in ("commit", "versions")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return one line for each leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if old == new else [f"{path}: {old!r} there, {new!r} now"]


def manifest_of(out: Path, name: str) -> dict[str, Any] | None:
    """Return the manifest of a finished stage, or None.

    Raises:
        DamagedFile: It cannot be read, or is that of another stage.
    """
    path = out / name / "manifest.json"
    try:
        found = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with reading(path):
        if found["stage"] != name:
            raise ValueError(f"it is the manifest of {found['stage']!r}")
        if not isinstance(found["seconds"], int | float) or not isinstance(found["summary"], dict):
            raise ValueError("it is no manifest")
    return found


def settings_there(folder: Path) -> dict[str, Any]:
    """Return the content of a stage folder's ``settings.json``.

    Raises:
        DamagedFile: It cannot be read, so the content of the folder is unknown.
    """
    return read_object(folder / "settings.json")


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn write errors, such as a full disk or a missing permission, into a UserError.

    Raises:
        UserError: ``folder`` cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = in_words(error, str(folder))
        if said is None:
            raise
        raise UserError(said) from error


def run_stage(
    out: Path,
    name: str,
    settings: dict[str, Any],
    inputs: dict[str, str],
    work: Callable[[Path], dict[str, Any]],
    as_now: Callable[[dict[str, Any]], dict[str, Any]] = lambda settings: settings,
) -> dict[str, Any]:
    """Run ``work(folder)`` unless ``folder`` is complete, with these ``settings`` and ``inputs``.

    Results made from other inputs (an earlier stage was repeated with another result) are set
    aside (``storage.replaced``) and made again.

    Args:
        out: Folder of the run.
        name: Name of the stage and of its folder.
        settings: JSON of everything that the result depends on.
        inputs: Earlier stage -> digest of its result.
        work: Writes into the folder, resumes what it finds there, returns a JSON summary.
        as_now: Converts settings written by an earlier version into their present form.

    Returns:
        The manifest: settings, summary, provenance, seconds.

    Raises:
        UserError: The folder belongs to other settings, or cannot be written.
        DamagedFile: A file of the finished stage is missing or another one.
    """
    folder = out / name
    settings = json.loads(json.dumps(settings))
    with writable(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError) as error:
            raise UserError(
                f"cannot make the folder {folder}: {error.strerror}; choose another --out"
            ) from error
        owner = folder / "settings.json"
        manifest = _readable_manifest(out, name)
        _restore(folder, manifest or {})
        # Settings alone are left by an attempt that failed early, such as one without its --data.
        if owner.exists() and is_begun(folder):
            changed = differences(as_now(settings_there(folder)), settings)
            if changed:
                shown = "\n  ".join(changed[:8])
                raise UserError(
                    f"{folder} belongs to another configuration:\n  {shown}\n"
                    f"give the options that it was made with to go on with it, or "
                    f"{ways_on(out, name)}"
                )
            made_from = folder / "inputs.json"
            if made_from.exists() and read_object(made_from) != inputs:
                log_info(f"{name}: its inputs have changed, so it is made again")
                set_aside(out, [name], until=name)
                folder.mkdir(exist_ok=True)
                manifest = None
        if manifest is None:
            write_json(owner, settings)
            write_json(folder / "inputs.json", inputs)
        else:
            check_inventory(folder, manifest.get("files", {}))
            log_info(f"{name}: up to date ({folder})")
            return manifest
        started = time.perf_counter()
        summary = work(folder)
        seconds = round(time.perf_counter() - started, 1)
        manifest = {"stage": name, "summary": summary, "seconds": seconds, "digest": digest(folder)}
        manifest |= {"settings": settings, "inputs": inputs}
        manifest |= provenance() | {"files": take_inventory(folder, _is_listed)}
        write_json(folder / "manifest.json", manifest)
        log_info(f"{name}: done in {seconds:.0f} s")
        return manifest


def _readable_manifest(out: Path, name: str) -> dict[str, Any] | None:
    """Return the manifest; without a readable one a stage is gone through again, and resumed."""
    try:
        return manifest_of(out, name)
    except DamagedFile as error:
        log_info(f"{name}: {error.path} is damaged ({error.what}), so the stage is finished again")
        return None


def _restore(folder: Path, manifest: dict[str, Any]) -> None:
    """Write settings and inputs of a finished stage again if they are damaged.

    Raises:
        DamagedFile: Settings can be read, and are others than the manifest has.
    """
    for key in ("settings", "inputs"):
        # Manifests of before have neither.
        if not isinstance(manifest.get(key), dict):
            continue
        path, found = folder / f"{key}.json", None
        with suppress(FileNotFoundError, DamagedFile):
            found = read_object(path)
        if found == manifest[key]:
            continue
        if found is not None and key == "settings":
            raise DamagedFile(path, "it is not what the manifest of this folder says")
        log_info(f"{folder.name}: {path.name} is written again, as the manifest has it")
        write_json(path, manifest[key])


def _is_result(path: Path) -> bool:
    """Whether a file, by its path in the stage's folder, is part of the result."""
    # Training states, logs of trackers, and what was left half done are not.
    return not any(part.startswith(NO_RESULT) for part in path.parts)


def _is_listed(path: Path) -> bool:
    return path.suffix in LISTED and path.name not in NOT_LISTED and _is_result(path)


def digest(folder: Path) -> str:
    """Return twelve hex digits of a stage's result: its tables, weights and arrays."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in MADE):
        if _is_result(path.relative_to(folder)):
            whole.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]
