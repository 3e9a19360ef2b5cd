"""Configurations of earlier versions: old names are read as new ones, unknown fields are ignored.

An old name is refused on the command line, with its new one, and accepted in the JSON of a run.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nano4m.errors import UserError

RENAMED: dict[str, str] = {
    "source": "dataset",
    "clips.loudness_db": "clips.target_rms_db",
    "tokenizers.*.views": "tokenizers.*.augmentations",
    "masking.sources": "masking.num_inputs_weights",
    "masking.unheard": "masking.no_audio_input_prob",
    "masking.whole_source": "masking.whole_input",
    "masking.other_given": "masking.other_input_prob",
    "train.device": "device",
    "train.codes": "train.init_from_codebook",
    "evaluate.judge_steps": "evaluate.classifier_steps",
}
"""Old path of a field -> new path; ``*`` is any modality."""

REMOVED: dict[str, str] = {"evaluate.bootstrap": "intervals need no resamples"}
"""Path of a field that is not there any more -> why."""

_Model = TypeVar("_Model", bound=BaseModel)


def with_new_names(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, or a part, with old names replaced and dead fields left out."""
    found = _copy(stored)
    for old, new in RENAMED.items():
        _move(found, old.split("."), new.split("."))
    for path in REMOVED:
        _drop(found, path.split("."))
    return found


def renamed_option(option: str) -> str | None:
    """Return the new name of an old option, such as ``--train.no-codes``, or None."""
    given = option.removeprefix("--").replace("-", "_").split(".")
    is_off = given[-1].startswith("no_")
    named = [*given[:-1], given[-1].removeprefix("no_")] if is_off else given
    for old, new in RENAMED.items():
        for words, off in ((given, ""), (named, "no_" if is_off else "")):
            stars = _match(words, old.split("."))
            if stars is None:
                continue
            rest = words[len(old.split(".")) :]
            path = [next(stars) if part == "*" else part for part in new.split(".")] + rest
            path[-1] = off + path[-1]
            return "--" + ".".join(path).replace("_", "-")
    return None


def refuse_old_options(args: Sequence[str]) -> None:
    """Refuse options of earlier versions.

    Raises:
        UserError: The message names the new option.
    """
    for word in args:
        option = word.split("=")[0]
        new = "--train.compile off" if option == "--train.no-compile" else renamed_option(option)
        gone = REMOVED.get(option.removeprefix("--").replace("-", "_"))
        if gone:
            raise UserError(f"{option} is not there any more: {gone}; leave it out")
        if word.startswith("--") and new:
            raise UserError(f"{option} is {new} now")


def read_stored(model: type[_Model], stored: dict[str, Any]) -> _Model:
    """Return the validated configuration of this version, or of another one of the same format.

    Raises:
        ValidationError: A value that is not allowed.
    """
    values = _copy(stored)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        if not unknown:
            raise
        for path in unknown:
            _drop(values, path)
        return model.model_validate(values)


def read_section(model: type[_Model], stored: dict[str, Any]) -> _Model:
    """Return the validated settings of a stored tokenizer, see ``read_stored``."""
    return read_stored(model, with_new_names({"tokenizers": {"": stored}})["tokenizers"][""])


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _match(words: Sequence[str], pattern: Sequence[str]) -> Any:
    """Return what the stars of ``pattern`` match if ``words`` begin with it, else None."""
    pairs = list(zip(words, pattern, strict=False))
    if len(words) < len(pattern) or any(p not in (w, "*") for w, p in pairs):
        return None
    return iter([w for w, p in pairs if p == "*"])


def _move(tree: dict[str, Any], old: Sequence[str], new: Sequence[str]) -> None:
    """Move a field inside ``tree``; do nothing if it is missing or the new one exists."""
    first = old[0]
    if first == "*":
        for branch in tree.values():
            if isinstance(branch, dict):
                _move(branch, old[1:], new[1:])
    elif len(old) > 1 and old[0] == new[0]:
        if isinstance(tree.get(first), dict):
            _move(tree[first], old[1:], new[1:])
    else:
        owner: Any = tree
        for part in old[:-1]:
            owner = owner.get(part)
            if not isinstance(owner, dict):
                return
        if old[-1] in owner:
            value = owner.pop(old[-1])
            tree.setdefault(new[0], value)


def _drop(tree: Any, path: Sequence[int | str]) -> None:
    """Remove a field inside ``tree``; do nothing if it is missing."""
    # The path of an error also names members of unions, which are no keys.
    for part in path[:-1]:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
    if isinstance(tree, dict):
        tree.pop(path[-1], None)
