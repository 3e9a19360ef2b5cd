"""A command line that a user got wrong, and what is said about it; no tests."""

import re

import pytest

from nano4m.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command line that a user got wrong: exit code 2, one message, no traceback."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "pydantic" not in said
    # tyro frames and wraps its messages.
    return re.sub(r"[^ -~]+", " ", said.replace("\n", " ")).strip()
