"""Fitting the tokenizers of a run on train clips, and measuring them on validation clips.

Each modality has a folder, written atomically, with settings and quality in ``fit.json`` beside the
weights; an existing one of the same settings and clips is kept.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from nano4m.compute.precision import float32_math, resolve_device
from nano4m.compute.workers import ahead, count_readers, count_workers, worker_pool
from nano4m.config.compatibility import read_section
from nano4m.config.run import Config
from nano4m.config.tokenizers import TokenizerConfig
from nano4m.errors import UserError
from nano4m.media import media_kind
from nano4m.modalities import modality
from nano4m.progress import bar, log_info
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.files import recover, whole_folder
from nano4m.storage.json_files import read_object, write_json
from nano4m.tokenizers import TOKENIZERS, load_tokenizer
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.quality import examine
from nano4m.tokenizers.verdict import refuse_broken, verdict_figures

if TYPE_CHECKING:
    from nano4m.data.clip_table import ClipTable

MOST_TRAIN = 6000
"""Most pictures or sounds of a fit; more change little and fill the memory."""

MOST_SOUND_BYTES = 1 << 30
"""Most bytes of the sounds of a fit: fewer of them where windows are long."""

MOST_VAL = 256
"""Most clips that the quality is measured on."""

READ_AT_ONCE = 256
"""Clips that a thread decodes at a time."""


class Job(NamedTuple):
    """A tokenizer to fit: modality, kind of media, settings, seed, and the folder to write."""

    name: str
    kind: Any
    section: Any
    seed: int
    folder: Path
    settings: dict[str, Any]


ENOUGH_CORES = 4
"""Cores from which tokenizers are fitted in parallel on a GPU."""


@float32_math(fast=False)
def fit_tokenizers(
    config: Config, clips: "ClipTable", out: Path, before: Sequence[Path] = ()
) -> dict[str, dict[str, Any]]:
    """Fit all of ``config.tokenizers`` into ``out/<modality>`` and return the quality of each.

    Each decodes what it has encoded of real media first, see ``verdict``.

    Deterministic in ``config.seed``, on one kind of device. Processes fit them in parallel; with a
    GPU and few cores they are fitted in turn, while the media of the next are read. Also writes
    ``out/quality.json``.

    Args:
        config: Of the run.
        clips: Their clips.
        out: Folder of the tokenizers.
        before: Folders of replaced tokenizers; those that would be fitted alike are copied.

    Raises:
        UserError: No train or validation clip that has the media of a tokenizer, or settings that
            do not suit the media, or a tokenizer is broken and ``config.broken_tokenizers`` does
            not accept that. It stays in its folder.
    """
    for split in ("train", "val"):
        if not len(clips.rows(split)):
            raise UserError(f"no {split} clips to fit tokenizers with; make more clips")
    for name in config.tokenizers:
        clips.require(kind := modality(name).media)
        for split in ("train", "val"):
            if not clips.present(kind)[clips.rows(split)].any():
                raise UserError(
                    f"no {split} clip has {kind} to fit the tokenizer of {name} with; leave it out "
                    f"(--without {name}), or make more clips"
                )
    device = resolve_device(config.device)
    out.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, Job] = {}
    qualities = {}
    for name, section in config.tokenizers.items():
        settings = {
            "section": section.model_dump(), "seed": config.seed, "clips": clips.fingerprint,
            "media": modality(name).media,
        }  # fmt: skip
        quality = finished(out / name, section, settings) or _from_before(
            name, section, settings, out, before
        )
        if quality is None:
            jobs[name] = Job(name, modality(name).media, section, config.seed, out / name, settings)
        else:
            qualities[name] = quality

    # Captions first: they may be refused, and are fitted in a moment.
    jobs = dict(sorted(jobs.items(), key=lambda item: media_kind(item[1].kind).form != "text"))
    # Also on a GPU: launching a small network takes longer than computing it, and processes launch
    # in parallel; one process keeps a few cores busy.
    cores = count_workers(config.clips.workers)
    workers = min(cores, len(jobs)) if device.type == "cpu" or cores >= ENOUGH_CORES else 0
    with bar("fit tokenizers", len(jobs), "tokenizers") as progress:

        def done(name: str, quality: dict[str, Any]) -> None:
            log_info(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in quality.items()))
            qualities[name] = quality
            progress.advance()

        if workers < 2:
            fitted = fit_here(clips, list(jobs.values()), device)
            for name, quality in zip(jobs, fitted, strict=True):
                done(name, quality)
        else:
            with worker_pool(workers) as pool:
                running = {
                    pool.submit(_fit_in_worker, clips.folder, job, str(device)): name
                    for name, job in jobs.items()
                }
                for future in as_completed(running):
                    done(running[future], future.result())
    qualities = {name: qualities[name] for name in config.tokenizers}
    write_json(out / "quality.json", qualities)
    refuse_broken(qualities, config.broken_tokenizers == "accept")
    return qualities


def fit_here(clips: "ClipTable", jobs: list[Job], device: torch.device) -> Iterator[dict[str, Any]]:
    """Fit tokenizers in this process, one after another, and yield the quality of each."""
    if device.type != "cpu":
        threads = count_readers()
        for job, material in zip(
            jobs, ahead(lambda job: _read(clips, job, threads), jobs, 1), strict=True
        ):
            yield _fit_one(job, material, device)
        return
    # One thread, as in a worker: the weights do not depend on the number of processes.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for job in jobs:
            yield _fit_one(job, _read(clips, job, 0), device)
    finally:
        torch.set_num_threads(before)


@float32_math(fast=False)
def _fit_in_worker(folder: Path, job: Job, device: str) -> dict[str, Any]:
    from nano4m.data.clip_table import open_clips

    return next(fit_here(open_clips(folder), [job], torch.device(device)))


def finished(
    folder: Path, section: TokenizerConfig, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the quality of a tokenizer that was fitted with these settings, or None."""
    recover(folder)
    # fit.json is in the folder that is renamed into place: if it exists, all files do.
    if not (folder / "fit.json").is_file():
        return None
    try:
        fit = read_object(folder / "fit.json")
        with reading(folder / "fit.json"):
            before, quality = dict(fit["settings"]), dict(fit["quality"])
            with suppress(ValidationError):
                # The settings of another kind do not validate, so they stay different.
                own = read_section(type(section), before["section"])
                before["section"] = own.model_dump(mode="json")
        load_tokenizer(folder)
    except DamagedFile as error:
        log_info(f"tokenizers: {error.path} is damaged ({error.what}), so it is fitted again")
        return None
    return quality if before == json.loads(json.dumps(settings)) else None


