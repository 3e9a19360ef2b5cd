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
from nano4m.data.cut import centre_box, cut_window
from nano4m.data.sources.base import RawMedia
from nano4m.data.sources.video import VIDEOS
from nano4m.data.windows import opened_windows
from nano4m.errors import BadMedia, UserError, nearest
from nano4m.inference.caption_input import checked_caption, seen_captions
from nano4m.inference.loaded_run import LoadedRun
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import MediaKind
from nano4m.media.gate import printable
from nano4m.modalities import TEXT_END

LONGEST_STEM = 180
"""Bytes of the name of a file that the names of outputs begin with; file systems allow 255."""

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


def _plane_cell(kind: MediaKind, path: Path, clips: ClipsConfig) -> tuple[Cell, str]:
    plane = kind.part("read")(path, clips)
    height, width = plane.shape[:2]
    stored = kind.part("crop")(plane, centre_box(height, width), clips)
    return [kind.part("encode")(stored)], _crop_note(height, width, clips)


def _kind_of(path: Path) -> MediaKind | None:
    """Return the kind that claims a file most surely, or None."""
    claims = {name: kind.claims(path) for name, kind in MEDIA.items()}
    best = max(claims, key=lambda name: claims[name])
    return MEDIA[best] if claims[best] else None


def _recording_cells(path: Path, clips: ClipsConfig, *needed: str) -> tuple[dict[str, Cell], str]:
    """Return the cells of a sound or film, whose picture is its first keyframe, and a note.

    One that lacks a kind of ``needed`` is refused.

    A film without a sound is a picture, and a film without pictures a sound.
    """
    one = clips.model_copy(update={"require": needed, "windows_per_recording": 1})
    raw = RawMedia(sound=None, sample_rate=0, frames=(), recording=path)
    with opened_windows(raw, one) as windows:
        window = windows[0]
        columns = cut_window(window, raw, one)
    if "reason" in columns:
        raise BadMedia(columns["reason"])
    note = _window_note(window.seconds, columns["offset_s"], clips)
    note += _level_note(clips) if window.sound is not None else f"; {window.no_sound}"
    cells = {name: columns.get(kind.column) for name, kind in MEDIA.items()}
    return {name: cell for name, cell in cells.items() if cell}, note


def _cells_of_kind(kind: MediaKind, path: Path, clips: ClipsConfig) -> tuple[Cell, str]:
    """Return the cell of one kind that a file holds, and a note of how it was processed."""
    if kind.is_plane and path.suffix.lower() not in VIDEOS:
        return _plane_cell(kind, path, clips)
    cells, note = _recording_cells(path, clips, kind.name)
    return cells[kind.name], note


def _named(text: str, run: LoadedRun) -> tuple[str | None, Path]:
    """Return modality and path of ``MODALITY=PATH``, or None and the path."""
    name, sign, rest = text.partition("=")
    if not sign or Path(text).exists() or "/" in name:
        return None, Path(text)
    if name not in run.by_name:
        raise UserError(
            f"--in {printable(text)}: no such file, and {run.folder} has no {printable(name)!r}; "
            f"{nearest(name, run.by_name)}"
        )
    return name, Path(rest)


def _stem(path: Path) -> str:
    """Return the beginning of the names of what is made from a file; a long one has a hash."""
    stem = printable(path.stem)
    data = stem.encode()
    if len(data) <= LONGEST_STEM:
        return stem
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[:LONGEST_STEM].decode(errors='ignore')}-{digest}"


def _cells(text: str, run: LoadedRun) -> tuple[dict[str, Cell], Path, str]:
    """Return the cells of a file by modality, its path, and a note of how it was processed."""
    name, path = _named(text, run)
    clips = run.config.clips
    if not path.is_file():
        raise UserError(f"--in {printable(text)}: no file at {printable(path)}")
    try:
        if name is not None:
            kind = media_kind(run.by_name[name].media)
            if kind.read is None:
                raise UserError(f"--in {text}: {name!r} is text; give it with --caption")
            cell, note = _cells_of_kind(kind, path, clips)
            return {name: cell}, path, note
        if path.suffix.lower() in VIDEOS:
            cells, note = _recording_cells(path, clips)
        else:
            claimed = _kind_of(path)
            if claimed is None:
                suffixes = [kind.suffixes for kind in MEDIA.values()]
                allowed = ", ".join(sorted(VIDEOS.union(*suffixes)))
                raise UserError(
                    f"--in {printable(text)}: {path.suffix or path.name!r} is not read; choose "
                    f"from {allowed}"
                )
            cell, note = _cells_of_kind(claimed, path, clips)
            cells = {claimed.name: cell}
    except BadMedia as error:
        raise UserError(f"--in {printable(text)}: {error}; give another file") from error
    own = {m.name: cells[m.media] for m in run.table.modalities if m.media in cells}
    if not own:
        has = ", ".join(f"{m.name} ({m.media})" for m in run.table.modalities)
        raise UserError(
            f"--in {printable(text)}: a file of {', '.join(cells)}, and {run.folder} has none; it "
            f"has {has}"
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
        warn: Called with a note of what was cut away or padded, or not seen in training.

    Raises:
        UserError: A file of no known kind, unreadable, or of a modality that the run lacks; two
            files of one modality; a caption that is empty, too long or of unknown signs.
    """
    cells: dict[str, Cell] = {}
    about: list[dict[str, Any]] = []
    stems: list[str] = []
    for text in paths:
        found, path, note = _cells(text, run)
        twice = sorted(found.keys() & cells.keys())
        if twice:
            raise UserError(
                f"--in {printable(text)}: {twice[0]!r} is given by another file already; one input "
                "holds one of each, run the command once for each file"
            )
        warn(f"{printable(path.name)}: {', '.join(found)}; {note}")
        stems.append(_stem(path))
        cells |= found
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        own = {"sha256": digest, "modalities": [*found], "note": note}
        about.append({"file": printable(path)} | own)
    if caption is not None:
        texts = [m.name for m in run.table.modalities if m.is_text]
        if not texts:
            raise UserError(f"--caption: {run.folder} has no text, only {', '.join(run.by_name)}")
        for name in texts:
            seen = seen_captions(run.table, name, run.tokenizers[name])
            cells[name] = checked_caption(caption, seen, run.tokenizers[name], warn)
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
    return GenerationInput(
        name=stems[0] if stems else ("caption" if cells else "nothing"),
        ids_L=ids_L,
        inputs_L=inputs_L,
        media={name: item[0] for name, item in media.items()},
        about={"given": about},
    )
