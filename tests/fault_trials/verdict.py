"""What became of a run after a fault: the same bits, a sentence that mends it, or worse."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fault_trials.bits import different, held, page_text
from fault_trials.commands import Ended
from fault_trials.scene import Scene

GOOD = ("same bits", "sentence")
BAD = ("lost or different", "traceback", "hung")
STOPPED = (130, -2, -15, -1, -9)
"""Exit codes of a command that a signal stopped."""

MOST_MENDINGS = 4


@dataclass
class Verdict:
    """One trial.

    Attributes:
        kind: Of fault.
        fault: What was done, in words.
        became: One of ``GOOD`` or ``BAD``.
        said: Why, if it is bad; else what the user was told, if anything.
        steps: Commands that were run, with their exit codes.
    """

    kind: str
    fault: str
    became: str = "same bits"
    said: str = ""
    steps: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost and the user knows what to do."""
        return self.became in GOOD

    def bad(self, became: str, said: str) -> "Verdict":
        """Note that something is wrong, unless something was before."""
        if self.is_good:
            self.became, self.said = became, said[-1500:]
        return self

    def see(self, args: Sequence[str], ended: Ended, stopped: bool = False) -> bool:
        """Note a command that ended; return whether it ended as a command may.

        Args:
            args: Of the command.
            ended: How.
            stopped: Whether it may have been stopped by a signal.
        """
        more = " --overwrite" if "--overwrite" in args else ""
        self.steps.append(f"{args[0]}{more}: {ended.code}")
        if ended.traceback:
            self.bad("traceback", ended.traceback)
        elif ended.code == -999:
            self.bad("hung", ended.said)
        elif ended.code == 2 and not ended.sentence:
            self.bad("lost or different", f"exit code 2 without a sentence: {ended.said}")
        elif ended.code not in (0, 2, *(STOPPED if stopped else ())):
            self.bad("lost or different", f"exit code {ended.code}: {ended.said}")
        return self.is_good


def settle(
    scene: Scene, verdict: Verdict, args: Sequence[str], stages: Sequence[str] = ()
) -> Verdict:
    """Run the command that was disturbed again, and what its sentences name, until it is done.

    Args:
        scene: With the copy that was damaged or left unfinished.
        verdict: Of what happened so far.
        args: The command, which must end with the bits of the undisturbed run.
        stages: What to compare; none: everything.
    """
    for _ in range(MOST_MENDINGS):
        ended = scene.do(args)
        if not verdict.see(args, ended):
            return verdict
        if ended.code == 0:
            return compare(scene, verdict, args, stages)
        verdict.became, verdict.said = "sentence", ended.sentence[:600]
        # A sentence names a file or folder that there is, and a command or what else to do.
        if str(scene.work.parent) not in ended.sentence:
            return verdict.bad("lost or different", f"no file is named: {ended.sentence}")
        if not ended.mending:
            return verdict.bad("lost or different", f"no command is named: {ended.sentence}")
        if str(scene.run) in ended.mending:
            return verdict.bad("lost or different", f"it names another run: {ended.sentence}")
        mended = scene.do(ended.mending)
        if not verdict.see(ended.mending, mended):
            return verdict
        if mended.code and mended.sentence == ended.sentence:
            return verdict.bad("lost or different", f"what is named does not help: {mended.said}")
    return verdict.bad("lost or different", f"never done: {ended.said}")


def compare(
    scene: Scene, verdict: Verdict, args: Sequence[str], stages: Sequence[str] = ()
) -> Verdict:
    if args[0] == "generate":
        wanted, found = scene.made, held(scene.work.parent / "made")
        # It holds the name of the run.
        wanted, found = ({k: v for k, v in d.items() if k != RECORD} for d in (wanted, found))
    elif stages:
        wanted = {k: v for k, v in scene.bits.items() if _stage(k) in stages}
        found = held(scene.work, *stages)
    else:
        wanted, found = scene.bits, held(scene.work)
    names = different(wanted, found)
    if "log.jsonl" in verdict.fault:
        # The page draws what is left of it; no other result depends on it.
        names = [n for n in names if n != "report/index.html"]
    if names:
        shown = [
            f"{n} ({'other' if n in wanted and n in found else _only(n, found)})" for n in names
        ]
        text = f"differ after it ended with 0: {shown[:6]} {_first_difference(scene, names)}"
        return verdict.bad("lost or different", text)
    return verdict


RECORD = "generate.json"


def _first_difference(scene: Scene, names: list[str]) -> str:
    """Return where two pages differ."""
    name = next((n for n in names if n.endswith(".html") and (scene.work / n).exists()), None)
    if name is None:
        return ""
    pages = [page_text(folder / name).replace(">", ">\n") for folder in (scene.run, scene.work)]
    lines = difflib.unified_diff(*(page.splitlines() for page in pages), n=1, lineterm="")
    return "; ".join(line[:120] for line in list(lines)[2:8])


def _stage(name: str) -> str:
    return name.split("/")[0] if "/" in name else ""


def _only(name: str, found: dict[str, str]) -> str:
    return "left behind" if name in found else "missing"


def names_owner(ended: Ended, process: int) -> bool:
    """Whether a command was refused because that process has the folder."""
    return ended.code == 2 and bool(re.search(rf"written by process {process}\b", ended.sentence))


def is_held(folder: Path) -> bool:
    """Whether somebody has signed the lock of a folder."""
    lock = folder / ".nano4m.lock"
    return lock.exists() and bool(lock.stat().st_size)
