"""Time and memory of the clip of a recording of hours: python benchmarks/long_recordings.py [FILE].

Without FILE sounds of --hours and a film of --film-hours are made first: quiet noise in stereo at
48 kHz with one second of a loud tone in the seventh of the parts that are heard, the film also with
25 pictures a second. Each is cut with the defaults, in a process of its own, --repeats times.
Prints JSON: median and range of the seconds, median of the processor's, peak memory, where the
window starts and where the tone does.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from nano4m.config.clips import ClipsConfig
from nano4m.data.windows import parts

RATE, HERTZ = 48000, 1000
BLOCK = 60
"""Seconds that are made once and repeated."""

ENCODED = {".mp3": "mp3", ".m4a": "aac"}

CUT = """
import resource, sys, time
from pathlib import Path
from nano4m.config.clips import ClipsConfig
from nano4m.data.cut import cut
from nano4m.data.sources.base import RawMedia
import soxr, soundfile, av
raw = RawMedia(sound=None, sample_rate=0, frames=(), recording=Path(sys.argv[1]))
require = sys.argv[2].split()
begun, worked = time.perf_counter(), time.process_time()
found = cut(raw, ClipsConfig(require=require))
seconds, worked = time.perf_counter() - begun, time.process_time() - worked
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(seconds, memory, found["offset_s"], found["rms_db"], worked)
"""


def block(loud: bool) -> np.ndarray:
    """Return int16 (samples, 2): quiet noise, with a loud tone in its middle second."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 60, (BLOCK * RATE, 2))
    if loud:
        middle = slice(BLOCK // 2 * RATE, (BLOCK // 2 + 1) * RATE)
        sound[middle] += 12000 * np.sin(2 * np.pi * HERTZ * np.arange(RATE) / RATE)[:, None]
    return sound.astype(np.int16)


def write_sound(path: Path, hours: float, loud: int) -> float:
    """Write blocks of sound, the one of number ``loud`` with a tone; return where that begins."""
    import soundfile

    if path.suffix in ENCODED:
        return _write_packets(path, ENCODED[path.suffix], hours, loud)
    blocks = [block(False), block(True)]
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for number in range(round(hours * 3600 / BLOCK)):
            file.write(blocks[number == loud])
    return (loud + 0.5) * BLOCK


def _packets(stream: Any, loud: bool) -> list[bytes]:
    """Return the packets of an encoded block."""
    import av

    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(block(loud).reshape(1, -1)), format="s16", layout="stereo"
    )
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    coder = av.CodecContext.create(stream.codec.name, "w")
    coder.sample_rate, coder.layout = RATE, "stereo"
    coder.format = stream.codec.audio_formats[0]
    coder.bit_rate = 128000
    coder.open()
    resampler = av.AudioResampler(coder.format, "stereo", RATE, coder.frame_size)
    return [bytes(p) for f in resampler.resample(frame) for p in coder.encode(f)]


def _add(container: Any, stream: Any, data: bytes, time: int, base: Fraction) -> None:
    import av

    packet = av.Packet(data)
    packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, time, base
    packet.is_keyframe = True
    container.mux(packet)


def _tone_at(stream: Any, loud: int) -> float:
    """Return where the tone of block ``loud`` begins: the last frame of each block is not whole."""
    size = stream.codec_context.frame_size
    return loud * len(_packets(stream, False)) * size / RATE + BLOCK / 2


def _sound_packets(stream: Any, hours: float, loud: int) -> Iterator[tuple[int, bytes]]:
    """Yield time in samples and bytes of the packets of all blocks."""
    kinds = [_packets(stream, False), _packets(stream, True)]
    size = stream.codec_context.frame_size
    time = 0
    for number in range(round(hours * 3600 / BLOCK)):
        for data in kinds[number == loud]:
            yield time, data
            time += size


def _write_packets(path: Path, codec: str, hours: float, loud: int) -> float:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        stream.codec_context.bit_rate = 128000
        stream.codec_context.open()
        container.start_encoding()
        for time, data in _sound_packets(stream, hours, loud):
            _add(container, stream, data, time, Fraction(1, RATE))
        return _tone_at(stream, loud)


def write_film(path: Path, hours: float, loud: int) -> float:
    """Write a film: 25 pictures a second, a key frame every two seconds, and AAC at 48 kHz.

    Return where the tone begins.
    """
    import av

    rng = np.random.default_rng(1)
    coder = av.CodecContext.create("mpeg4", "w")
    coder.width, coder.height, coder.pix_fmt = 640, 360, "yuv420p"
    coder.time_base, coder.gop_size, coder.bit_rate = Fraction(1, 25), 50, 1_000_000
    shown = []
    low = rng.integers(0, 255, (9, 16, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    for number in range(50):
        frame = av.VideoFrame.from_ndarray(np.roll(low, 8 * number, 1).copy(), format="rgb24")
        frame.pts = number
        shown += [bytes(p) for p in coder.encode(frame)]
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 640, 360, "yuv420p"
        track = container.add_stream("aac", rate=RATE, layout="stereo")
        track.codec_context.open()
        pictures.codec_context.open()
        container.start_encoding()
        number = 0
        for time, data in _sound_packets(track, hours, loud):
            while number / 25 <= time / RATE:
                packet = av.Packet(shown[number % len(shown)])
                packet.stream, packet.time_base = pictures, Fraction(1, 25)
                packet.pts = packet.dts = number
                packet.is_keyframe = number % 50 == 0
                container.mux(packet)
                number += 1
            _add(container, track, data, time, Fraction(1, RATE))
        return _tone_at(track, loud)


def measure(path: Path, repeats: int, require: str) -> dict[str, Any]:
    """Return figures of cutting one recording, each time in a process of its own."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", CUT, str(path), require], capture_output=True, text=True
        )
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        runs.append([float(text) for text in done.stdout.split()])
    seconds = [run[0] for run in runs]
    return {
        "megabytes": round(path.stat().st_size / 1e6),
        "seconds": round(statistics.median(seconds), 2),
        "seconds_range": [round(min(seconds), 2), round(max(seconds), 2)],
        "cpu_seconds": round(statistics.median(run[4] for run in runs), 2),
        "peak_memory_mb": round(max(run[1] for run in runs)),
        "start_s": round(runs[0][2], 2),
        "rms_db": round(runs[0][3], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--hours", type=float, default=5)
    parser.add_argument("--film-hours", type=float, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", default=".wav .flac .mp3 .m4a .mp4 .mkv")
    asked = parser.parse_args()
    if asked.file:
        print(json.dumps({asked.file.name: measure(asked.file, asked.repeats, "sound")}, indent=1))
        return
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.kinds.split():
            path = Path(folder) / f"long{kind}"
            is_film = kind in (".mp4", ".mkv")
            hours = asked.film_hours if is_film else asked.hours
            spans = parts(hours * 3600, ClipsConfig())
            loud = round(spans[min(6, len(spans) - 1)][0] / BLOCK)
            tone_s = (write_film if is_film else write_sound)(path, hours, loud)
            require = "picture sound" if is_film else "sound"
            figures[kind] = measure(path, asked.repeats, require)
            figures[kind]["tone_s"] = round(tone_s, 2)
            path.unlink()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
