"""What makes two runs the same: which fields of the configuration are settings, and old ones read
as they would be written now.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from nano4m.config.compatibility import with_new_names
from nano4m.config.run import Config

# How something is computed, not what: a change of these does not make a result another one.
NOT_SETTINGS = {
    "clips": {"workers"},
    "model": {"checkpointing"},
    "train": {
        "strategy",
        "compile",
        "tracker",
        "save_every",
        "packed",
        "graphs",
        "quantum",
        "accumulate",
        "workers",
        "ahead",
    },
    "evaluate": {"workers"},
}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a finished stage as they would be written now.

    Names of before become those of now, and an option that came later has its default.
    """
    settings = with_new_names(settings)
    filled = dict(settings)
    for name, field in Config.model_fields.items():
        value = settings.get(name)
        if not isinstance(value, dict):
            continue
        try:
            whole = TypeAdapter(field.rebuild_annotation()).validate_python(value)
            found = TypeAdapter(field.rebuild_annotation()).dump_python(whole, mode="json")
        except ValidationError:
            continue
        # What was left out as no setting stays out.
        found = {k: v for k, v in found.items() if k not in NOT_SETTINGS.get(name, ())}
        filled[name] = found
    return filled
