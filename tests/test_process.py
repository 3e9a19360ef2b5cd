"""The suite itself: a test that leaves the process changed is refused, and order plays no role."""

import textwrap
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

LEAKS = {
    "float32 matmul precision": "torch.set_float32_matmul_precision('medium')",
    "denormals count as 0": "torch.set_flush_denormal(True)",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "numpy errors": "numpy.seterr(divide='raise')",
    "environment": "os.environ['OMP_SOMETHING'] = '1'",
    "folder": "os.chdir('/')",
    "sys.path": "sys.path.append('nowhere')",
    "signals": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_planted_leak_is_refused(pytester, what):
    for name in ("conftest.py", "allowed_skips.py"):
        (pytester.path / name).write_text(Path(__file__).with_name(name).read_text())
    pytester.makepyfile(
        textwrap.dedent(
            f"""
            import os, signal, sys
            import numpy, torch

            def test_leak():
                {LEAKS[what]}

            def test_clean():
                pass
            """
        )
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"*leaves a global setting behind: {what}: *"])
