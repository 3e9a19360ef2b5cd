"""Inputs of generation from files: ids, and marks of the slots that are inputs.

A file is processed as in the clips stage: its kind of media reads it, ``cut`` cuts it, it is coded
and decoded like a row of the clips table, and tokenized by the run's own tokenizers.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano4m.config.clips import ClipsConfig
from nano4m.data.cut import centre_box, cut
from nano4m.data.film_window import read_window
from nano4m.data.sources.video import VIDEOS
from nano4m.data.waveform import cut_sound, silent
from nano4m.errors import BadMedia, UserError, nearest
from nano4m.inference.loaded_run import LoadedRun
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import MediaKind
from nano4m.modalities import TEXT_END

Cell = Any
"""Media of one clip as a column of the clips table holds them."""


@dataclass(frozen=True, kw_only=True)
class GenerationInput:
    """One input.

    Attributes:
        name: Beginning of the names of its output files.
        ids_L, inputs_L: int64 ids, and bool marks of inputs, of all slots.
        media: Name of a modality -> media as its tokenizer takes them, one item.
        about: Its origin and how it was processed, JSON.
    """

    name: str
    ids_L: Tensor
    inputs_L: Tensor
    media: dict[str, Any]
    about: dict[str, Any]


def _window_note(seconds: float, start: float, clips: ClipsConfig) -> str:
    """Return a note of what the window does to a recording of ``seconds``."""
    if abs(seconds - clips.window_seconds) * clips.sample_rate < 1:
        return f"{seconds:.2f} s, as long as the window"
    if seconds < clips.window_seconds:
        return (
            f"{seconds:.2f} s, shorter than the window of {clips.window_seconds:g} s: silence is "
            "put around it"
        )
    return (
        f"{seconds:.2f} s, longer than the window of {clips.window_seconds:g} s: the part from "
        f"{start:.2f} s is used (clips.window {clips.window})"
    )


def _level_note(clips: ClipsConfig) -> str:
    if clips.target_rms_db is None:
        return ""
    return f"; its level is set to {clips.target_rms_db:g} dB"


def _crop_note(height: int, width: int, clips: ClipsConfig) -> str:
    cut_away = "" if height == width else ", the square in its centre is used"
    return f"{width} x {height} pixels{cut_away}, resized to {clips.picture_size}"


def _sound_cell(kind: MediaKind, path: Path, clips: ClipsConfig) -> tuple[Cell, str]:
    recorded, rate = kind.part("read")(path, clips)
    window, levels, start, _ = cut_sound(recorded, rate, clips)
    reason = silent(levels["rms_db"], clips)
    if reason:
        raise BadMedia(reason)
    note = _window_note(len(recorded) / rate, start / clips.sample_rate, clips) + _level_note(clips)
    return kind.part("encode")(window, clips.sample_rate), note


def _plane_cell(kind: MediaKind, path: Path, clips: ClipsConfig) -> tuple[Cell, str]:
    plane = kind.part("read")(path, clips)
    height, width = plane.shape[:2]
    stored = kind.part("crop")(plane, centre_box(height, width), clips)
    return [kind.part("encode")(stored)], _crop_note(height, width, clips)


def _cell(kind: MediaKind, path: Path, clips: ClipsConfig) -> tuple[Cell, str]:
    """Return the cell of a file, and a note of how it was processed."""
    return (_plane_cell if kind.is_plane else _sound_cell)(kind, path, clips)


def _kind_of(path: Path) -> MediaKind | None:
    """Return the kind that claims a file most surely, or None."""
    claims = {name: kind.claims(path) for name, kind in MEDIA.items()}
    best = max(claims, key=lambda name: claims[name])
    return MEDIA[best] if claims[best] else None


def _video(path: Path, clips: ClipsConfig) -> tuple[dict[str, Cell], str]:
    """Return the cells of a video, whose picture is its first keyframe, and a note.

    A silent film is a picture, and a film without pictures a sound.
    """
    anything = clips.model_copy(update={"require": ()})
    raw = read_window(path, anything)
    columns = cut(raw, anything)
    if "reason" in columns:
        raise BadMedia(columns["reason"])
    note = _window_note(raw.seconds or 0.0, columns["offset_s"], clips)
    note += _level_note(clips) if raw.sound is not None else "; it has no sound"
    cells = {name: columns.get(kind.column) for name, kind in MEDIA.items()}
    return {name: cell for name, cell in cells.items() if cell}, note


def _named(text: str, run: LoadedRun) -> tuple[str | None, Path]:
    """Return modality and path of ``MODALITY=PATH``, or None and the path."""
    name, sign, rest = text.partition("=")
    if not sign or Path(text).exists():
        return None, Path(text)
    if name not in run.by_name:
        raise UserError(f"--in {text}: {run.folder} has no {name!r}; {nearest(name, run.by_name)}")
    return name, Path(rest)


def _cells(text: str, run: LoadedRun) -> tuple[dict[str, Cell], Path, str]:
    """Return the cells of a file by modality, its path, and a note of how it was processed."""
    name, path = _named(text, run)
    clips = run.config.clips
    if not path.is_file():
        raise UserError(f"--in {text}: no file at {path}")
    try:
        if name is not None:
            kind = media_kind(run.by_name[name].media)
            if kind.read is None:
                raise UserError(f"--in {text}: {name!r} is text; give it with --caption")
            cell, note = _cell(kind, path, clips)
            return {name: cell}, path, note
        if path.suffix.lower() in VIDEOS:
            cells, note = _video(path, clips)
        else:
            claimed = _kind_of(path)
            if claimed is None:
                suffixes = [kind.suffixes for kind in MEDIA.values()]
                allowed = ", ".join(sorted(VIDEOS.union(*suffixes)))
                raise UserError(f"--in {text}: {path.suffix or path.name!r} is not read; "
                                f"choose from {allowed}")  # fmt: skip
            cell, note = _cell(claimed, path, clips)
            cells = {claimed.name: cell}
    except BadMedia as error:
        raise UserError(f"--in {text}: {error}; give another file") from error
    own = {m.name: cells[m.media] for m in run.table.modalities if m.media in cells}
    if not own:
        has = ", ".join(f"{m.name} ({m.media})" for m in run.table.modalities)
        raise UserError(
            f"--in {text}: a file of {', '.join(cells)}, and {run.folder} has none; it has {has}"
        )
    return own, path, note


def read_files(
    paths: Sequence[str], caption: str | None, run: LoadedRun, warn: Callable[[str], None]
) -> GenerationInput:
    """Return the input that files and a caption make together.

    Args:
        paths: ``PATH`` or ``MODALITY=PATH``.
        caption: Text, or None.
        run: Its windows, crops and tokenizers are used.
        warn: Called with a note of what was cut away or padded.

    Raises:
        UserError: A file of no known kind, unreadable, or of a modality that the run lacks; two
            files of one modality; a caption that is empty or too long.
    """
    cells: dict[str, Cell] = {}
    about: list[dict[str, Any]] = []
    for text in paths:
        found, path, note = _cells(text, run)
        twice = sorted(found.keys() & cells.keys())
        if twice:
            raise UserError(
                f"--in {text}: {twice[0]!r} is given by another file already; one input holds one "
                "of each, run the command once for each file"
            )
        warn(f"{path.name}: {', '.join(found)}; {note}")
        cells |= found
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        about.append({"file": str(path), "sha256": digest, "modalities": [*found], "note": note})
    if caption is not None:
        texts = [m.name for m in run.table.modalities if m.is_text]
        if not texts:
            raise UserError(f"--caption: {run.folder} has no text, only {', '.join(run.by_name)}")
        if not caption.strip():
            raise UserError("--caption is empty; leave it out, or write a sentence")
        cells |= {name: caption for name in texts}
        about.append({"caption": caption, "modalities": texts})
    ids_L = torch.zeros(run.tokens.length, dtype=torch.int64)
    inputs_L = torch.zeros(run.tokens.length, dtype=torch.bool)
    media = {}
    for name, cell in cells.items():
        modality, tokenizer = run.by_name[name], run.tokenizers[name]
        kind = media_kind(modality.media)
        media[name] = kind.part("decode")([cell], 0 if kind.is_plane else None)
        ids = tokenizer.encode(media[name]).flatten().cpu()
        span = run.tokens.slices[run.tokens.index(name)]
        ids_L[span], inputs_L[span] = ids, True
        if modality.is_text:
            length = int((ids == TEXT_END).int().argmax()) + 1
            inputs_L[span.start + length : span.stop] = False
            unknown = getattr(tokenizer, "unknown", None)
            strange = int(unknown(ids[None, :length])[0]) if unknown else 0
            if strange:
                warn(f"--caption: {strange} of {length} tokens were not seen in training")
    stems = [Path(text.partition("=")[2] or text).stem for text in paths]
    return GenerationInput(
        name=stems[0] if stems else ("caption" if cells else "nothing"),
        ids_L=ids_L,
        inputs_L=inputs_L,
        media={name: item[0] for name, item in media.items()},
        about={"given": about},
    )
