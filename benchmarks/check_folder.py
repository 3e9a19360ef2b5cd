"""Time and memory of ``nano4m check-data`` on a large folder: python benchmarks/check_folder.py.

A folder of --files tiny files is made first, half sounds and half pictures in ten classes; each
recording is cut into three files. The sounds are silent WAV files of 0.25 s. Prints JSON.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

from plan_folder import make_folder

PROGRAM = "from nano4m.cli import main; main()"


def quiet_sound(seconds: float = 0.25, rate: int = 1000) -> bytes:
    """Return a WAV file of zeros with 8 bits a sample."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(bytes(round(seconds * rate)))
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        data = Path(made)
        make_folder(data, asked.files)
        sound = quiet_sound()
        for number, path in enumerate(sorted(data.rglob("*.wav"))):
            # Behind the sound: all are different files.
            path.write_bytes(sound + str(number).encode())
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "check-data", str(data), "--json"], capture_output=True
        )
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    figures = {
        "files": asked.files,
        "exit": done.returncode,
        "clips": sum(planned for _, planned in told["splits"].values()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": used.ru_maxrss // 1024,
        "warnings": told["warnings"],
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
