"""A section for each kind of tokenizer, with the form of its tokens.

The form of the tokens follows from this section and that of the clips, before anything is fitted.
"""

from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

from pydantic import Field

from nano4m.config.clips import ClipsConfig
from nano4m.config.section import Positive, Section
from nano4m.errors import UserError, nearest
from nano4m.modalities import Layout

CHOSEN = "Kind of tokenizer; nano4m info tokenizers lists them."


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
    grid: Annotated[int, Field(ge=1, le=64)] = Field(4, description="Tokens a side.")
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Codebook size.")
    quantizer: Literal["vq", "fsq"] = Field("vq", description="Learnt codebook (EMA), or FSQ.")
    width: Positive = Field(48, description="Channels of the widest layer.")
    code_dim: Positive = Field(16, description="Width of a code; FSQ ignores it.")
    steps: Positive = Field(500, description="Training steps.")
    batch_size: Positive = Field(64, description="Pictures a step.")
    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="Peak of the one-cycle schedule.")

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        return TokenShape(self.layout, (self.grid, self.grid), (self.vocab,))


class MelVQ(Section):
    """Log-mel spectrogram, convolutional VQ over time, and Griffin-Lim back to a waveform."""

    layout: ClassVar[Layout] = "codebooks"
    kind: Literal["mel_vq"] = Field("mel_vq", description=CHOSEN)
    n_fft: Positive = Field(1024, description="Samples of the Hann window.")
    hop: Positive = Field(256, description="Samples between frames.")
    mels: Positive = Field(64, description="Mel bands.")
    downsample: Literal[1, 2, 4, 8, 16] = Field(4, description="Frames a token.")
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Size of each codebook.")
    codebooks: Annotated[int, Field(ge=1, le=8)] = Field(1, description="Residual codebooks.")
    width: Positive = Field(128, description="Channels.")
    code_dim: Positive = Field(32, description="Width of a code.")
    steps: Positive = Field(500, description="Training steps.")
    batch_size: Positive = Field(64, description="Windows a step.")
    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="Peak of the one-cycle schedule.")
    griffin_lim: Positive = Field(32, description="Iterations of phase reconstruction.")
    augmentations: Positive = Field(
        1,
        description="Tokenised versions of a training sound: 1 is as recorded, each further one is "
        "shifted and scaled in level at random.",
    )
    shift_seconds: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Largest shift of a view."
    )
    gain_db: Annotated[float, Field(ge=0)] = Field(
        6.0, description="Largest change of level of a view."
    )

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        samples = round(clips.window_seconds * clips.sample_rate)
        frames = -(-samples // self.hop)
        shape = (-(-frames // self.downsample), self.codebooks)
        return TokenShape(self.layout, shape, (self.vocab,) * self.codebooks)


class Bpe(Section):
    """Byte-pair encoding learnt on the captions of the train split, word by word, no padding."""

    layout: ClassVar[Layout] = "text"
    kind: Literal["bpe"] = Field("bpe", description=CHOSEN)
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Largest vocabulary.")
    max_length: Positive = Field(16, description="Longest caption in tokens, its end included.")

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        return TokenShape(self.layout, (self.max_length,), (self.vocab,))


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
