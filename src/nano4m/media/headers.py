"""What the header of a user's sound or film says, without decoding it."""

from dataclasses import dataclass
from pathlib import Path

from nano4m.errors import BadMedia
from nano4m.media.film import opened_film
from nano4m.media.gate import opened
from nano4m.media.sound_file import OF_LIBSNDFILE, UNKNOWN, check_chunks
from nano4m.media.tracks import choose_track, declared_seconds, no_track, opened_container


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself; what it holds may differ.

    Attributes:
        seconds: Its length; 0: it does not say.
        rate: Samples a second of its sound; 0: it has none, or does not say.
        size: Width and height of the pictures of a film; None: it has none.
        absent: Kind of media, sound or picture -> why a film has none.
    """

    seconds: float
    rate: int
    size: tuple[int, int] | None
    absent: dict[str, str]


def sound_header(path: Path) -> Header:
    """Return the header of a sound file.

    Raises:
        BadMedia: Missing, empty, unreadable or without sound; a WAV or AIFF that lacks samples.
    """
    with opened(path) as size:
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith(OF_LIBSNDFILE):
            check_chunks(path, size)
            found = _by_libsndfile(path)
            if found:
                return found
        with opened_container(path) as container:
            stream = choose_track(container.streams.audio)
            if stream is None:
                raise BadMedia(no_track(container, path, "audio", "sound"))
            rate = int(stream.codec_context.sample_rate or 0)
            seconds = declared_seconds(container)
            return Header(seconds=seconds, rate=rate, size=None, absent={})


def _by_libsndfile(path: Path) -> Header | None:
    """Return the header, or None where libsndfile knows none and FFmpeg is to be asked."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            frames, rate = file.frames, file.samplerate
    except (RuntimeError, OSError, ValueError):
        return None
    if not 0 < frames < UNKNOWN or rate <= 0:
        return None
    return Header(seconds=frames / rate, rate=rate, size=None, absent={})


def film_header(path: Path) -> Header:
    """Return the header of a film.

    Raises:
        BadMedia: Missing, empty, unreadable, or neither sound nor pictures that can be decoded.
    """
    with opened_film(path) as film:
        sound = None if film.no_sound else choose_track(film.container.streams.audio)
        picture = None if film.no_picture else film.container.streams.best("video")
        absent = {"sound": film.no_sound, "picture": film.no_picture}
        return Header(
            seconds=film.seconds,
            rate=int(sound.codec_context.sample_rate or 0) if sound else 0,
            size=(picture.width, picture.height) if picture else None,
            absent={kind: why for kind, why in absent.items() if why},
        )
