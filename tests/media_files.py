"""Small sounds, pictures and films, written for a test; no tests."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
from PIL import Image

from nano4m.config.clips import ClipsConfig
from nano4m.data.sources.base import RawMedia
from nano4m.data.windows import opened_windows


def tone(path: Path, seconds: float = 0.3, rate: int = 8000, hertz: float = 440, channels: int = 1):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


def picture(path: Path, colour=(200, 30, 30), size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def video(path: Path, seconds: float = 2.0, has_sound: bool = True):
    """A film of 10 pictures a second, each as grey as it is late: 100 * time."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("aac", rate=44100, layout="mono") if has_sound else None
        for i in range(round(seconds * 10)):
            grey = np.full((48, 64, 3), i * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
        if track:
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * 44100)) / 44100)
            frame = av.AudioFrame.from_ndarray(np.float32(wave)[None], format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def raw_recording(path: Path, **more) -> RawMedia:
    """What a source gives for a sound or a film."""
    return RawMedia(sound=None, sample_rate=0, frames=(), recording=path, **more)


def read_window(path: Path, settings: ClipsConfig | None = None) -> SimpleNamespace:
    """The best window of a sound or a film, and its pictures by time; times begin at the window."""
    settings = settings or ClipsConfig()
    with opened_windows(raw_recording(path), settings) as windows:
        window = windows[0]
        frames, times = window.pictures()
    return SimpleNamespace(
        sound=window.sound and window.sound.sound,
        sample_rate=settings.sample_rate,
        start_s=window.start,
        frames=frames,
        frame_times=tuple(time - window.start for time in times or ()),
        seconds=window.seconds,
    )
