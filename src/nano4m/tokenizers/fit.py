"""Fit the tokenizers of a run on its train clips, and measure them on its validation clips.

One folder a modality, written whole or not at all, with settings and quality in ``fit.json`` beside
the weights; one that is there with the same settings and the same clips is kept.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nano4m.config import Bpe, Config, ImageVQ, MelVQ
from nano4m.errors import UserError
from nano4m.modalities import FRAMED, modality
from nano4m.progress import bar, say
from nano4m.stage import write_json
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokenizers.bpe import BpeTokenizer
from nano4m.tokenizers.image_vq import ImageVQTokenizer
from nano4m.tokenizers.mel_vq import MelVQTokenizer
from nano4m.tokenizers.quality import measure
from nano4m.workers import worker_pool

if TYPE_CHECKING:
    from nano4m.clip_table import ClipTable

MOST_TRAIN = 6000
"""Pictures or sounds that a fit looks at; more change little and fill the memory."""

MOST_VAL = 256
"""Clips that the quality is measured on."""


def fit_tokenizers(config: Config, clips: "ClipTable", out: Path) -> dict[str, dict[str, Any]]:
    """Fit what ``config.tokenizers`` lists into ``out/<modality>`` and return the quality of each.

    Deterministic in ``config.seed``. Also writes ``out/quality.json``.

    Raises:
        UserError: No train or validation clip, media that the table lacks, or settings that do not
            suit the media.
    """
    for split in ("train", "val"):
        if not len(clips.rows(split)):
            raise UserError(f"no {split} clips to fit tokenizers with; make more clips")
    out.mkdir(parents=True, exist_ok=True)
    jobs, qualities = {}, {}
    for name, section in config.tokenizers.items():
        settings = {
            "section": section.model_dump(), "seed": config.seed, "clips": clips.fingerprint,
            "media": modality(name).media,
        }  # fmt: skip
        quality = _finished(out / name, settings)
        if quality is None:
            jobs[name] = (modality(name).media, section, config.seed, out / name, settings)
        else:
            qualities[name] = quality

    workers = 0 if torch.cuda.is_available() else min(config.clips.workers, len(jobs))
    with bar("fit tokenizers", len(jobs), "tokenizers") as progress:

        def done(name: str, quality: dict[str, Any]) -> None:
            say(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in quality.items()))
            qualities[name] = quality
            progress.advance()

        if workers < 2:
            for name, job in jobs.items():
                done(name, _fit_alone(clips, *job))
        else:
            with worker_pool(workers) as pool:
                running = {
                    pool.submit(_fit_in_worker, clips.folder, *j): n for n, j in jobs.items()
                }
                for future in as_completed(running):
                    done(running[future], future.result())
    qualities = {name: qualities[name] for name in config.tokenizers}
    write_json(out / "quality.json", qualities)
    return qualities


def _fit_alone(clips: "ClipTable", *job: Any) -> dict[str, Any]:
    # One thread here as in a worker: the same weights, however many processes there are.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _fit_one(clips, *job)
    finally:
        torch.set_num_threads(threads)


def _fit_in_worker(folder: Path, *job: Any) -> dict[str, Any]:
    from nano4m.clip_table import open_clips

    return _fit_alone(open_clips(folder), *job)


def _finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    # fit.json is part of the folder that is renamed into place: if it is there, all is there.
    if not (folder / "fit.json").is_file():
        return None
    fit = json.loads((folder / "fit.json").read_text())
    return fit["quality"] if fit["settings"] == json.loads(json.dumps(settings)) else None


def _fit_one(
    clips: "ClipTable", kind: Any, section: Any, seed: int, folder: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    rows = {split: clips.rows(split) for split in ("train", "val")}
    generator = torch.Generator().manual_seed(seed)
    started = time.perf_counter()
    tokenizer = FITS[section.kind](kind, section, seed, clips, rows["train"], generator)
    seconds = time.perf_counter() - started
    val = rows["val"][_some(len(rows["val"]), MOST_VAL, generator)]
    frame = 0 if kind in FRAMED else None
    quality: dict[str, Any] = {
        **measure(tokenizer, kind, clips.media(kind, val, frame=frame)),
        "clips": len(val),
        "parameters": _parameters(tokenizer),
        "fit_seconds": seconds,
        "fingerprint": tokenizer.fingerprint,
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer.save(partial)
    write_json(partial / "fit.json", {"settings": settings, "quality": quality})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return quality


def _fit_image(
    kind: Any, section: ImageVQ, seed: int, clips: "ClipTable", rows: np.ndarray, g: torch.Generator
) -> Tokenizer:
    # One random frame a clip, several times over where there are fewer clips than MOST_TRAIN.
    frames = torch.stack([torch.randperm(clips.num_frames, generator=g) for _ in rows]).numpy()
    rounds = min(clips.num_frames, -(-MOST_TRAIN // len(rows)))
    pairs = [(row, frames[i, k]) for k in range(rounds) for i, row in enumerate(rows)]
    chosen = [pairs[i] for i in _some(len(pairs), MOST_TRAIN, g)]
    pictures = []
    with bar(f"read {kind}", len(chosen), "picture") as progress:
        for frame in range(clips.num_frames):
            own = np.array([row for row, k in chosen if k == frame], np.int64)
            for part in np.split(own, range(256, len(own), 256)) if len(own) else ():
                pictures.append(_half(clips.media(kind, part, frame=frame)))
                progress.advance(len(part))
    return ImageVQTokenizer.fit(section, kind, torch.cat(pictures), seed)


def _fit_sound(
    kind: Any, section: MelVQ, seed: int, clips: "ClipTable", rows: np.ndarray, g: torch.Generator
) -> Tokenizer:
    sounds = clips.media(kind, rows[_some(len(rows), MOST_TRAIN, g)])
    return MelVQTokenizer.fit(section, sounds, clips.sample_rate, seed)


def _fit_caption(
    kind: Any, section: Bpe, seed: int, clips: "ClipTable", rows: np.ndarray, g: torch.Generator
) -> Tokenizer:
    return BpeTokenizer.fit(section, clips.media(kind, rows), [str(c) for c in clips.captions])


FITS: dict[str, Callable[..., Tokenizer]] = {
    "image_vq": _fit_image,
    "mel_vq": _fit_sound,
    "bpe": _fit_caption,
}


def _some(count: int, most: int, generator: torch.Generator) -> np.ndarray:
    return np.sort(torch.randperm(count, generator=generator)[:most].numpy())


def _half(pictures: Tensor) -> Tensor:
    # Half the memory; 8-bit pictures lose nothing, depth less than one part in a thousand.
    return pictures.half()


def _parameters(tokenizer: Tokenizer) -> int:
    net = getattr(tokenizer, "net", None)
    return sum(p.numel() for p in net.parameters()) if net is not None else 0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
