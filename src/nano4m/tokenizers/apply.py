"""Tokenizing all clips of a run into the token table."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nano4m.compute.precision import float32_math
from nano4m.compute.workers import ahead, count_readers
from nano4m.config.run import Config
from nano4m.config.tokenizers.sound import SoundSection
from nano4m.data.clip_table import ClipTable
from nano4m.errors import UserError
from nano4m.modalities import TEXT_END, Layout, Modality, modality
from nano4m.progress import bar, log_info
from nano4m.stage import versions
from nano4m.storage.finished_units import FinishedUnits, made_from
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenSpec, TokenTable, write_table

CHUNK = 128
"""Clips that are read and augmented together; on a CPU they are also encoded together."""

MOST_CHUNKS = 4
"""Chunks that are encoded together on a GPU ..."""
MOST_BYTES = 1 << 28
"""... as long as their media are not larger, in bytes; chunks of many or long views are smaller."""

KEPT_SECONDS = 60.0
"""Seconds of encoding after which the ids since the last time are stored; a kill loses no more."""

MOST_IDS = 65536
"""Most ids that uint16 can hold."""


def vary_sound(
    sounds: Tensor, sample_rate: int, section: SoundSection, rng: np.random.Generator
) -> Tensor:
    """Return sounds (B, samples) shifted in time (zeros come in) and scaled in level at random."""
    most = round(section.shift_seconds * sample_rate)
    shifts = rng.integers(-most, most + 1, size=len(sounds))
    gains = 10 ** (rng.uniform(-section.gain_db, section.gain_db, size=len(sounds)) / 20)
    varied = torch.zeros_like(sounds)
    for i, (shift, gain) in enumerate(zip(shifts.tolist(), gains.tolist(), strict=True)):
        # A gain that would clip is lowered: clipping is a cue that recorded sounds do not have.
        gain = min(gain, 0.99 / max(float(sounds[i].abs().max()), 1e-6))
        kept = sounds[i, max(0, -shift) : len(sounds[i]) - max(0, shift)]
        varied[i, max(0, shift) : max(0, shift) + len(kept)] = kept * gain
    return varied


def _frames(media: Tensor, section: Any, **_: Any) -> Tensor:
    """Return all frames: (n, K, C, H, W) as they are."""
    return media


def _variations(
    media: Tensor,
    section: Any,
    *,
    sample_rate: int,
    is_train: np.ndarray,
    rng: np.random.Generator,
    **others: Any,
) -> Tensor:
    """Return sounds (n, samples) as (n, views, samples); only train clips are augmented."""
    del others
    views = [media]
    for _ in range(getattr(section, "augmentations", 1) - 1):
        varied = vary_sound(media, sample_rate, section, rng)
        varied[~torch.from_numpy(is_train)] = media[~torch.from_numpy(is_train)]
        views.append(varied)
    return torch.stack(views, dim=1)


def _texts(
    media: list[tuple[str, ...]], section: Any, *, tokenizer: Tokenizer, most: int, **_: Any
) -> list[list[str]]:
    """Return ``most`` captions of each clip: the usable ones in turn, or "" if it has none.

    Every view of a clip is drawn equally often, so clips with few captions come up as often as
    those with many, and their captions (nearly) as often as one another.
    """
    found = [tokenizer.usable(own, section) or [""] for own in media]
    return [[own[i % len(own)] for i in range(most)] for own in found]


def _encode_texts(tokenizer: Tokenizer, views: list[list[str]]) -> Tensor:
    """Return the ids of captions; those of an absent one are all TEXT_END."""
    ids = tokenizer.encode([text for own in views for text in own])
    return ids.reshape(len(views), -1, ids.shape[1])


VIEWS: dict[Layout, Callable[..., Any]] = {
    "grid": _frames,
    "codebooks": _variations,
    "text": _texts,
}
"""Layout -> function that returns the views of some clips' media."""

ENCODERS: dict[Layout, Callable[[Tokenizer, Any], Tensor]] = {
    "grid": lambda tokenizer, media: tokenizer.encode(media.flatten(0, 1)).reshape(
        *media.shape[:2], -1
    ),
    "codebooks": lambda tokenizer, views: torch.stack(
        [tokenizer.encode(view).flatten(1) for view in views.unbind(1)], dim=1
    ),
    "text": _encode_texts,
}
"""Layout -> function that returns the ids of views, (n, views, length)."""


class _Chunk(NamedTuple):
    start: int
    rows: np.ndarray


