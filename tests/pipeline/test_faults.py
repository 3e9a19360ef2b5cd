"""A tiny run is damaged, stopped and starved; the same command then ends with the same bits.

benchmarks/faults.py does more of it; docs/RELIABILITY.md has its table.
"""

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from fault_trials import trials
from fault_trials.commands import Ended, Fault
from fault_trials.scene import Scene, make_scene, trial_process
from fault_trials.verdict import GOOD, Verdict, compare

SEED = 1
CHEAP = ("clips", "tokenizers", "table", "train")
"""Stages that are tried here; evaluation and report take as long as all of these."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes for trials."""
    with trial_process() as found:
        yield found


@pytest.fixture(scope="module")
def scene(pool, tmp_path_factory) -> Scene:
    """A finished run and samples of it, made once."""
    return pool.submit(make_scene, tmp_path_factory.mktemp("faults")).result()


def survives(pool: ProcessPoolExecutor, scene: Scene, kind: trials.Trial, number: int) -> Verdict:
    """Try a fault in a process of its own, and check what became of the run."""
    verdict = pool.submit(trials.random_trial, scene, SEED, number, kind, CHEAP).result()
    assert verdict.is_good, verdict
    return verdict


KINDS = [kind for kind in trials.KINDS if kind not in (trials.damaged, trials.damaged_and_read)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_that_was_finished_is_lost(pool, scene, kind):
    survives(pool, scene, kind, 0)


def test_damage_of_any_file_leaves_the_same_bits_or_is_named(pool, scene):
    became = set()
    for name, way in trials.every_damage(scene, random.Random(SEED))[:10]:
        verdict = pool.submit(trials.one_damage, scene, name, way, False).result()
        assert verdict.is_good, verdict
        became.add(verdict.became)
    assert became == set(GOOD)


def test_commands_that_read_a_damaged_run_say_so(pool, scene):
    survives(pool, scene, trials.damaged_and_read, 1)


# -- the harness itself: a planted fault of the program is caught --------------------------------


def _spoiled(scene: Scene, spoil: str) -> Verdict:
    out = scene.copy()
    if spoil == "bits":
        # As if a result had been made from other things, with all that tells of it.
        for path in (out / "results.json", out / "evaluate" / "results.json"):
            path.write_text(path.read_text().replace('"preset": "farm"', '"preset": "barn"', 1))
        return compare(scene, Verdict("", ""), scene.command("run"))
    if spoil == "missing":
        (out / "report" / "overview.png").unlink()
        return compare(scene, Verdict("", ""), scene.command("run"))
    if spoil == "left behind":
        (out / ".replaced" / "1").mkdir(parents=True)
        (out / ".replaced" / "1" / "replaced.json").touch()
        return compare(scene, Verdict("", ""), scene.command("run"))
    said = {
        "traceback": (1, "Traceback (most recent call last):\n  ...\nKeyError: 'stage'"),
        "silence": (2, "usage"),
        "crash": (1, "nano4m: something else"),
    }
    verdict = Verdict("", "")
    verdict.see(["run"], Ended(*said[spoil]))
    return verdict


@pytest.mark.parametrize(
    "spoil, became",
    [
        ("bits", "lost or different"),
        ("missing", "lost or different"),
        ("left behind", "lost or different"),
        ("traceback", "traceback"),
        ("silence", "lost or different"),
        ("crash", "lost or different"),
    ],
)
def test_what_is_wrong_is_seen(pool, scene, spoil, became):
    assert pool.submit(_spoiled, scene, spoil).result().became == became


def test_faults_strike(pool, scene):
    """A fault at the first call stops the command; one far beyond the last one does nothing."""
    found = pool.submit(_struck, scene).result()
    assert found == {"kill": (-9, 0), "full": (2, 0), "read-only": (2, 0), "interrupt": (130, 0)}


def _struck(scene: Scene) -> dict[str, tuple[int, int]]:
    found = {}
    for what in ("kill", "full", "read-only", "interrupt"):
        scene.copy("table")
        ends = [scene.do(scene.command("table"), Fault(what, at)).code for at in (9, 9999)]
        found[what] = (ends[0], ends[1])
    return found
