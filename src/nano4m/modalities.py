"""The registry of modalities: the one place that knows a modality by its name.

A modality is a stream of discrete tokens of one clip. Its entry holds, by key, the layout of its
tokens, its kind of media, its default tokenizer and its labeller; the room that owns a key resolves
it. Nothing else in the package compares a modality's name. To add one whose kind of media and
tokenizer exist, add one entry to MODALITIES.

Standard library only.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nano4m.errors import UserError, nearest

Layout = Literal["grid", "codebooks", "text"]
TEXT_END = 0
"""Id of the end-of-text token in every text vocabulary: the last token of every caption."""


_RENAMED = {"views": "frame_group", "codes": "codebooks"}
"""Keys and layouts in entries of earlier versions -> those of this one."""


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One stream of tokens.

    Attributes:
        name: Key of the registry and column of the token table.
        title: Name in the report.
        layout: ``grid`` (rows, columns), ``codebooks`` (frames, codebooks) or ``text`` (length,).
        shape: Sizes of that layout; ``()`` until a tokenizer of a run fixes them.
        vocab_size: Number of ids, of all codebooks together; 0 until a tokenizer fixes it.
        media: Kind of the media that the ids encode: it selects reader, classifier and renderer.
        tokenizer: Key of the default tokenizer.
        frame_group: Modalities with the same key use the same view of a clip: frame k of all its
            pictures; a sound has views of its own.
        labeller: Key of the maker of media that a source does not record; None if recorded.

    shape and vocab_size are fixed per run and stored in token tables and checkpoints.
    """

    name: str
    title: str
    layout: Layout
    media: str
    tokenizer: str
    frame_group: str
    labeller: str | None = None
    shape: tuple[int, ...] = ()
    vocab_size: int = 0

    def __post_init__(self) -> None:
        axes = {"grid": 2, "codebooks": 2, "text": 1}
        if self.layout not in axes:
            raise UserError(
                f"modality {self.name!r}: layout {self.layout!r}; {nearest(self.layout, axes)}"
            )
        if self.shape and (len(self.shape) != axes[self.layout] or min(self.shape) < 1):
            raise UserError(
                f"modality {self.name!r}: a {self.layout} layout has {axes[self.layout]} positive "
                f"sizes, not {self.shape}"
            )

    @property
    def length(self) -> int:
        """Number of tokens of one clip (the longest, for text)."""
        total = 1 if self.shape else 0
        for size in self.shape:
            total *= size
        return total

    @property
    def is_text(self) -> bool:
        """Whether tokens are a sentence of varying length, in order from left to right."""
        return self.layout == "text"

    @property
    def columns(self) -> int:
        """Tokens that share a first coordinate: columns of a grid, codebooks, 1 in a text."""
        return 1 if self.is_text else self.shape[1]

    @property
    def num_codebooks(self) -> int:
        """Number of codebooks Q: slot t, row-major, uses codebook t mod Q (its second coordinate).

        Codebook q has the ids q * V / Q to (q + 1) * V / Q - 1, and a slot only these.

        Raises:
            ValueError: The vocabulary size is not a multiple of Q.
        """
        books = self.shape[1] if self.layout == "codebooks" and self.shape else 1
        if self.vocab_size % books:
            raise ValueError(
                f"{self.name}: {self.vocab_size} ids are not {books} codebooks of one size"
            )
        return books

    @property
    def codebook_size(self) -> int:
        """Number of ids of one codebook, V / Q: those that one slot may have."""
        return self.vocab_size // self.num_codebooks

    def coordinates(self) -> list[tuple[int, int]]:
        """Coordinates of each token: (row, column), (frame, codebook) or (index, 0)."""
        return [(i // self.columns, i % self.columns) for i in range(self.length)]

    def with_tokens(self, shape: tuple[int, ...], vocab_size: int) -> "Modality":
        """Return the entry of one run, with the sizes that its tokenizer fixed."""
        return dataclasses.replace(self, shape=tuple(shape), vocab_size=vocab_size)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary; ``from_json`` is its inverse."""
        return dataclasses.asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "Modality":
        """Return the entry that ``to_json`` wrote, in any version of the same format."""
        found = {_RENAMED.get(k, k): v for k, v in entry.items()} | {"shape": tuple(entry["shape"])}
        found["layout"] = _RENAMED.get(found["layout"], found["layout"])
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in found.items() if k in known})


def _entry(
    name: str, title: str, layout: Layout, tokenizer: str, frame_group: Any, **more: Any
) -> Modality:
    return Modality(
        name=name, title=title, layout=layout, tokenizer=tokenizer, frame_group=frame_group, **more
    )


MODALITIES: dict[str, Modality] = {
    m.name: m
    for m in (
        _entry("rgb", "picture", "grid", "image_vq", "frame", media="picture"),
        _entry("depth", "depth", "grid", "image_vq", "frame", media="depth", labeller="exact"),
        _entry(
            "normals", "normals", "grid", "image_vq", "frame", media="normals", labeller="exact"
        ),
        _entry("sound", "sound", "codebooks", "mel_vq", "sound", media="sound"),
        _entry("caption", "caption", "text", "bpe", "caption", media="caption"),
        _entry("silhouette", "silhouette", "grid", "image_vq", "frame", media="silhouette"),
    )
}


PUBLISHED: dict[str, str] = {
    "tok_rgb": "rgb",
    "tok_audio": "sound",
    "tok_depth": "depth",
    "tok_normal": "normals",
    "scene_desc": "caption",
}
"""Name of a modality in published nano4M checkpoints, without its length -> name here."""


def modality(name: str) -> Modality:
    """Return the modality of this name.

    Raises:
        UserError: The name is not in the registry.
    """
    if name not in MODALITIES:
        raise UserError(f"unknown modality {name!r}; {nearest(name, MODALITIES)}")
    return MODALITIES[name]
