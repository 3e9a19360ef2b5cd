"""What the sections of tokenizers of log-mel spectrograms have."""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Steps, Width
from nano4m.config.tokenizers.form import TokenShape, Vocabulary
from nano4m.config.tokenizers.sound import SoundSection


def empty_bands(sample_rate: int, n_fft: int, mels: int) -> int:
    """Return how many triangular filters of ``media.mel.mel_filters`` hold no bin."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (mels + 1) / 2595) - 1) for i in range(mels + 2)]
    spacing = sample_rate / 2 / (n_fft // 2)
    return sum(
        (math.floor(low / spacing) + 1) * spacing >= high
        for low, high in zip(edges, edges[2:], strict=False)
    )


class SpectrogramSection(SoundSection):
    """Base of the sections of tokenizers that go through a log-mel spectrogram."""

    length_field: ClassVar[str] = "hop"
    length_advice: ClassVar[str] = "a larger hop or downsample, or fewer codebooks"
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

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        samples = round(clips.window_seconds * clips.sample_rate)
        frames = -(-samples // self.hop)
        shape = (-(-frames // self.downsample), self.codebooks)
        return TokenShape(self.layout, shape, (self.vocab,) * self.codebooks)

    @model_validator(mode="after")
    def _frames_overlap(self) -> Self:
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
        super().check_clips(clips)
        empty = empty_bands(clips.sample_rate, self.n_fft, self.mels)
        if empty:
            raise ValueError(
                f"mels {self.mels}: {empty} bands hold no bin of a spectrum with n_fft "
                f"{self.n_fft} at {clips.sample_rate} Hz; take fewer mels or a larger n_fft"
            )
