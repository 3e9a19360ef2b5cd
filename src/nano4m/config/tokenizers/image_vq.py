"""The section of ``image_vq``: planes on a square grid of tokens."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Steps, Width
from nano4m.config.tokenizers.form import (
    CHOSEN,
    FSQ_LEVELS,
    TokenizerSection,
    TokenShape,
    Vocabulary,
)
from nano4m.modalities import Layout

MOST_GRID = 64


class ImageVQ(TokenizerSection):
    """Small convolutional VQ or FSQ autoencoder for pictures, depth and normals."""

    layout: ClassVar[Layout] = "grid"
    kind: Literal["image_vq"] = Field("image_vq", description=CHOSEN)
    grid: Annotated[int, Range(1, MOST_GRID)] = Field(4, description="Tokens a side.")
    vocab: Vocabulary = Field(512, description="Codebook size.")
    quantizer: Literal["vq", "fsq"] = Field("vq", description="Learnt codebook (EMA), or FSQ.")
    width: Width = Field(48, description="Channels of the widest layer.")
    code_dim: Width = Field(16, description="Width of a code; FSQ ignores it.")
    steps: Steps = Field(500, description="Training steps.")
    batch_size: BatchSize = Field(64, description="Pictures a step.")
    lr: LearningRate = Field(3e-3, description="Peak of the one-cycle schedule.")

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        return TokenShape(self.layout, (self.grid, self.grid), (self.vocab,))

    def check_clips(self, clips: ClipsConfig) -> None:
        """Refuse pictures that do not suit the grid.

        Raises:
            ValueError: The message begins with the field.
        """
        size = clips.picture_size
        halvings = range(1, size.bit_length())
        allowed = [size >> n for n in halvings if not size % (1 << n) and size >> n <= MOST_GRID]
        if self.grid not in allowed:
            raise ValueError(
                f"grid {self.grid} does not suit clips.picture_size {size}: their ratio must be a "
                f"power of two from 2 on; allowed grids: {sorted(allowed)}"
            )
        if self.quantizer == "fsq" and self.vocab not in FSQ_LEVELS:
            raise ValueError(
                f"vocab {self.vocab}: FSQ has no levels for it; allowed: {sorted(FSQ_LEVELS)}"
            )