def _join(chunks: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """Yield the views of one chunk on a CPU, of up to MOST_CHUNKS together on a GPU."""
    waiting: list[Any] = []
    for chunk in chunks:
        waiting.append(chunk)
        size = 0 if isinstance(chunk, list) else chunk.nbytes
        if device.type == "cpu" or len(waiting) == MOST_CHUNKS or size * len(waiting) > MOST_BYTES:
            yield _together(waiting)
            waiting = []
    if waiting:
        yield _together(waiting)


def _together(chunks: list[Any]) -> Any:
    if isinstance(chunks[0], list):
        return [text for chunk in chunks for text in chunk]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def chunk_size(clips: ClipTable, kind: str, rows: np.ndarray, views: int) -> int:
    """Return how many clips are read and augmented together: CHUNK, or as many as fit."""
    first = clips.media(kind, rows[:1])
    size = 0 if isinstance(first, list) else first.nbytes * views
    return max(1, min(CHUNK, MOST_BYTES // max(size, 1)))


def check_vocabulary(name: str, ids: int) -> None:
    """Refuse a vocabulary that the table cannot hold.

    Raises:
        UserError: Names the modality and the most ids.
    """
    if ids > MOST_IDS:
        raise UserError(
            f"the {name} tokenizer has {ids} ids, the token table holds {MOST_IDS}; lower "
            f"--tokenizers.{name}.vocab or its codebooks and fit it again"
        )


def _tell(line: str) -> None:
    log_info(f"table: {line}")


def _last(parts: list[np.ndarray], count: int) -> np.ndarray:
    """Return the last ``count`` rows of consecutive arrays, which end with whole arrays."""
    number = 0
    while count:
        number += 1
        count -= len(parts[-number])
    return np.concatenate(parts[-number:])


def _kept(units: FinishedUnits, entry: Modality) -> list[np.ndarray]:
    """Return the ids of a modality that a stopped call has stored, from the first clip on."""
    parts: list[np.ndarray] = []
    while True:
        done = sum(map(len, parts))
        found = units.read(f"{entry.name}-{done}", lambda _, arrays: arrays["ids"])
        if found is None:
            if done:
                _tell(f"goes on after {done} clips of {entry.title}")
            return parts
        parts.append(found)


def _media(clips: ClipTable, entry: Modality, rows: np.ndarray) -> Any:
    """Return the media of some clips: of a text all that a clip has."""
    return (
        [clips.captions[row] for row in rows] if entry.is_text else clips.media(entry.media, rows)
    )


def _lengths(ids: np.ndarray) -> np.ndarray:
    """Return the tokens of texts (n, views, length), int64 (n, views); 0: empty, so absent."""
    is_end = ids == TEXT_END
    return np.where(is_end[:, :, 0], 0, is_end.argmax(2) + 1)


@float32_math(fast=False)
def build_table(
    config: Config, clips: ClipTable, tokenizers: Mapping[str, Tokenizer], folder: Path
) -> dict[str, Any]:
    """Tokenise what kept clips have, write the token table into ``folder``, and return a summary.

    Tokenizers encode on their device while threads decode the media of the next clips. Ids are
    stored every KEPT_SECONDS, and a repeated call goes on after them.

    Returns:
        Clips by split; clips that have it, tokens and views by modality; fingerprint.

    Raises:
        UserError: A vocabulary is too large for the table, no clip has media of a modality, or a
            clip has none at all.
    """
    for name, tokenizer in tokenizers.items():
        check_vocabulary(name, tokenizer.vocab_size)
    entries = tuple(modality(n).with_tokens(t.shape, t.vocab_size) for n, t in tokenizers.items())
    rows_of = {e.name: np.flatnonzero(clips.present(e.media)) for e in entries}
    is_train = np.asarray(clips.splits) == "train"
    ids, lengths = {}, {}
    fingerprints = {n: t.fingerprint for n, t in tokenizers.items()}
    origin = made_from(folder, config.seed, fingerprints, versions())
    units = FinishedUnits(folder / "encoded", origin, _tell)
    with bar("tokenise", sum(map(len, rows_of.values())), "clips") as progress:
        for stream, entry in enumerate(entries):
            tokenizer = tokenizers[entry.name]
            clips.require(entry.media)
            rows = rows_of[entry.name]
            most = max(len(clips.captions[row]) for row in rows) if entry.is_text else 1

            def read(
                chunk: _Chunk, entry: Modality = entry, stream: int = stream, most: int = most
            ) -> Any:
                return VIEWS[entry.layout](
                    _media(clips, entry, chunk.rows),
                    config.tokenizers[entry.name],
                    tokenizer=tokenizers[entry.name],
                    most=most,
                    sample_rate=clips.sample_rate,
                    is_train=is_train[chunk.rows],
                    rng=np.random.default_rng([config.seed, stream, chunk.start]),
                )

            parts = _kept(units, entry)
            done = sum(map(len, parts))
            progress.advance(done, entry.title)
            versions_of_each = getattr(config.tokenizers[entry.name], "augmentations", 1)
            size = chunk_size(clips, entry.media, rows, versions_of_each)
            chunks = [_Chunk(i, rows[i : i + size]) for i in range(done, len(rows), size)]
            threads = 1 if tokenizer.device.type == "cpu" else count_readers()
            begun, since = done, time.monotonic()
            for views in _join(ahead(read, chunks, threads), tokenizer.device):
                encoded = ENCODERS[entry.layout](tokenizer, views)
                parts.append(encoded.cpu().numpy().astype(np.uint16))
                progress.advance(len(views), entry.title)
                done += len(views)
                if time.monotonic() - since >= KEPT_SECONDS:
                    units.write(f"{entry.name}-{begun}", None, {"ids": _last(parts, done - begun)})
                    begun, since = done, time.monotonic()
            found = np.concatenate(parts)
            ids[entry.name] = np.zeros((len(clips), *found.shape[1:]), np.uint16)
            ids[entry.name][rows] = found
            lengths[entry.name] = np.zeros(ids[entry.name].shape[:2], np.int64)
            lengths[entry.name][rows] = _lengths(found) if entry.is_text else entry.length
    token_spec = TokenSpec(entries, fingerprints)
    texts = [np.asarray(a, dtype=str) for a in (clips.clip_ids, clips.labels, clips.splits)]
    books = {n: t.codebook() for n, t in tokenizers.items()}
    codes = {n: c.float().numpy() for n, c in books.items() if c is not None}
    table = TokenTable(token_spec, texts[0], texts[1], texts[2], ids, lengths, codes)
    write_table(table, folder)
    units.remove()
    return {
        "present": {e.name: int(table.present(e.name).sum()) for e in entries},
        "clips": {s: int((texts[2] == s).sum()) for s in ("train", "val", "test")},
        "tokens": {e.name: e.length for e in entries},
        "vocabulary": {e.name: e.vocab_size for e in entries},
        "views": {n: int(a.shape[1]) for n, a in ids.items()},
        "fingerprint": token_spec.fingerprint,
    }
