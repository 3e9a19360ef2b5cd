"""Parsing of options by tyro, with one sentence for each value that is refused."""

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError

from nano4m.config.numbers import ranges
from nano4m.errors import UserError

_Parsed = TypeVar("_Parsed")


def parse_options(
    parse: Callable[..., _Parsed],
    args: Sequence[str],
    prog: str,
    description: str,
    config: Sequence[Any] = (),
) -> _Parsed:
    """Return what ``parse`` returns for the options of a command line.

    Raises:
        UserError: A number that is none, or a value that the configuration refuses.
        SystemExit: After help, or another mistake, which tyro has printed.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(
                parse, prog=prog, description=description, args=list(args), config=config
            )
    except ValidationError as error:
        raise UserError(explain(error)) from error
    except SystemExit as stop:
        # A section that does not validate is reported by tyro with pydantic's whole text; its own
        # messages (unknown option, missing value) are good as they are, but for numbers.
        cause = stop.__context__
        arg = getattr(cause, "arg", None)
        if cause is not None and isinstance(cause.__context__, ValidationError):
            section = arg if isinstance(arg, str) else "config"
            raise UserError(explain(cause.__context__, section)) from stop
        found = [own.says(kind) for kind, own in ranges(_type_of(arg)) if own]
        if found:
            option = arg.lowered.name_or_flags[-1]  # type: ignore[union-attr]
            given = shown(_given(option, args))
            raise UserError(f"{option} {given}: must be {found[-1]}") from stop
        sys.stderr.write(messages.getvalue())
        raise


def explain(error: ValidationError, section: str = "config") -> str:
    """Return a line for each mistake: the option, what was given, what is allowed.

    ``section`` is where the error is, "config" or below: "config.tokenizers.rgb".
    """
    lines = []
    for entry in error.errors():
        # Places in a list are no part of an option.
        names = [part for part in entry["loc"] if isinstance(part, str)]
        option = "--" + ".".join([*section.split(".")[1:], *names]).replace("_", "-")
        message = entry["msg"].removeprefix("Value error, ")
        if entry["loc"] and not isinstance(entry["input"], Mapping):
            given = shown(entry["input"])
            lines.append(f"{option} {given}: {message[0].lower()}{message[1:]}")
        else:
            lines.append(f"{option}: {message}" if option != "--" else message)
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Return a value as it was given, in quotes where it could not be seen, cut where long."""
    text = str(value)
    text = text if text and text == text.strip() and text.isprintable() else repr(value)
    return text if len(text) <= 200 else f"{text[:100]}..."


def with_none(args: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Return the arguments with ``none`` as tyro reads it, for options that may be None."""
    found = list(args)
    for i, word in enumerate(args):
        option, equals, value = word.partition("=")
        last = args[i + 1] if i + 1 < len(args) else ""
        if not word.startswith("--") or not _may_be_none(option, model):
            continue
        if equals and value == "none":
            found[i] = f"{option}=None"
        elif not equals and last == "none":
            found[i + 1] = "None"
    return found


def _may_be_none(option: str, model: Any) -> bool:
    """Return whether the field of an option such as ``--train.quantum`` may be None."""
    *sections, name = option.removeprefix("--").replace("-", "_").split(".")
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        model = field.annotation if field else None
    field = getattr(model, "model_fields", {}).get(name)
    return field is not None and type(None) in getattr(field.annotation, "__args__", ())


def _type_of(arg: Any) -> Any:
    return getattr(getattr(arg, "field", None), "type", None)


def _given(option: str, args: Sequence[str]) -> str:
    """Return the words of the command line that belong to an option, in its last place."""
    found = ""
    for i, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            rest = list(args[i + 1 :])
            end = next((j for j, w in enumerate(rest) if w.startswith("--")), len(rest))
            found = value if equals else " ".join(rest[:end])
    return found
