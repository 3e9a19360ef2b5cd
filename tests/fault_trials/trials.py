"""Faults at random, a function a kind; each leaves a verdict."""

import random
import signal
import time
from collections.abc import Callable, Sequence

from fault_trials.bits import held, stamps
from fault_trials.commands import SIGNALS, Fault
from fault_trials.damage import WAYS, own_files, random_damage
from fault_trials.full_disk import small_disk
from fault_trials.scene import NAMES, Scene, samples
from fault_trials.verdict import RECORD, Verdict, compare, is_held, names_owner, settle

DISTURBED = [*NAMES, "generate"]
REFUSED = (
    ("--device", "cuda"),
    ("--train.tracker", "wandb"),
    ("--tokenizers.rgb.vocab", "70000"),
    ("--tokenizers.rgb.grid", "5"),
)
"""Settings that are refused here: no such device, not installed, too many ids, no such grid."""


def _unfinished(scene: Scene, name: str, everything: bool = False) -> tuple[list[str], list[str]]:
    """Copy the run up to a stage; return the command that goes on and the stages to compare."""
    if name == "generate":
        scene.copy()
        return scene.command(name, "--overwrite"), []
    scene.copy(name)
    if everything:
        return scene.command("run"), []
    return scene.command(name), NAMES[: NAMES.index(name) + 1]


def _is_whole(rng: random.Random, names: Sequence[str]) -> bool:
    """Whether all stages are to be run: sometimes, if all may be disturbed."""
    return rng.random() < 0.25 and set(NAMES) <= set(names)


def _at(scene: Scene, rng: random.Random, name: str) -> int:
    return rng.randint(1, scene.calls[name] + 2)


