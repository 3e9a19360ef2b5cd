"""Captions: one sentence a clip."""

from typing import Any

from nano4m.media.base import MediaKind


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
