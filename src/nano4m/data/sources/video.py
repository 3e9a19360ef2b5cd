"""A film as the media of a clip: read when the clip is cut, which says where its window is."""

from pathlib import Path

from nano4m.data.sources.base import RawMedia
from nano4m.media import film

VIDEOS = film.VIDEOS


def read_video(path: Path) -> RawMedia:
    """Return a film that ``cut`` reads: only the window and the frames inside it are decoded."""
    return RawMedia(sound=None, sample_rate=0, frames=(), film=path)
