"""The skips that are allowed where CI is set; any other one fails there, as pytest hooks.

A test that is skipped everywhere holds nothing. A reason begins with a key of ``ALLOWED``, and what
it says must be true: a GPU that is there, or data that are, leave no excuse.
"""

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

ALLOWED: dict[str, Callable[[], bool]] = {
    "needs a GPU": lambda: not torch.cuda.is_available(),
    "needs a machine without a GPU": torch.cuda.is_available,
    "needs the data of ../shared": lambda: not DATA.is_dir(),
    "needs Linux": lambda: not sys.platform.startswith("linux"),
}
"""Beginning of a reason -> whether it is true here."""


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that is not allowed into a failure."""
    if os.environ.get("CI", "").lower() not in ("1", "true") or not report.skipped:
        return
    if hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    found = [key for key in ALLOWED if reason.startswith(key)]
    if found and ALLOWED[found[0]]():
        return
    why = "that is not so here" if found else f"reasons allowed: {'; '.join(ALLOWED)}"
    report.outcome = "failed"
    report.longrepr = f"skipped in CI: {reason!r}; {why} (tests/allowed_skips.py)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check the skip of a test or of its fixtures."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check the skip of a whole file."""
    report = yield
    _refuse(report)
    return report