def _from_before(
    name: str,
    section: TokenizerConfig,
    settings: dict[str, Any],
    out: Path,
    before: Sequence[Path],
) -> dict[str, Any] | None:
    """Copy a tokenizer of these settings and clips into ``out`` and return its quality, if any."""
    for folder in before:
        quality = finished(folder / name, section, settings)
        if quality is not None:
            with whole_folder(out / name) as part:
                shutil.copytree(folder / name, part, dirs_exist_ok=True)
            log_info(f"{name}: its tokenizer is that of before, as its settings and clips are")
            return quality
    return None


def _read(clips: "ClipTable", job: Job, threads: int) -> Material:
    generator = torch.Generator().manual_seed(job.seed)
    is_there = clips.present(job.kind)
    rows = {split: (own := clips.rows(split))[is_there[own]] for split in ("train", "val")}
    train = READS[media_kind(job.kind).form](clips, job.kind, rows["train"], generator, threads)
    val = rows["val"][_some(len(rows["val"]), MOST_VAL, generator)]
    media = clips.media(job.kind, val, frame=0 if media_kind(job.kind).is_plane else None)
    named = list(_named_captions(clips)) if isinstance(train, list) else []
    ids, texts = ([own[i] for own in named] for i in range(2))
    return Material(
        job.kind, train, media, len(val), clips.sample_rate, texts, ids, modality=job.name
    )


def _named_captions(clips: "ClipTable") -> Iterator[tuple[str, str]]:
    """Yield clip and caption of all captions of all splits."""
    for clip, captions in zip(clips.clip_ids.tolist(), clips.captions, strict=True):
        yield from ((clip, text) for text in captions)


