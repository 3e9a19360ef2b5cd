"""The clips stage in processes: the same bytes from any number, and stops in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image
from test_build import config, shards

from nano4m.config.datasets import FarmDataset
from nano4m.data import build as clips
from nano4m.data.clip_table import open_clips
from nano4m.errors import UserError

SCRIPT = """
import sys
from pathlib import Path
from nano4m.data import build as clips
from nano4m.config.tokenizers import Bpe, MelVQ
from nano4m.config.clips import ClipsConfig
from nano4m.config.run import Config, EvaluateConfig
from nano4m.config.datasets import FolderDataset
if __name__ == "__main__":
    clips.SHARD_CLIPS = 16
    data, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = Config(
        dataset=FolderDataset(), clips=ClipsConfig(workers=workers),
        tokenizers={"sound": MelVQ(), "caption": Bpe()}, evaluate=EvaluateConfig(split="val"),
    )
    clips.build_clips(config, data, out)
"""


def start(tmp_path: Path, out: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, "build.py", "data", out, str(workers)]
    source = str(Path(clips.__file__).parents[2])
    return subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": source}, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return bool(condition())


def test_any_number_of_workers_makes_the_same_bytes(tmp_path):
    """Pieces of other sizes in another number of processes; shards end inside of pieces."""
    made = {}
    for workers, clips_ in ((0, 300), (2, 300)):
        asked = config(workers=workers, picture_size=16, window_seconds=0.25).model_copy(
            update={"dataset": FarmDataset(train=clips_ - 8, val=4, test=4, picture_size=16)}
        )
        counts = clips.build_clips(asked, None, tmp_path / str(workers))
        assert (counts["clips"], counts["kept"]) == (300, 300)
        made[workers] = shards(tmp_path / str(workers)) | {
            "manifest": (tmp_path / str(workers) / "manifest.csv").read_bytes()
        }
    assert len(made[0]) == 3 and made[0] == made[2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_whole_shards_and_goes_on(tmp_path, how):
    rng = np.random.default_rng(0)
    for i in range(96):
        sound = rng.uniform(-0.5, 0.5, 44100 * 2)
        for name in ("audio/cat", "images/cat"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"data/audio/cat/{i}.wav", sound, 44100)
    for i in range(8):
        picture = rng.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"data/images/cat/{i}.png")
    out = tmp_path / "out"
    (tmp_path / "build.py").write_text(SCRIPT)  # once: a process that starts must not find it cut
    build = start(tmp_path, "out", 2)
    assert wait_for(lambda: len(shards(out)) >= 1, 60), build.stderr.read().decode()
    # Ctrl-C reaches every process of the terminal; a kill only the one that it is meant for.
    os.killpg(build.pid, how) if how == signal.SIGINT else os.kill(build.pid, how)
    build.wait(timeout=20)
    assert wait_for(lambda: not alive(build.pid), 20), "a worker outlives its build"
    stopped = shards(out)
    assert 1 <= len(stopped) < 6, "the build was not stopped in its middle"
    for path in sorted(out.glob("clips-*.parquet")):
        assert pq.read_table(path).num_rows == 16
    with pytest.raises(UserError, match="are not finished"):
        open_clips(out)
    again, straight = start(tmp_path, "out", 0), start(tmp_path, "straight", 0)
    assert again.wait(timeout=60) == straight.wait(timeout=60) == 0
    assert shards(out) == shards(tmp_path / "straight")
    assert stopped.items() <= shards(out).items()
    assert not list(out.glob("*.partial"))
