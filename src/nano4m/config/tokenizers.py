"""A section for each kind of tokenizer, with the form of its tokens.

The form of the tokens follows from this section and that of the clips, before anything is fitted.
"""

import math
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field, model_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Section, Steps, Width
from nano4m.errors import UserError, nearest
from nano4m.modalities import Layout

CHOSEN = "Kind of tokenizer; nano4m info tokenizers lists them."


FSQ_LEVELS: dict[int, tuple[int, ...]] = {
    16: (4, 4), 64: (8, 8), 128: (8, 4, 4), 240: (8, 6, 5), 256: (8, 8, 4), 512: (8, 8, 8),
    1000: (8, 5, 5, 5), 1024: (8, 8, 4, 4), 2048: (8, 8, 8, 4), 4096: (8, 8, 8, 8),
    15360: (8, 8, 8, 6, 5), 16384: (8, 8, 8, 8, 4), 64000: (8, 8, 8, 5, 5, 5),
}  # fmt: skip
"""Vocabulary size of FSQ -> levels of each coordinate."""

MOST_GRID = 64
MOST_TOKENS = 16384
"""Most tokens of a sound, beyond which a step fits no memory."""

Vocabulary = Annotated[int, Range(2, 65536)]


def empty_bands(sample_rate: int, n_fft: int, mels: int) -> int:
    """Return how many triangular filters of ``media.mel.mel_filters`` hold no bin."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (mels + 1) / 2595) - 1) for i in range(mels + 2)]
    spacing = sample_rate / 2 / (n_fft // 2)
    return sum(
        (math.floor(low / spacing) + 1) * spacing >= high
        for low, high in zip(edges, edges[2:], strict=False)
    )


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


class ImageVQ(Section):
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


class MelVQ(Section):
    """Log-mel spectrogram, convolutional VQ over time, and Griffin-Lim back to a waveform."""

    layout: ClassVar[Layout] = "codebooks"
    kind: Literal["mel_vq"] = Field("mel_vq", description=CHOSEN)
    n_fft: Annotated[int, Range(4, 65536)] = Field(1024, description="Samples of the Hann window.")
    hop: Annotated[int, Range(2, 32768)] = Field(256, description="Samples between frames.")
    mels: Annotated[int, Range(1, 1024)] = Field(64, description="Mel bands.")
    downsample: Literal[1, 2, 4, 8, 16] = Field(4, description="Frames a token.")
    vocab: Vocabulary = Field(512, description="Size of each codebook.")
    codebooks: Annotated[int, Range(1, 8)] = Field(1, description="Residual codebooks.")
    width: Width = Field(128, description="Channels.")
    code_dim: Width = Field(32, description="Width of a code.")
    steps: Steps = Field(500, description="Training steps.")
    batch_size: BatchSize = Field(64, description="Windows a step.")
    lr: LearningRate = Field(3e-3, description="Peak of the one-cycle schedule.")
    griffin_lim: Annotated[int, Range(1, 10_000)] = Field(
        32, description="Iterations of phase reconstruction."
    )
    augmentations: Annotated[int, Range(1, 1024)] = Field(
        1,
        description="Tokenised versions of a training sound: 1 is as recorded, each further one is "
        "shifted and scaled in level at random.",
    )
    shift_seconds: Annotated[float, Range(0, 30)] = Field(
        0.1, description="Largest shift of a view."
    )
    gain_db: Annotated[float, Range(0, 60)] = Field(
        6.0, description="Largest change of level of a view."
    )

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        samples = round(clips.window_seconds * clips.sample_rate)
        frames = -(-samples // self.hop)
        shape = (-(-frames // self.downsample), self.codebooks)
        return TokenShape(self.layout, shape, (self.vocab,) * self.codebooks)

    @model_validator(mode="after")
    def _frames_overlap(self) -> "MelVQ":
        if self.hop % 2 or self.n_fft % (2 * self.hop):
            raise ValueError(
                f"n_fft {self.n_fft} must be a multiple of 2 * hop, and hop {self.hop} even"
            )
        return self

    def check_clips(self, clips: ClipsConfig) -> None:
        """Refuse sounds that are too short, too long or too coarse for these settings.

        Raises:
            ValueError: The message begins with the field.
        """
        if self.shift_seconds >= clips.window_seconds:
            raise ValueError(
                f"shift_seconds {self.shift_seconds} moves a view out of its window; it must be "
                f"below clips.window_seconds {clips.window_seconds}"
            )
        tokens, books = self.token_shape(clips).shape
        if tokens * books > MOST_TOKENS:
            raise ValueError(
                f"hop {self.hop} makes {tokens * books} tokens of a window of "
                f"{clips.window_seconds:g} s, at most {MOST_TOKENS}; take a larger hop or "
                "downsample, or fewer codebooks"
            )
        empty = empty_bands(clips.sample_rate, self.n_fft, self.mels)
        if empty:
            raise ValueError(
                f"mels {self.mels}: {empty} bands hold no bin of a spectrum with n_fft "
                f"{self.n_fft} at {clips.sample_rate} Hz; take fewer mels or a larger n_fft"
            )


class Bpe(Section):
    """Byte-pair encoding learnt on the captions of the train split, word by word, no padding."""

    layout: ClassVar[Layout] = "text"
    kind: Literal["bpe"] = Field("bpe", description=CHOSEN)
    vocab: Vocabulary = Field(512, description="Largest vocabulary.")
    max_length: Annotated[int, Range(1, 4096)] = Field(
        16, description="Longest caption in tokens, its end included."
    )

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        return TokenShape(self.layout, (self.max_length,), (self.vocab,))

    def check_clips(self, clips: ClipsConfig) -> None:
        """Captions suit clips of any form."""


TokenizerConfig = Annotated[ImageVQ | MelVQ | Bpe, Field(discriminator="kind")]

SECTIONS: dict[str, type[ImageVQ] | type[MelVQ] | type[Bpe]] = {
    section.model_fields["kind"].default: section
    for section in get_args(get_args(TokenizerConfig)[0])
}
"""Kind -> its section."""


def of_kind(name: str, kind: str, before: TokenizerConfig) -> TokenizerConfig:
    """Return the section of another kind for the modality ``name``.

    Settings that both kinds have are those of ``before``, the others the new kind's defaults.

    Raises:
        UserError: No such kind, or one whose tokens have another layout.
    """
    fitting = [k for k, section in SECTIONS.items() if section.layout == before.layout]
    if kind not in fitting:
        raise UserError(
            f"--tokenizers.{name}.kind {kind}: {name} has tokens of the layout {before.layout!r}; "
            f"{nearest(kind, fitting)}"
        )
    section = SECTIONS[kind]
    shared = section.model_fields.keys() & type(before).model_fields.keys() - {"kind"}
    if section is type(before):
        return before
    return section(**{field: getattr(before, field) for field in shared})
