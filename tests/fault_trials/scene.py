"""What faults are tried on: a finished tiny run, made stage by stage, and copies of it."""

import importlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fault_trials.bits import held
from fault_trials.commands import Ended, Fault, Running, run, start
from nano4m.pipeline.stages import STAGES
from tiny_run import TINY

WITHOUT = ("depth", "normals")
"""Left out: they take a third of the time, and their files are as those of the picture."""

LOADED = (
    "pipeline.run",
    "pipeline.info",
    "pipeline.checks",
    "data.build",
    "tokenizers.fit",
    "tokenizers.apply",
    "tokenizers.image_vq",
    "tokenizers.mel_vq",
    "tokenizers.bpe",
    "training.trainer",
    "training.tracking",
    "evaluate.run",
    "report.page",
    "report.overview",
    "inference.command",
    "inference.options",
)
"""Modules that are imported once, before any command."""

NAMES = list(STAGES)


def options() -> list[str]:
    """Return the options of the tiny run."""
    found = ["--without", ",".join(WITHOUT)]
    for word, value in zip(TINY[::2], TINY[1::2], strict=True):
        if not word.startswith(tuple(f"--tokenizers.{name}." for name in WITHOUT)):
            found += [word, value]
    return found


def load_all() -> None:
    """Import what commands need; a process that is forked later starts at once."""
    for name in (*(f"nano4m.{name}" for name in LOADED), "tyro", "soundfile", "PIL.Image"):
        importlib.import_module(name)


@contextmanager
def trial_process() -> Iterator[ProcessPoolExecutor]:
    """Yield processes for trials, one at a time, each new and without anything computed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fault_trials.loaded"])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        yield pool


@dataclass(frozen=True)
class Scene:
    """A finished run and what is known of it.

    Attributes:
        folder: Holds the run in ``run``, samples of it in ``made``, and copies.
        bits: Of the run, see ``held``.
        made: The same of the samples.
        calls: Number of calls that can be disturbed, by command.
        seconds: Of each command.
    """

    folder: Path
    bits: dict[str, str]
    made: dict[str, str]
    calls: dict[str, int]
    seconds: dict[str, float]

    @property
    def run(self) -> Path:
        """The finished run."""
        return self.folder / "run"

    @property
    def work(self) -> Path:
        """Where a copy lies while it is tried."""
        return self.folder / "work" / "run"

    def command(self, name: str, *more: str, out: Path | None = None) -> list[str]:
        """Return the words of a command on the copy."""
        if name == "generate":
            return samples(out or self.work, self.work.parent / "made", *more)
        return [name, "farm", "--out", str(out or self.work), *options(), *more]

    def start(self, args: Sequence[str], fault: Fault | None = None, log: str = "log") -> Running:
        """Start a command on the copy."""
        return start(args, self.folder / log, fault)

    def do(self, args: Sequence[str], fault: Fault | None = None) -> Ended:
        """Run a command on the copy."""
        return run(args, self.folder / "log", fault)

    def copy(self, before: str | None = None) -> Path:
        """Copy the run anew; with ``before``, without that stage and those after it."""
        shutil.rmtree(self.work.parent, ignore_errors=True)
        shutil.copytree(self.run, self.work)
        if before is not None:
            for name in NAMES[NAMES.index(before) :]:
                shutil.rmtree(self.work / name)
            if NAMES.index(before) <= NAMES.index("evaluate"):
                (self.work / "results.json").unlink()
        return self.work


def samples(run: Path, folder: Path, *more: str) -> list[str]:
    """Return the words of a ``generate`` command."""
    where = ["--run", str(run), "--dir", str(folder)]
    return ["generate", *where, "--caption", "a dog", "--out", "rgb,sound", "--n", "2", *more]


def make_scene(folder: Path) -> Scene:
    """Make the run and samples of it, in a process of which nothing was computed.

    Raises:
        RuntimeError: A command fails.
    """
    load_all()
    scene = Scene(folder, {}, {}, {}, {})
    commands = {name: scene.command(name, out=scene.run) for name in [*NAMES, "run"]}
    commands["generate"] = samples(scene.run, folder / "made")
    for name, args in commands.items():
        ended = scene.do(args)
        if ended.code:
            raise RuntimeError(ended.said)
        scene.calls[name], scene.seconds[name] = ended.calls, ended.seconds
    return Scene(folder, held(scene.run), held(folder / "made"), scene.calls, scene.seconds)


def describe(scene: Scene) -> str:
    """Return the calls and seconds of each command as JSON."""
    seconds = {name: round(value, 2) for name, value in scene.seconds.items()}
    return json.dumps({"calls": scene.calls, "seconds": seconds})
