"""Small sounds, pictures and films, written for a test; no tests."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


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
