"""What every section of a tokenizer has: the form of the tokens, before anything is fitted."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import Section
from nano4m.modalities import Layout

CHOSEN = "Kind of tokenizer; nano4m info tokenizers lists them."

Vocabulary = Annotated[int, Range(2, 65536)]

FSQ_LEVELS: dict[int, tuple[int, ...]] = {
    16: (4, 4), 64: (8, 8), 128: (8, 4, 4), 240: (8, 6, 5), 256: (8, 8, 4), 512: (8, 8, 8),
    1000: (8, 5, 5, 5), 1024: (8, 8, 4, 4), 2048: (8, 8, 8, 4), 4096: (8, 8, 8, 8),
    15360: (8, 8, 8, 6, 5), 16384: (8, 8, 8, 8, 4), 64000: (8, 8, 8, 5, 5, 5),
}  # fmt: skip
"""Vocabulary size of FSQ -> levels of each coordinate."""


class TokenShape(NamedTuple):
    """The form of the tokens of one clip.

    Attributes:
        layout: See ``Modality``.
        shape: Sizes of that layout; of a text, the most tokens.
        vocab_sizes: Ids of each codebook, one number where there is one vocabulary; of a learnt
            text vocabulary, the most.
    """

    layout: Layout
    shape: tuple[int, ...]
    vocab_sizes: tuple[int, ...]


class TokenizerSection(Section, ABC):
    """Base of the sections of tokenizers; each has a ``kind``, its key in TOKENIZERS."""

    layout: ClassVar[Layout]

    @abstractmethod
    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip, from the configuration alone."""

    def check_clips(self, clips: ClipsConfig) -> None:
        """Refuse clips that do not suit these settings.

        Raises:
            ValueError: The message begins with the field.
        """
