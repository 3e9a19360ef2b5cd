"""The section of ``semantic``: clusters of an encoder's frames, then residual acoustic codes."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Steps, Width
from nano4m.config.tokenizers.form import CHOSEN, TokenShape, Vocabulary
from nano4m.config.tokenizers.mel_vq import empty_bands
from nano4m.config.tokenizers.sound import SoundSection


class Semantic(SoundSection):
    """Clusters of the frames of an audio encoder, and residual codes of the log-mel after them."""

    length_field: ClassVar[str] = "hop"
    length_advice: ClassVar[str] = "a larger hop or downsample, or fewer codebooks"
    kind: Literal["semantic"] = Field("semantic", description=CHOSEN)
    n_fft: Annotated[int, Range(4, 65536)] = Field(1024, description="Samples of the Hann window.")
    hop: Annotated[int, Range(2, 32768)] = Field(256, description="Samples between frames.")
    mels: Annotated[int, Range(1, 1024)] = Field(64, description="Mel bands.")
    downsample: Literal[1, 2, 4, 8, 16] = Field(4, description="Frames a token.")
    vocab: Vocabulary = Field(512, description="Clusters, and size of each acoustic codebook.")
    codebooks: Annotated[int, Range(1, 8)] = Field(
        2, description="Levels: the first is semantic, the others residual acoustic codes."
    )
    encoder: str = Field(
        "",
        description="Folder, or repository of the Hugging Face Hub, of an audio encoder of "
        "transformers whose frames are clustered; empty: cepstra, or one trained on the clips.",
    )
    encoder_revision: str = Field("main", description="Branch, tag or commit of the repository.")
    encoder_width: Width = Field(96, description="Channels of the trained encoder.")
    encoder_layers: Annotated[int, Range(1, 24)] = Field(3, description="Its blocks.")
    encoder_steps: Steps = Field(300, description="Training steps of each of its rounds.")
    rounds: Annotated[int, Range(0, 8)] = Field(
        0,
        description="Times that an encoder is trained to predict the clusters of masked frames and "
        "its frames are clustered anew (HuBERT); 0: cepstra are clustered.",
    )
    layer: Annotated[int, Range(-48, 48)] = Field(
        -1, description="Layer that is clustered: 0 is its input, -1 the last."
    )
    width: Width = Field(128, description="Channels of the acoustic encoder and the decoder.")
    code_dim: Width = Field(32, description="Width of a code.")
    steps: Steps = Field(500, description="Training steps of acoustic codes and decoder.")
    batch_size: BatchSize = Field(64, description="Windows a step.")
    lr: LearningRate = Field(3e-3, description="Peak of the one-cycle schedule.")
    griffin_lim: Annotated[int, Range(1, 10_000)] = Field(
        32, description="Iterations of phase reconstruction."
    )

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        samples = round(clips.window_seconds * clips.sample_rate)
        frames = -(-samples // self.hop)
        shape = (-(-frames // self.downsample), self.codebooks)
        return TokenShape(self.layout, shape, (self.vocab,) * self.codebooks)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Semantic":
        if self.hop % 2 or self.n_fft % (2 * self.hop):
            raise ValueError(
                f"n_fft {self.n_fft} must be a multiple of 2 * hop, and hop {self.hop} even"
            )
        most = self.encoder_layers
        if not self.encoder and not -most - 1 <= self.layer <= most:
            raise ValueError(
                f"layer {self.layer} is not one of an encoder with {most} blocks: {-most - 1} to "
                f"{most}; 0 is its input, -1 the last"
            )
        return self

    def check_clips(self, clips: ClipsConfig) -> None:
        """Refuse sounds that are too short, too long or too coarse for these settings.

        Raises:
            ValueError: The message begins with the field.
        """
        super().check_clips(clips)
        empty = empty_bands(clips.sample_rate, self.n_fft, self.mels)
        if empty:
            raise ValueError(
                f"mels {self.mels}: {empty} bands hold no bin of a spectrum with n_fft "
                f"{self.n_fft} at {clips.sample_rate} Hz; take fewer mels or a larger n_fft"
            )
