"""Small valid files of every format, and damaged copies of them, for fuzz tests; no tests."""

import io
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from media_files import read_window
from nano4m.errors import BadMedia
from nano4m.media.picture import read_picture
from nano4m.media.sound import read_sound

LIMIT_S = 10
"""Seconds that one file may take before it counts as hanging."""

PICTURES = ("png", "jpeg", "gif", "tiff", "webp", "bmp")
SOUNDS = ("wav", "flac", "ogg", "aiff", "mp3", "m4a")
FILMS = ("mp4", "mkv", "avi")

Reader = Callable[[Path], object]


def read_film(path: Path) -> object:
    """Return the window of a film with the defaults."""
    return read_window(path)


def _picture(name: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    extra = {"exif": exif} if name in ("png", "jpeg", "webp") else {}
    Image.fromarray(pixels).save(buffer, name.upper(), **extra)
    return buffer.getvalue()


def _tone(rate: int = 8000) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate)


def _sound(name: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, _tone(), 8000, format=name.upper())
    return buffer.getvalue()


def _film(name: str, has_pictures: bool = True) -> bytes:
    import av

    buffer = io.BytesIO()
    form = {"m4a": "mp4", "mkv": "matroska"}.get(name, name)
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=10) if has_pictures else None
        if stream:
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        track = container.add_stream("aac", rate=16000, layout="mono")
        if stream:
            for i in range(4):
                grey = np.full((32, 32, 3), i * 60, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode(None))
        wave = np.float32(_tone(16000))[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return buffer.getvalue()


def valid_files() -> dict[str, tuple[bytes, Reader]]:
    """Return format -> bytes of a small valid file, and the reader of such files."""
    found: dict[str, tuple[bytes, Reader]] = {n: (_picture(n), read_picture) for n in PICTURES}
    for name in SOUNDS:
        data = _film(name, has_pictures=False) if name == "m4a" else _sound(name)
        found[name] = (data, read_sound)
    return found | {name: (_film(name), read_film) for name in FILMS}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a copy with bytes of its header or body replaced, cut out, doubled or cut off."""
    broken = bytearray(data)
    head = min(len(broken), 512)
    for _ in range(int(rng.integers(1, 4))):
        span = head if rng.random() < 0.7 else len(broken)
        at = int(rng.integers(max(1, min(span, len(broken)))))
        match int(rng.integers(6)):
            case 0:
                broken[at : at + 1] = rng.bytes(1)
            case 1:
                broken[at : at + 4] = rng.bytes(4)
            case 2:
                edge = (b"\0", b"\xff", b"\x7f", b"\x80")[int(rng.integers(4))]
                broken[at : at + 4] = edge * 4
            case 3:
                del broken[at : at + int(rng.integers(1, 40))]
            case 4:
                broken[at:at] = broken[at : at + int(rng.integers(1, 40))]
            case _:
                del broken[max(1, int(rng.integers(len(broken) + 1))) :]
    return bytes(broken) or b"\0"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after some seconds; Python code only is interrupted."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(data: bytes, reader: Reader, count: int, seed: int, place: Path) -> tuple[Counter, list]:
    """Read damaged copies of a file; return counts of outcomes, and what went wrong by number.

    An outcome is "read" or the kind of fault of BadMedia.
    """
    outcomes: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    for number in range(count):
        place.write_bytes(damaged(data, np.random.default_rng([seed, number])))
        begun = time.perf_counter()
        try:
            with time_limit(3 * LIMIT_S):
                reader(place)
            outcomes["read"] += 1
        except BadMedia as error:
            outcomes[str(error).partition(":")[0]] += 1
            if "TimeoutError" in str(error):
                wrong.append((number, str(error)))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append((number, f"{type(error).__name__}: {error}"))
        if time.perf_counter() - begun > LIMIT_S:
            wrong.append((number, f"took {time.perf_counter() - begun:.1f} s"))
    return outcomes, wrong