def _fit_one(job: Job, material: Material, device: torch.device) -> dict[str, Any]:
    started = time.perf_counter()
    kind = TOKENIZERS[job.section.kind].load()
    tokenizer = kind.prepare(job.section, material, job.seed, device)
    # The fingerprint copies the weights to the host, so it waits for the GPU.
    fingerprint = tokenizer.fingerprint
    seconds = time.perf_counter() - started
    measured = _measurable(tokenizer, job, material)[: tokenizer.most_measured]
    figures, verdict = examine(tokenizer, job.kind, measured)
    quality: dict[str, Any] = {
        **figures,
        **verdict_figures(verdict),
        "clips": len(measured),
        "parameters": _parameters(tokenizer),
        "fit_seconds": seconds,
        "fingerprint": fingerprint,
    }
    if weights := getattr(job.section, "weights", None):
        quality["weights"] = weights
    with whole_folder(job.folder) as part:
        tokenizer.save(part)
        write_json(part / "fit.json", {"settings": job.settings, "quality": quality})
    return quality


def _measurable(tokenizer: Tokenizer, job: Job, material: Material) -> Any:
    """Return the validation media that the tokenizer takes.

    Raises:
        UserError: All of them are too long.
    """
    if not isinstance(material.val, list):
        return material.val
    found = [text for own in material.val for text in tokenizer.usable([own], job.section)]
    if material.val and not found:
        raise UserError(
            f"no validation caption is short enough for --tokenizers.{job.name}.max_length "
            f"{job.section.max_length}; raise it, or leave the modality out (--without {job.name})"
        )
    return found


# -- what is read, by form of media -------------------------------------------------------------


def _read_pictures(
    clips: "ClipTable", kind: Any, rows: np.ndarray, g: torch.Generator, threads: int
) -> Tensor:
    # One random frame a clip, or several if there are fewer clips than MOST_TRAIN.
    frames = torch.stack([torch.randperm(clips.num_frames, generator=g) for _ in rows]).numpy()
    rounds = min(clips.num_frames, -(-MOST_TRAIN // len(rows)))
    pairs = [(row, frames[i, k]) for k in range(rounds) for i, row in enumerate(rows)]
    chosen = [pairs[i] for i in _some(len(pairs), MOST_TRAIN, g)]
    parts = []
    for frame in range(clips.num_frames):
        own = np.array([row for row, k in chosen if k == frame], np.int64)
        parts += [(part, frame) for part in _parts(own)]

    def read(part: tuple[np.ndarray, int]) -> Tensor:
        # float16 is half the memory; 8-bit pictures lose nothing, depth less than 1 in 1000.
        return clips.media(kind, part[0], frame=part[1]).half()

    return torch.cat(list(ahead(read, parts, threads)))


def _read_sounds(
    clips: "ClipTable", kind: Any, rows: np.ndarray, g: torch.Generator, threads: int
) -> Tensor:
    order = rows[torch.randperm(len(rows), generator=g).numpy()]
    size = clips.media(kind, order[:1]).nbytes
    parts = _parts(np.sort(order[: min(MOST_TRAIN, max(1, MOST_SOUND_BYTES // size))]))
    return torch.cat(list(ahead(lambda part: clips.media(kind, part), parts, threads)))


def _read_captions(
    clips: "ClipTable", kind: Any, rows: np.ndarray, g: torch.Generator, threads: int
) -> list[str]:
    return [text for row in rows for text in clips.captions[row]]


READS: dict[str, Callable[..., Any]] = {
    "plane": _read_pictures,
    "sound": _read_sounds,
    "text": _read_captions,
}


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(READ_AT_ONCE, len(rows), READ_AT_ONCE)) if len(rows) else []


def _some(count: int, most: int, generator: torch.Generator) -> np.ndarray:
    return np.sort(torch.randperm(count, generator=generator)[:most].numpy())


def _parameters(tokenizer: Tokenizer) -> int:
    net = getattr(tokenizer, "net", None)
    return sum(p.numel() for p in net.parameters()) if net is not None else 0


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
