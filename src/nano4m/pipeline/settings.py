"""Fields of the configuration that identify a result, and settings of earlier versions in the form
of this one.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from nano4m.config.compatibility import with_new_names
from nano4m.config.run import Config

# How something is computed, not what: changing these does not change a result.
NOT_SETTINGS = {
    "clips": {"workers"},
    "model": {"checkpointing"},
    "train": {
        "strategy",
        "compile",
        "tracker",
        "save_every",
        "save_minutes",
        "packed",
        "graphs",
        "quantum",
        "accumulate",
        "workers",
        "ahead",
    },
    "evaluate": {"workers"},
}

USUAL_MASKS = {"decode_orders": ["random"], "codebooks": "levels"}
"""What masks follow by the defaults of generation; settings have None in place of it."""


def without_usual(masking: dict[str, Any]) -> dict[str, Any]:
    """Return masking settings with None for what masks usually follow, as if nobody had said it."""
    usual = {key for key, value in USUAL_MASKS.items() if masking.get(key) == value}
    return {key: None if key in usual else value for key, value in masking.items()}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a finished stage in the form of this version.

    Old names are replaced by new ones, and options that were added since have their defaults.
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
        # Fields that are no settings stay out.
        found = {k: v for k, v in found.items() if k not in NOT_SETTINGS.get(name, ())}
        filled[name] = without_usual(found) if name == "masking" else found
    return filled
