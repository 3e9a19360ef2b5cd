"""Kinds of media, a file each. MEDIA lists them; importing this loads no PyTorch."""

from nano4m.errors import UserError, nearest
from nano4m.media.base import MediaKind
from nano4m.media.caption import CAPTION
from nano4m.media.depth import DEPTH
from nano4m.media.normals import NORMALS
from nano4m.media.picture import PICTURE
from nano4m.media.sound import SOUND

MEDIA: dict[str, MediaKind] = {
    kind.name: kind for kind in (PICTURE, DEPTH, NORMALS, SOUND, CAPTION)
}


def media_kind(name: str) -> MediaKind:
    """Look a kind of media up.

    Raises:
        UserError: There is no kind of this name.
    """
    if name not in MEDIA:
        raise UserError(f"unknown media {name!r}; {nearest(name, MEDIA)}")
    return MEDIA[name]
