"""Kinds of media, a file each: the kind NAME is ``KIND`` of ``nano4m.media.NAME``; no PyTorch.

MEDIA holds the kinds that the registry of modalities names, in its order.
"""

from importlib import import_module
from pathlib import Path

from nano4m.errors import UserError, nearest
from nano4m.media.base import MediaKind
from nano4m.modalities import MODALITIES


def _load(name: str) -> MediaKind:
    if not (Path(__file__).parent / f"{name}.py").is_file():
        users = ", ".join(m.name for m in MODALITIES.values() if m.media == name)
        raise UserError(
            f"the modality {users} has media {name!r}, and there is no nano4m/media/{name}.py: a "
            "kind of media is a file of that room with a KIND"
        )
    return import_module(f"nano4m.media.{name}").KIND


MEDIA: dict[str, MediaKind] = {
    name: _load(name) for name in dict.fromkeys(m.media for m in MODALITIES.values())
}


def media_kind(name: str) -> MediaKind:
    """Return the kind of media of this name.

    Raises:
        UserError: No modality has media of this name.
    """
    if name not in MEDIA:
        raise UserError(f"unknown media {name!r}; {nearest(name, MEDIA)}")
    return MEDIA[name]
