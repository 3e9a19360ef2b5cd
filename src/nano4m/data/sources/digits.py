"""Spoken digits with handwritten digits of the same class.

Sounds: Free Spoken Digit Dataset (https://github.com/Jakobovski/free-spoken-digit-dataset).
Pictures: the 1,797 handwritten digits of 8x8 pixels that scikit-learn ships (UCI).
Recordings are split by take and pictures by class, so that train and val share nothing.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from nano4m.config.datasets import DigitsDataset
from nano4m.data.sources.base import ClipPlan, RawMedia, Split
from nano4m.errors import UserError
from nano4m.media.sound import read_sound
from nano4m.progress import log_info

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

VAL_PICTURES = 0.2
"""Share of the pictures of a class that is reserved for validation."""

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[A-Za-z]+)_(?P<take>\d+)\.wav")
_LICENCE = "sound CC BY-SA 4.0 (Free Spoken Digit Dataset), picture CC BY 4.0 (UCI digits)"
_FORM = (
    "expected recordings/{digit}_{speaker}_{take}.wav, for example recordings/7_theo_13.wav; get "
    "the Free Spoken Digit Dataset (CC BY-SA 4.0) from "
    "https://github.com/Jakobovski/free-spoken-digit-dataset and pass its folder as --data"
)


@lru_cache(maxsize=1)
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (1797, 8, 8) in [0, 1] and their digits (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target


def _recordings(data: Path | None) -> list[tuple[Path, re.Match[str]]]:
    if data is None:
        raise UserError(f"the digits source needs --data; {_FORM}")
    folder = data / "recordings" if (data / "recordings").is_dir() else data
    if not folder.is_dir():
        raise UserError(f"--data {data} is not a folder; {_FORM}")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    if not files:
        raise UserError(f"no .wav file in {folder}; {_FORM}")
    named = [(path, match) for path in files if (match := _NAME.fullmatch(path.name))]
    if not named:
        raise UserError(
            f"none of the {len(files)} .wav files in {folder} has a name of this source "
            f"(the first is {files[0].name}); {_FORM}"
        )
    if len(named) < len(files):
        wrong = next(path.name for path in files if not _NAME.fullmatch(path.name))
        log_info(
            f"{len(files) - len(named)} files in {folder} left out by their name, such as {wrong}"
        )
    return named


def _split_pictures(seed: int) -> dict[tuple[int, Split], np.ndarray]:
    """Return the pictures of each digit and split; no picture is in two."""
    _, targets = _pictures()
    shares: dict[tuple[int, Split], np.ndarray] = {}
    for digit in range(10):
        found = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(targets == digit))
        count = round(len(found) * VAL_PICTURES)
        shares[digit, "val"], shares[digit, "train"] = found[:count], found[count:]
    return shares


def plan(settings: DigitsDataset, data: Path | None, seed: int) -> Sequence[ClipPlan]:
    """Return one clip a recording, each with pictures of its class and split.

    Raises:
        UserError: ``data`` is missing, empty or not laid out as the Free Spoken Digit Dataset.
    """
    first, last = settings.val_takes
    pools = _split_pictures(seed)
    plans = []
    for path, name in _recordings(data):
        digit, take = int(name["digit"]), int(name["take"])
        split: Split = "val" if first <= take <= last else "train"
        own_seed = [seed, digit, take, *name["speaker"].encode()]
        rng = np.random.default_rng(own_seed)
        # Without repeats until the pool is used up.
        pool = pools[digit, split]
        rounds = -(-settings.pictures_per_sound // len(pool))
        drawn = np.concatenate([rng.permutation(pool) for _ in range(rounds)])
        plans.append(
            ClipPlan(
                clip_id=f"digit-{path.stem}",
                source="digits",
                video_id=path.stem,
                start_s=0.0,
                label=WORDS[digit],
                caption=WORDS[digit],
                split=split,
                licence=_LICENCE,
                is_split_given=True,
                details={
                    "sound": str(path),
                    "pictures": [str(i) for i in drawn[: settings.pictures_per_sound]],
                    "seed": int(rng.integers(2**31)),
                },
            )
        )
    return plans


def enlarge(picture: np.ndarray, size: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return float (8, 8) in [0, 1] as uint8 (size, size, 3), randomly transformed by ``rng``."""
    large = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    if rng is not None:
        angle = np.deg2rad(rng.uniform(-10, 10))
        scale = rng.uniform(0.85, 1.1)
        shift = rng.uniform(-1 / 16, 1 / 16, 2) * size
        # PIL maps output to input, so this is the inverse: turn and shrink about the centre.
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        offset = size / 2 - turn @ (np.full(2, size / 2) + shift)
        matrix = (*turn[0], offset[0], *turn[1], offset[1])
        large = large.transform(
            large.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )
    grey = np.round(np.clip(np.asarray(large), 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def load(plan: ClipPlan, settings: DigitsDataset) -> RawMedia:
    """Return one recording and its pictures; only those of train are randomly transformed.

    Raises:
        BadMedia: The recording cannot be read.
    """
    sound, rate = read_sound(Path(str(plan.details["sound"])))
    images, _ = _pictures()
    chosen = plan.details["pictures"]
    assert isinstance(chosen, list)
    rng = np.random.default_rng(int(str(plan.details["seed"]))) if plan.split == "train" else None
    frames = tuple(enlarge(images[int(i)], settings.picture_size, rng) for i in chosen)
    originals = [images[int(i)] for i in chosen]
    return RawMedia(sound=sound, sample_rate=rate, frames=frames, originals=originals)
