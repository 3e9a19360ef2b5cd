"""Running stages: all of a run, or one on the finished results of those before it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nano4m.compute.launch import size_of_world
from nano4m.errors import UserError
from nano4m.pipeline.checks import check_before
from nano4m.pipeline.overwrite import belongs, finish, first_to_replace, replacing, take_back
from nano4m.pipeline.settings import with_defaults
from nano4m.pipeline.source_data import check_data
from nano4m.pipeline.stages import (
    STAGES,
    Run,
    inputs_of,
    is_said,
    settings_of,
    write_config,
)
from nano4m.progress import log_info
from nano4m.stage import manifest_of, run_stage, writable
from nano4m.storage.damage import DamagedFile
from nano4m.storage.files import write_bytes
from nano4m.storage.json_files import read_json


def run_pipeline(run: Run, overwrite: bool = False) -> dict[str, dict[str, Any]]:
    """Run all stages that are not up to date; return their manifests.

    With ``overwrite``, the first stage that belongs to another configuration and all that follow
    from it are set aside, and removed when the last new one is done.

    Raises:
        UserError: Several processes of torchrun: only ``train`` takes them.
    """
    if size_of_world() > 1:
        raise UserError(
            f"torchrun starts {size_of_world()} processes of all stages, and only train shares "
            f"its work; run: nano4m table {run.config.preset} --out {run.out}, and then: "
            f"torchrun --nproc-per-node {size_of_world()} -m nano4m train {run.config.preset} "
            f"--out {run.out}"
        )
    _warn_untrained(run)
    check_data(run.source_data, run.out, overwrite)
    names = list(STAGES)
    changed = names[first_to_replace(run) :] if overwrite else []
    check_before(run, [n for n in names if n in changed or not _is_done(run, n)], changed)
    with replacing(run, changed, until=names[-1]):
        manifests = {name: _one(run, name) for name in names}
    if not is_said(run):
        write_config(run)
    return manifests


def run_one_stage(run: Run, name: str, overwrite: bool = False) -> dict[str, Any]:
    """Run one stage on the finished results of those before it.

    Several processes of torchrun train together; no other stage takes more than one.

    Raises:
        UserError: An earlier stage is unfinished or of another configuration, or several processes
            run a stage that is not ``train``.
    """
    if size_of_world() > 1:
        return _together(run, name, overwrite)
    if name == "train":
        _warn_untrained(run)
    return _alone(run, name, overwrite)


def _warn_untrained(run: Run) -> None:
    missing = run.config.masking.untrained(len(run.config.tokenizers))
    if missing and manifest_of(run.out, "train") is None:
        log_info(f"note: {missing}")


def _together(run: Run, name: str, overwrite: bool) -> dict[str, Any]:
    if name != "train":
        raise UserError(
            f"torchrun starts {size_of_world()} processes of nano4m {name}, and only train shares "
            f"its work; run: nano4m {name} {run.config.preset} --out {run.out}"
        )
    from nano4m.compute.distributed import open_training

    world = open_training(run.config)
    run = replace(run, world=world)
    # The first process manages the folder; the others start training when it does.
    if world.rank:
        return STAGES[name].work(run, run.out / name) if world.any_rank(False) else {}
    begun = []
    manifest = _alone(run, name, overwrite, lambda: begun.append(world.any_rank(True)))
    if not begun:
        world.any_rank(False)
    return manifest


def _alone(
    run: Run, name: str, overwrite: bool, begin: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    names = list(STAGES)
    check_data(run.source_data, run.out, overwrite)
    for earlier in names[: names.index(name)]:
        if manifest_of(run.out, earlier) is None:
            raise UserError(
                f"{name} needs {earlier!r} of {run.out}, which is not finished; run: "
                f"nano4m {earlier} {run.config.preset} --out {run.out}"
            )
    if names.index(name):
        # An up-to-date earlier stage returns at once; one of other settings is refused.
        _one(run, names[names.index(name) - 1])
    changed = names[names.index(name) :] if overwrite else []
    if overwrite or not _is_done(run, name):
        check_before(run, [name], changed)
    # With other settings the results of before may come back when those are asked for again.
    fresh = [name] if overwrite and belongs(run, name) else []
    with replacing(run, changed, until=name, fresh=fresh):
        return _one(run, name, begin)


def _is_done(run: Run, name: str) -> bool:
    try:
        return manifest_of(run.out, name) is not None
    except DamagedFile:
        return False


def _one(run: Run, name: str, begin: Callable[[], None] = lambda: None) -> dict[str, Any]:
    def work(folder: Path) -> dict[str, Any]:
        begin()
        # Not earlier: a refused run must not replace the configuration of the existing one.
        write_config(run)
        return STAGES[name].work(run, folder)

    inputs = inputs_of(run, name)
    take_back(run, name, inputs)
    manifest = run_stage(run.out, name, settings_of(run, name), inputs, work, with_defaults)
    if name == "evaluate":
        _copy_results(run)
    finish(run, name)
    return manifest


def _copy_results(run: Run) -> None:
    """Have the results beside the folders of the stages too, where people look for them."""
    made, copy = (folder / "results.json" for folder in (run.out / "evaluate", run.out))
    if not copy.is_file() or _content(copy) != _content(made):
        with writable(run.out):
            write_bytes(copy, made.read_bytes())


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except DamagedFile:
        return None