def killed(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """Kill -9 before or after a call of a stage."""
    name = rng.choice(names)
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    fault = Fault("kill", _at(scene, rng, name), rng.random() < 0.5)
    verdict = Verdict("kill -9 at a call", f"{args[0]} {name}: {fault}")
    verdict.see(args, scene.do(args, fault), stopped=True)
    return settle(scene, verdict, args, stages)


def stopped(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """Any signal at any time, sometimes twice."""
    name = rng.choice(names)
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    what = rng.choice(["kill", "interrupt", "terminate", "hang up"])
    seconds, twice = rng.uniform(0, 1.2 * scene.seconds[name]), rng.random() < 0.2
    verdict = Verdict("signal at a time", f"{args[0]} {name}: {what} at {seconds:.2f} s")
    running = scene.start(args)
    time.sleep(seconds)
    for _ in range(1 + twice):
        running.signal(SIGNALS[what])
        time.sleep(0.05)
    verdict.see(args, running.wait(), stopped=True)
    return settle(scene, verdict, args, stages)


def overwritten_and_stopped(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """``--overwrite`` with other settings is stopped; the old ones bring everything back."""
    what = rng.choice(["kill", "kill", "interrupt", "terminate"])
    scene.copy()
    before = stamps(scene.work)
    changed = rng.choice(
        [["--train.steps", "5"], ["--tokenizers.sound.steps", "1"], ["--seed", "1"]]
    )
    name = rng.choice(["run", "run", "train"])
    if name == "train":
        changed = ["--train.steps", "5"]
    args = scene.command(name, *changed, "--overwrite")
    count = sum(scene.calls[n] for n in NAMES)
    fault = Fault(what, round(count ** rng.uniform(0, 1)), rng.random() < 0.5)
    verdict = Verdict("--overwrite stopped", f"{' '.join(args[-3:])}: {fault}")
    ended = scene.do(args, fault)
    if not verdict.see(args, ended, stopped=True):
        return verdict
    # Once all that was asked for is there, what it replaces may go.
    last = f"{NAMES[-1] if name == 'run' else name}/manifest.json"
    is_done = stamps(scene.work).get(last, before[last]) != before[last]
    settle(scene, verdict, scene.command("run", "--overwrite"))
    if verdict.is_good and ended.code and not is_done:
        _require_untouched(scene, verdict, before)
    return verdict


def refused(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """``--overwrite`` with something that is refused: nothing is touched."""
    scene.copy()
    before, option = stamps(scene.work), rng.choice(REFUSED)
    name = rng.choice(["run", "train"]) if "tokenizers" not in option[0] else "run"
    args = scene.command(name, *option, "--train.steps", "5", "--overwrite")
    verdict = Verdict("--overwrite refused", f"{name} {' '.join(option)}")
    ended = scene.do(args)
    verdict.see(args, ended)
    if ended.code != 2:
        verdict.bad("lost or different", f"it was not refused: {ended.said}")
    _require_untouched(scene, verdict, before)
    return settle(scene, verdict, scene.command("run"))


def _require_untouched(scene: Scene, verdict: Verdict, before: dict[str, tuple[int, int]]) -> None:
    now = stamps(scene.work)
    lost = [name for name in before if now.get(name) != before[name]]
    # Compared when they are there, but gone through again after a stop in the middle.
    lost = [name for name in lost if not name.endswith("inputs.json")]
    if lost:
        verdict.bad("lost or different", f"finished files are gone or made again: {lost[:6]}")


def two_owners(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """A second command, of the same or of other settings, while the first is in the middle."""
    name = rng.choice(names)
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    folder = scene.work.parent / "made" if name == "generate" else scene.work
    running = scene.start(args, Fault("pause", _at(scene, rng, name)))
    second = list(args)
    if name == "generate":
        second = rng.choice([args, [*args, "--seed", "1"]])
    else:
        second = scene.command(
            rng.choice(["run", args[0]]),
            *rng.choice([[], ["--overwrite"], ["--seed", "1", "--overwrite"]]),
        )
    verdict = Verdict("two owners", f"{args[0]} {name}, then {second[0]} {second[-3:]}")
    if running.wait_until(running.is_paused) and is_held(folder):
        ended = scene.start(second, log="second").wait()
        verdict.see(second, ended)
        if not names_owner(ended, running.process):
            verdict.bad("lost or different", f"the second was not refused: {ended.said}")
        running.signal(signal.SIGCONT)
        ended = running.wait()
        verdict.see(args, ended)
        if ended.code:
            verdict.bad("lost or different", f"the first was harmed: {ended.said}")
    else:
        running.signal(signal.SIGCONT)
        verdict.see(args, running.wait())
    return settle(scene, verdict, args, stages)


def both_at_once(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """The same command twice, at nearly the same moment; one of them may be killed."""
    name = rng.choice(names)
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    delay, kills = rng.uniform(0, 0.1), rng.random() < 0.3
    verdict = Verdict("two owners", f"{args[0]} {name} twice, {delay:.2f} s apart")
    first = scene.start(args)
    time.sleep(delay)
    second = scene.start(args, log="second")
    if kills:
        time.sleep(rng.uniform(0, scene.seconds[name]))
        first.signal(signal.SIGKILL)
    for running in (first, second):
        verdict.see(args, running.wait(), stopped=kills)
    return settle(scene, verdict, args, stages)


def disk_full(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """A disk with too little space for the rest; then with enough."""
    name = rng.choice(names)
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    verdict = Verdict("disk full", f"{args[0]} {name}")
    with small_disk(scene.work.parent, rng.uniform(0, 1.0), _need(scene, name)) as free:
        if free is None:
            return _disk_full_by_calls(scene, rng, name, args, stages)
        verdict.fault += f" with {free.bytes / 1e3:,.0f} kB"
        _see_refused(verdict, args, scene)
        free.enlarge()
        return settle(scene, verdict, args, stages)


def _need(scene: Scene, name: str) -> int:
    files = scene.folder / "made" if name == "generate" else scene.run / name
    return sum(p.stat().st_size for p in files.rglob("*") if p.is_file()) + 4096


def _see_refused(
    verdict: Verdict, args: list[str], scene: Scene, fault: Fault | None = None
) -> None:
    ended = scene.do(args, fault)
    verdict.see(args, ended)
    if ended.code == 2 and str(scene.work.parent) not in ended.sentence:
        verdict.bad("lost or different", f"no folder is named: {ended.sentence}")


def _disk_full_by_calls(
    scene: Scene, rng: random.Random, name: str, args: list[str], stages: list[str]
) -> Verdict:
    fault = Fault(rng.choice(["full", "read-only"]), _at(scene, rng, name))
    verdict = Verdict("disk full", f"{args[0]} {name}: {fault}")
    _see_refused(verdict, args, scene, fault)
    return settle(scene, verdict, args, stages)


def disk_full_by_calls(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """From some call on nothing can be written: the disk is full, or was mounted for reading."""
    name = rng.choice(names)
    return _disk_full_by_calls(scene, rng, name, *_unfinished(scene, name, _is_whole(rng, names)))


def every_damage(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Return each file of the finished run with each way to damage it, in a random order."""
    names = [str(p.relative_to(scene.run)) for p in own_files(scene.run)]
    found = [(name, way) for name in names for way in WAYS]
    rng.shuffle(found)
    return found


def one_damage(scene: Scene, name: str, way: str, mends: bool = True) -> Verdict:
    """Damage one file of the finished run and run the command, and the one that it names.

    Args:
        scene: Of which a copy is used.
        name: Of the file, relative to the run.
        way: See ``WAYS``.
        mends: Otherwise the command is run once.
    """
    scene.copy()
    done = random_damage(random.Random(name), [scene.work / name], scene.work, way)
    verdict, args = Verdict("damage", done), scene.command("run")
    if mends:
        return settle(scene, verdict, args)
    ended = scene.do(args)
    verdict.see(args, ended)
    if ended.code == 2:
        verdict.became, verdict.said = "sentence", ended.sentence
        if str(scene.work / name) not in ended.sentence or not ended.mending:
            verdict.bad("lost or different", f"no file and command: {ended.sentence}")
    elif verdict.is_good:
        compare(scene, verdict, args)
    return verdict


def damaged(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """One to three files of the finished run."""
    scene.copy()
    count = rng.choice([1, 1, 2, 3])
    files = own_files(scene.work)
    done = [random_damage(rng, rng.sample(files, len(files)), scene.work)]
    for _ in range(count - 1):
        done.append(random_damage(rng, own_files(scene.work), scene.work))
    return settle(scene, Verdict("damage", ", ".join(done)), scene.command("run"))


def damaged_unfinished(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """A stage is killed, and then one of its files, or a state of the training, is damaged."""
    stages_only = [n for n in names if n in NAMES]
    name = rng.choice([*stages_only, *3 * ["train"], *2 * ["tokenizers"]])
    args, stages = _unfinished(scene, name, _is_whole(rng, names))
    what = "kill" if name != "train" or rng.random() < 0.5 else "terminate"
    at = rng.randint(scene.calls[name] // 3, scene.calls[name])
    verdict = Verdict("damage between stop and resume", f"{args[0]} {name}: {what} at {at}")
    verdict.see(args, scene.do(args, Fault(what, at)), stopped=True)
    files = own_files(scene.work / name) if (scene.work / name).is_dir() else []
    for _ in range(rng.choice([1, 1, 2])):
        if files and own_files(scene.work / name):
            now = own_files(scene.work / name)
            verdict.fault += ", " + random_damage(rng, now, scene.work)
    return settle(scene, verdict, args, stages)


def damaged_and_read(scene: Scene, rng: random.Random, names: Sequence[str]) -> Verdict:
    """A file is damaged; then the run is described, generated from, and a stage is asked for."""
    scene.copy()
    out, made = scene.work, scene.work.parent / "made"
    verdict = Verdict("damage, then other commands", random_damage(rng, own_files(out), out))
    for args in (
        ["info", str(out)],
        ["info", str(out / "table"), "--json"],
        ["info", str(out / "train" / "checkpoint")],
        samples(out, made),
        scene.command(rng.choice([n for n in names if n in NAMES])),
    ):
        ended = scene.do(args)
        verdict.see(args, ended)
        if ended.code == 2 and str(out) not in ended.sentence:
            verdict.bad("lost or different", f"{args[:2]} names no file: {ended.sentence}")
        if args[0] == "generate" and ended.code == 0:
            found = held(made)
            if any(found.get(k) != v for k, v in scene.made.items() if k != RECORD):
                verdict.bad("lost or different", "other samples were made, without a word")
    return settle(scene, verdict, scene.command("run"))


Trial = Callable[[Scene, random.Random, Sequence[str]], Verdict]
KINDS: dict[Trial, int] = {
    killed: 40,
    stopped: 30,
    overwritten_and_stopped: 15,
    refused: 5,
    two_owners: 20,
    both_at_once: 10,
    disk_full: 20,
    disk_full_by_calls: 15,
    damaged: 25,
    damaged_unfinished: 15,
    damaged_and_read: 5,
}
"""Kinds of faults and how often each comes in 200."""


def random_trial(
    scene: Scene,
    seed: int,
    number: int,
    kind: Trial | None = None,
    names: Sequence[str] = DISTURBED,
) -> Verdict:
    """Try one fault; the same seed and number give the same fault.

    Args:
        scene: Of which a copy is used.
        seed, number: Of the random choices.
        kind: None: any, as often as ``KINDS`` says.
        names: Commands that are disturbed.
    """
    rng = random.Random(f"{seed} {number}")
    if kind is None:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    try:
        return kind(scene, rng, names)
    except OSError as error:
        raise RuntimeError(f"trial {number} of {kind.__name__}: {error}") from error
