"""Time and memory of walking and planning a large folder: python benchmarks/plan_folder.py [DIR].

Without DIR a folder of --files tiny files is made first, half sounds and half pictures in ten
classes; each recording is cut into three files. Prints JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from nano4m.config.datasets import FolderDataset
from nano4m.data.sources import folder
from nano4m.data.sources.listing import list_files

PICTURE = b"P5 64 64 255\n"
"""Header of a grey picture: all that planning reads of one."""


def make_folder(root: Path, files: int, classes: int = 10) -> None:
    """Write ``files`` files of some 50 bytes, all different; nothing in them is a medium."""
    for number in range(files):
        label = f"class{number // 2 % classes}"
        if number % 2:
            path = root / "images" / label / f"picture{number}.pgm"
            data = PICTURE + str(number).encode()
        else:
            film, part = divmod(number // 2 // classes, 3)
            path = root / "audio" / label / f"film{film}_{part:06d}.wav"
            data = b"no sound " + str(number).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if asked.data is None:
            make_folder(Path(made), asked.files)
        data = asked.data or Path(made)
        start = time.perf_counter()
        listing = list_files(data)
        listed = time.perf_counter()
        plans = folder.plan(FolderDataset(), data, 0)
        planned = time.perf_counter()
    splits: dict[str, set[str]] = {}
    for plan in plans:
        splits.setdefault(plan.video_id, set()).add(plan.split)
    figures = {
        "files": listing["files"],
        "clips": len(plans),
        "recordings": len(splits),
        "recordings_in_two_splits": sum(len(found) > 1 for found in splits.values()),
        "listing_seconds": round(listed - start, 1),
        "planning_seconds": round(planned - listed, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
