"""Captions: sentences of a clip, in any language."""

import re
import unicodedata
from typing import Any

from nano4m.media.base import MediaKind


def captions_in(text: str) -> tuple[str, ...]:
    """Return the captions that a user's text holds: one a line, () if nothing of it can be seen.

    Unicode NFC, so that a letter is the same however it was typed, and without white space around
    them; everything else is as it was. Bytes that are no UTF-8 become U+FFFD.
    """
    whole = unicodedata.normalize("NFC", re.sub("[\ud800-\udfff]", "\ufffd", text))
    lines = (line.strip() for line in whole.splitlines())
    return tuple(line for line in lines if any(c.isprintable() and c != " " for c in line))


def _fidelity(x: list[str], y: list[str], tokenizer: Any) -> dict[str, float]:
    ids = tokenizer.encode(x)
    tokens = int(tokenizer.lengths(ids).sum())
    return {
        "exact_share": sum(a == b for a, b in zip(x, y, strict=True)) / len(x),
        "tokens_a_caption": tokens / len(x),
        "unknown_share": int(tokenizer.unknown(ids).sum()) / tokens,
    }


KIND = MediaKind(
    name="caption",
    form="text",
    column="caption",
    layouts=("text",),
    decode=lambda cells, frame: list(cells),
    suffix=".txt",
    write=lambda value, rate: (str(value) + "\n").encode(),
    fidelity=_fidelity,
)
