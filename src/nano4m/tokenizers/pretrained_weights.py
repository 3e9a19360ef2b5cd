"""Weights that others published: found in a folder, in the cache, or downloaded; known by hash.

A folder has the files themselves. A repository of the Hugging Face Hub is looked for in the cache
of ``huggingface_hub`` and downloaded into it. What the weights are is the SHA-256 of their files,
wherever they come from.
"""

import hashlib
import os
import socket
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from nano4m.errors import UserError
from nano4m.progress import log_info

CONNECT_SECONDS = 3.0
"""Longest wait for the hub; its own client tries again for half a minute."""


class Source(NamedTuple):
    """Where weights are.

    Attributes:
        given: A folder, or a repository of the hub.
        revision: Branch, tag or commit; of a folder without a meaning.
        files: Names of the files that are needed.
        subfolder: Of the repository; a folder has the files at its top or there.
    """

    given: str
    revision: str
    files: tuple[str, ...]
    subfolder: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether a folder was given; a name without a slash or with a leading one is none."""
        looks = self.given.startswith((".", "/", "~")) or self.given.count("/") != 1
        return looks or Path(self.given).is_dir()


class Found(NamedTuple):
    """Weights on this machine: folder, commit of a repository, hash of each file."""

    folder: Path
    commit: str | None
    hashes: dict[str, str]


def locate(source: Source) -> Found | None:
    """Return the weights if they are on this machine, else None; nothing is downloaded."""
    if source.is_folder:
        top = Path(source.given).expanduser()
        for folder in (top, top / source.subfolder):
            if all((folder / name).is_file() for name in source.files):
                return _found(folder, None, source.files)
        return None
    from huggingface_hub import try_to_load_from_cache

    paths = []
    for name in source.files:
        path = try_to_load_from_cache(
            source.given, _in_repository(source, name), revision=source.revision
        )
        if not isinstance(path, str):
            return None
        paths.append(Path(path))
    return _found(paths[0].parent, _commit(paths[0], source), source.files)


def fetch(source: Source, what: str, option: str, without: str) -> Found:
    """Return the weights, downloaded into the cache of the hub if they are not here.

    Args:
        source: Where they are.
        what: What they are for, for messages.
        option: The option that names them.
        without: What works without them, for messages.

    Raises:
        UserError: A folder without the files, or a repository that cannot be reached. The message
            says what to download and where to, and what works without.
    """
    found = locate(source)
    if found is not None:
        return found
    names = " and ".join(source.files)
    if source.is_folder:
        raise UserError(
            f"{option} {source.given}: no folder with {names}, the weights of {what}; give one, or "
            f"a repository of the Hugging Face Hub, or run without them: {without}"
        )
    try:
        _require_connection()
        from huggingface_hub import hf_hub_download

        log_info(f"{what}: {source.given} ({source.revision}) is downloaded")
        for name in source.files:
            hf_hub_download(source.given, _in_repository(source, name), revision=source.revision)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        paths = " ".join(_in_repository(source, name) for name in source.files)
        raise UserError(
            f"{what} needs the weights {source.given} ({source.revision}), which are not on this "
            f"machine and could not be downloaded ({first}); where there is a connection run: "
            f"hf download {source.given} {paths} --revision {source.revision} --local-dir FOLDER, "
            f"and give {option} FOLDER; or run without them: {without}"
        ) from error
    found = locate(source)
    if found is None:
        raise UserError(f"{option} {source.given}: {names} are not in its cache after a download")
    return found


def require_package(name: str, what: str, without: str) -> None:
    """Refuse what needs a package of the extra ``pretrained`` that is not installed.

    Raises:
        UserError: Says what to install, and what works without.
    """
    if find_spec(name) is None:
        raise UserError(
            f"{what} needs the package {name}; run: pip install 'nano4m-audio[pretrained]', or run "
            f"without it: {without}"
        )


def same_content(hashes: dict[str, str], others: dict[str, str]) -> list[str]:
    """Return the names of files whose content differs."""
    return sorted(n for n in hashes.keys() | others.keys() if hashes.get(n) != others.get(n))


def _found(folder: Path, commit: str | None, files: Sequence[str]) -> Found:
    hashes = {}
    for name in files:
        state = (folder / name).stat()
        hashes[name] = _sha256(folder / name, state.st_size, state.st_mtime_ns)
    return Found(folder, commit, hashes)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, time: int) -> str:
    # A stage loads a tokenizer several times; a file of the same size and time is not read again.
    del size, time
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_repository(source: Source, name: str) -> str:
    return f"{source.subfolder}/{name}" if source.subfolder else name


def _commit(path: Path, source: Source) -> str:
    # The cache is .../snapshots/COMMIT/[SUBFOLDER/]NAME.
    above = path.parent.relative_to(path.parents[len(Path(source.subfolder).parts) + 1])
    return above.parts[0]


def _require_connection() -> None:
    """Raise OSError at once where the hub cannot be reached; a proxy is left to the client."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise OSError("HF_HUB_OFFLINE is set")
    address = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"no connection to {address.hostname}") from error
