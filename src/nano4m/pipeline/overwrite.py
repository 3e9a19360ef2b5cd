"""``--overwrite``: results that are replaced are set aside until the new ones are done."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nano4m.errors import UserError
from nano4m.pipeline.settings import with_defaults
from nano4m.pipeline.stages import STAGES, Run, inputs_of, settings_of
from nano4m.progress import log_info
from nano4m.report.markup import span
from nano4m.stage import differences, manifest_of, settings_there, writable
from nano4m.storage import replaced
from nano4m.storage.damage import DamagedFile
from nano4m.storage.files import drop, write_bytes
from nano4m.storage.json_files import read_object
from nano4m.storage.replaced import is_begun, set_aside, size_of


def first_to_replace(run: Run) -> int:
    """Return the number of the first stage that belongs to another configuration."""
    names = list(STAGES)
    return next((i for i, name in enumerate(names) if not belongs(run, name)), len(names))


def belongs(run: Run, name: str) -> bool:
    """Whether the folder of a stage is empty or of these settings."""
    folder = run.out / name
    if not is_begun(folder):
        return True
    try:
        return not _differs(run, name, folder)
    except (DamagedFile, FileNotFoundError):
        return False


def _differs(run: Run, name: str, folder: Path) -> list[str]:
    return differences(with_defaults(settings_there(folder)), settings_of(run, name))


@contextmanager
def replacing(
    run: Run, names: Sequence[str], until: str, fresh: Sequence[str] = ()
) -> Iterator[None]:
    """Set stages aside, and have them back if the command is refused.

    Args:
        run: Whose stages.
        names: Stages to replace; none: nothing is done.
        until: Stage that must be done before the old ones are removed.
        fresh: Stages that are made anew even if their settings are those of before.

    Raises:
        UserError: That of the block; the message says where what it had begun is.
    """
    if not names:
        yield
        return
    _announce(run, [name for name in names if is_begun(run.out / name)])
    beside = {path: path.read_bytes() for path in run.out.glob("*.json")}
    with writable(run.out):
        aside = set_aside(run.out, names, until, fresh)
    try:
        yield
    except UserError as error:
        if aside is None or not aside.folder.is_dir():
            raise
        with writable(run.out):
            begun = aside.put_back()
            for path, content in beside.items():
                write_bytes(path, content)
        where = f"; what was begun is in {begun.folder}" if begun else ""
        raise UserError(
            f"{error}\nThe results of before are in their place again{where}"
        ) from error


def _announce(run: Run, names: Sequence[str]) -> None:
    """Say what is replaced, how large it is, and the time that went into it."""
    parts = []
    for name in names:
        folder = run.out / name
        try:
            manifest = manifest_of(run.out, name)
        except DamagedFile:
            manifest = None
        made = f"made in {span(manifest['seconds'])}" if manifest else "unfinished"
        parts.append(f"{name} ({made}, {size_of(folder) / 1e6:,.1f} MB)")
    if parts:
        log_info(
            f"replaces {', '.join(parts)}; kept in {run.out / replaced.ASIDE} until the new "
            f"results are done"
        )


def take_back(run: Run, name: str, inputs: Mapping[str, str]) -> None:
    """Move a stage back that was set aside and is what is asked for now."""
    if is_begun(run.out / name):
        return

    def is_wanted(folder: Path) -> bool:
        try:
            same = read_object(folder / "inputs.json") == inputs
            return same and not _differs(run, name, folder)
        except (DamagedFile, FileNotFoundError):
            return False

    with writable(run.out):
        if replaced.take_back(run.out, name, is_wanted):
            log_info(f"{name}: back from {run.out / replaced.ASIDE}, it is what was made before")


def finish(run: Run, name: str) -> None:
    """Remove what was kept until stage ``name`` is done; later stages that still fit come back."""
    names = list(STAGES)
    for aside in list(replaced.replaced(run.out)):
        if aside.until != name:
            continue
        try:
            for later in names[names.index(name) + 1 :]:
                if manifest_of(run.out, later) is None:
                    take_back(run, later, inputs_of(run, later))
        except DamagedFile:
            # One of them is to be mended first; those after it are kept, and taken back then.
            for done in names[: names.index(name) + 1]:
                drop(aside.folder / done)
            continue
        with writable(run.out):
            aside.drop()
    left = list(replaced.replaced(run.out)) if name == names[-1] else []
    if left:
        size = sum(size_of(aside.folder) for aside in left) / 1e6
        log_info(
            f"note: what refused commands had begun is in {run.out / replaced.ASIDE} "
            f"({size:,.1f} MB); the same command takes it up again, or delete it"
        )
