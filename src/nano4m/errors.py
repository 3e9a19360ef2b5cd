"""The two failures that a user can cause; everything else is our bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input from outside: the command line prints the message alone and exits with 2.

    The message says what was given, what is allowed and what to run.
    """


class BadMedia(Exception):
    """One clip that cannot be used: it becomes a row of the manifest with this reason, no crash."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message: the allowed names, the nearest to ``given`` first."""
    names = sorted(allowed)
    match = difflib.get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f"did you mean {match[0]!r}? " if match else ""
    return f"{hint}choose from {', '.join(names) or '(nothing)'}"
