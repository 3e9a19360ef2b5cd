"""The table of benchmarks/faults.py counts every trial once, in its row and in the last one."""

import sys
from pathlib import Path

from fault_trials.verdict import BAD, GOOD, Verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from faults import table


def test_every_trial_is_counted_once():
    outcomes = [*GOOD, *BAD, "same bits"]
    verdicts = [Verdict(k, "", became) for k in ("damage", "two owners") for became in outcomes]
    head, line, *rows = (row.strip("| ").split("|") for row in table(verdicts).splitlines())
    assert len(head) == len(line) == 2 + len(GOOD) + len(BAD)
    counts = {row[0].strip(): [int(n) for n in row[1:]] for row in rows}
    assert list(counts) == ["damage", "two owners", "all"]
    assert counts["damage"] == counts["two owners"] == [6, 2, 1, 1, 1, 1]
    assert counts["all"] == [12, 4, 2, 2, 2, 2]
