"""From clips and tokenizers to the token table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.clip_table import ClipTable
from nano4m.config import Config, MelVQ
from nano4m.errors import UserError
from nano4m.modalities import TEXT_END, Layout, modality
from nano4m.progress import bar
from nano4m.table import TokenTable, Vocabulary, write_table
from nano4m.tokenizers.base import Tokenizer

CHUNK = 128

MOST_IDS = 65536
"""What uint16 can tell apart."""


def vary_sound(
    sounds: Tensor, sample_rate: int, section: MelVQ, rng: np.random.Generator
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


def _grid(tokenizer: Tokenizer, media: Tensor, section: Any, **_: Any) -> Tensor:
    """Encode every frame: (n, K, C, H, W) to (n, K, length)."""
    ids = tokenizer.encode(media.flatten(0, 1))
    return ids.reshape(media.shape[0], media.shape[1], -1)


def _codes(
    tokenizer: Tokenizer,
    media: Tensor,
    section: MelVQ,
    *,
    sample_rate: int,
    is_train: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Encode a sound and its views: (n, samples) to (n, views, length); only train clips vary."""
    views = [tokenizer.encode(media).flatten(1)]
    for _ in range(section.views - 1):
        varied = vary_sound(media, sample_rate, section, rng)
        varied[~torch.from_numpy(is_train)] = media[~torch.from_numpy(is_train)]
        views.append(tokenizer.encode(varied).flatten(1))
    return torch.stack(views, dim=1)


def _text(tokenizer: Tokenizer, media: list[str], section: Any, **_: Any) -> Tensor:
    """Encode captions: n strings to (n, 1, maximum length)."""
    return tokenizer.encode(media)[:, None]


ENCODERS: dict[Layout, Callable[..., Tensor]] = {"grid": _grid, "codes": _codes, "text": _text}


def build_table(
    config: Config, clips: ClipTable, tokenizers: Mapping[str, Tokenizer], folder: Path
) -> dict[str, Any]:
    """Tokenise every kept clip and write the token table into ``folder``.

    Returns:
        Summary: clips by split, tokens and views by modality, fingerprint.

    Raises:
        UserError: A vocabulary that the table cannot hold.
    """
    for name, tokenizer in tokenizers.items():
        if tokenizer.vocab_size > MOST_IDS:
            raise UserError(
                f"the {name} tokenizer has {tokenizer.vocab_size} ids, the token table holds "
                f"{MOST_IDS}; lower --tokenizers.{name}.vocab or its codebooks and fit it again"
            )
    entries = tuple(modality(n).with_tokens(t.shape, t.vocab_size) for n, t in tokenizers.items())
    rows = np.arange(len(clips))
    is_train = np.asarray(clips.splits) == "train"
    ids, lengths = {}, {}
    with bar("tokenise", len(entries) * len(rows), "clips") as progress:
        for stream, entry in enumerate(entries):
            parts = []
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                encoded = ENCODERS[entry.layout](
                    tokenizers[entry.name],
                    clips.media(entry.media, part),
                    config.tokenizers[entry.name],
                    sample_rate=clips.sample_rate,
                    is_train=is_train[part],
                    rng=np.random.default_rng([config.seed, stream, start]),
                )
                parts.append(encoded.numpy().astype(np.uint16))
                progress.advance(len(part), entry.title)
            ids[entry.name] = np.concatenate(parts)
            if entry.is_text:
                lengths[entry.name] = (ids[entry.name] == TEXT_END).argmax(2) + 1
    vocabulary = Vocabulary(entries, {n: t.fingerprint for n, t in tokenizers.items()})
    texts = [np.asarray(a, dtype=str) for a in (clips.clip_ids, clips.labels, clips.splits)]
    found = {n: t.codes() for n, t in tokenizers.items()}
    codes = {n: c.float().numpy() for n, c in found.items() if c is not None}
    table = TokenTable(vocabulary, texts[0], texts[1], texts[2], ids, lengths, codes)
    write_table(table, folder)
    return {
        "clips": {s: int((texts[2] == s).sum()) for s in ("train", "val", "test")},
        "tokens": {e.name: e.length for e in entries},
        "vocabulary": {e.name: e.vocab_size for e in entries},
        "views": {n: int(a.shape[1]) for n, a in ids.items()},
        "fingerprint": vocabulary.fingerprint,
    }
