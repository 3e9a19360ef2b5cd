"""A look at the header of each picture: whether it can be opened, and whether it is large enough.

Nothing of it is decoded.
"""

from collections.abc import Iterable
from dataclasses import replace

from nano4m.data.sources.folder_contents import MOST_SHOWN, Picture
from nano4m.data.sources.unread import Unread
from nano4m.errors import BadMedia
from nano4m.media.gate import printable
from nano4m.media.image_file import NEEDS_HEIF
from nano4m.media.picture import picture_size
from nano4m.progress import log_info

LOWRES = 48
"""Pictures with a side shorter than this are used only if there are too few others."""

UNOPENED = "a picture that cannot be opened"
HEIC = "a HEIC picture; to read such, pip install pillow-heif"


def look_at(
    pictures: Iterable[Picture],
    unread: Unread,
    names: set[str] | None = None,
) -> list[Picture]:
    """Return the pictures that can be opened, each with ``is_lowres``; count and log the others.

    Args:
        pictures: Of any classes.
        unread: Counts of ``Contents``, to which the others are added.
        names: Those to look at; None: all. The others are taken as they are.
    """
    found, said = [], 0
    for picture in pictures:
        if names is not None and picture.name not in names:
            found.append(picture)
            continue
        try:
            size = picture_size(picture.path)
            found.append(replace(picture, is_lowres=min(size) < LOWRES, size=size))
            continue
        except BadMedia as error:
            why = str(error)
        is_heif = why.startswith(NEEDS_HEIF)
        unread.add(picture.label, HEIC if is_heif else UNOPENED, picture.name)
        said += 1
        if said <= MOST_SHOWN:
            log_info(f"picture left out: {printable(picture.name)} ({why})")
    return found
