"""The section of ``bpe``: captions, learnt word by word."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.tokenizers.form import CHOSEN, TokenizerSection, TokenShape, Vocabulary
from nano4m.modalities import Layout


class Bpe(TokenizerSection):
    """Byte-pair encoding learnt on the captions of the train split, word by word, no padding."""

    layout: ClassVar[Layout] = "text"
    kind: Literal["bpe"] = Field("bpe", description=CHOSEN)
    vocab: Vocabulary = Field(512, description="Largest vocabulary.")
    max_length: Annotated[int, Range(1, 4096)] = Field(
        16, description="Longest caption in tokens, its end included."
    )
    too_long: Literal["cut", "leave_out", "refuse"] = Field(
        "cut",
        description="What becomes of a longer one: cut at a word; leave_out: its clip is kept "
        "without it; refuse: nothing is fitted.",
    )

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        return TokenShape(self.layout, (self.max_length,), (self.vocab,))
