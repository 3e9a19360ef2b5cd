"""In CI a skip is a failure unless its reason is in the list and true; elsewhere it is a skip."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOOKS = """
import allowed_skips
from allowed_skips import pytest_make_collect_report, pytest_runtest_makereport
allowed_skips.ALLOWED = {"needs a kite": lambda: True, "needs a hat": lambda: False}
"""
TESTS = """
import pytest

@pytest.fixture
def kite():
    pytest.skip("needs a kite: there is none")

def test_true(kite): ...

@pytest.mark.skipif(True, reason="needs a hat")
def test_untrue(): ...

def test_other():
    pytest.skip("no time for a kite")

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False

def test_runs(): ...
"""
WHOLE = 'import pytest\npytest.importorskip("no_such_module")\ndef test_never(): ...\n'


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("where", ["true", ""])
def test_only_a_true_reason_of_the_list_is_a_skip(tmp_path, where, workers):
    for name, text in (("conftest", HOOKS), ("test_parts", TESTS), ("test_whole", WHOLE)):
        (tmp_path / f"{name}.py").write_text(text)
    settings = os.environ | {"CI": where, "PYTHONPATH": str(Path(__file__).parent)}
    words = ["-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", f"-n{workers}"]
    # Otherwise what fails while it is collected keeps the rest from running.
    words += ["--continue-on-collection-errors", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words], env=settings, cwd=tmp_path, capture_output=True, text=True
    )
    line = r"^(?:FAILED|ERROR) \S*?(test_\w+)(?:\.py)?(?: |$)"
    refused = set(re.findall(line, done.stdout, re.MULTILINE))
    if where:
        assert done.returncode != 0, done.stdout
        assert refused == {"test_untrue", "test_other", "test_whole"}, done.stdout
        assert "'needs a hat'; that is not so here" in done.stdout
        assert "'no time for a kite'; reasons allowed: needs a kite; needs a hat" in done.stdout
    else:
        assert done.returncode == 0 and not refused, done.stdout
