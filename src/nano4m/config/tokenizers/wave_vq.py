"""The section of ``wave_vq``: raw waveform, strided convolutions, VQ, and a decoder."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Share, Steps, Width
from nano4m.config.tokenizers.form import CHOSEN, FSQ_LEVELS, TokenShape, Vocabulary
from nano4m.config.tokenizers.sound import SoundSection

Stride = Annotated[int, Range(1, 4096)]
Weight = Annotated[float, Range(0, 1000)]


def istft_fits(strides: tuple[int, ...]) -> bool:
    """Return whether the decoder ``istft`` can make a spectrum every ``strides[0]`` samples."""
    return strides[0] >= 8 and strides[0] % 2 == 0


class WaveVQ(SoundSection):
    """Strided 1-D convolutions over the raw waveform, a residual quantizer, and a decoder."""

    length_field: ClassVar[str] = "strides"
    length_advice: ClassVar[str] = "larger strides, or fewer codebooks"
    kind: Literal["wave_vq"] = Field("wave_vq", description=CHOSEN)
    strides: tuple[Stride, ...] = Field(
        (256, 4),
        min_length=1,
        max_length=12,
        description="Of the encoder's layers, from the waveform on; a token is as many samples as "
        "their product.",
    )
    frontend: Literal["filters", "conv"] = Field(
        "filters",
        description="First layer: filters that begin as a mel filter bank and give log levels, or "
        "a convolution.",
    )
    decoder: Literal["istft", "conv", "wavenet", "wavernn"] = Field(
        "istft",
        description="A spectrum a frame and its inverse STFT, or transposed convolutions; or one "
        "that draws sample by sample (slow) and is fitted afterwards on the finished latents.",
    )
    decoder_layers: Annotated[int, Range(1, 64)] = Field(
        16, description="Of wavenet: layers in two stacks, an even number."
    )
    decoder_width: Width = Field(
        48, description="Of wavenet: channels; wavernn has four times as many hidden units."
    )
    decoder_steps: Steps = Field(1500, description="Training steps of wavenet and wavernn.")
    decoder_lr: LearningRate = Field(3e-3, description="Peak learning rate of these steps.")
    temperature: Annotated[float, Range(0, 2)] = Field(
        1.0, description="Factor of the noise that wavenet and wavernn draw."
    )
    quantizer: Literal["vq", "fsq"] = Field("vq", description="Learnt codebooks (EMA), or FSQ.")
    vocab: Vocabulary = Field(512, description="Size of each codebook.")
    codebooks: Annotated[int, Range(1, 32)] = Field(1, description="Residual codebooks.")
    width: Width = Field(128, description="Channels.")
    code_dim: Width = Field(32, description="Width of a code.")
    layers: Annotated[int, Range(0, 32)] = Field(
        2, description="Residual blocks at the rate of tokens, of dilations 1, 3, 9, 1, ..."
    )
    frame_layers: Annotated[int, Range(0, 32)] = Field(
        2, description="Residual blocks after each earlier stride."
    )
    steps: Steps = Field(2000, description="Training steps.")
    batch_size: BatchSize = Field(16, description="Crops a step.")
    crop_seconds: Annotated[float, Range(0.01, 30)] = Field(
        0.43, description="Length of a training crop, drawn at random from a sound."
    )
    lr: LearningRate = Field(2e-3, description="Peak of the learning rate.")
    schedule: Literal["cosine", "warm_restarts"] = Field(
        "cosine", description="Of the learning rate, after a warm-up."
    )
    restart_share: Share = Field(
        1 / 6, description="Of warm restarts: the share of the steps from one to the next (T0)."
    )
    clip_norm: Annotated[float | None, Range(0, 1000, above=True)] = Field(
        1.0, description="Largest norm of a step's gradient; none: not clipped."
    )
    ema: Annotated[float, Range(0, 1, below=True)] = Field(
        0.0, description="Decay of the average of the weights that is kept; 0: the last weights."
    )
    l1_weight: Weight = Field(0.1, description="Weight of the waveform's L1 distance.")
    stft_weight: Weight = Field(1.0, description="Weight of the multi-resolution STFT distance.")
    mel_weight: Weight = Field(1.0, description="Weight of the log-mel L1 distance.")
    level_weight: Weight = Field(
        1.0,
        description="Of decoder istft: weight of the distance of its levels, before phases play a "
        "role.",
    )
    discriminators: Literal["none", "period", "stft", "both"] = Field(
        "none", description="Adversarial training: by periods, by spectra, or both."
    )
    adversarial_loss: Literal["hinge", "least_squares"] = Field(
        "hinge", description="Of discriminators and decoder."
    )
    adversarial_weight: Weight = Field(0.1, description="Weight of the adversarial loss.")
    feature_weight: Weight = Field(0.2, description="Weight of the discriminators' feature loss.")
    adversarial_start: Share = Field(
        0.5, description="Share of the steps after which discriminators take part."
    )

    @property
    def hop(self) -> int:
        """Samples of a token."""
        return math.prod(self.strides)

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        samples = round(clips.window_seconds * clips.sample_rate)
        shape = (-(-samples // self.hop), self.codebooks)
        return TokenShape(self.layout, shape, (self.vocab,) * self.codebooks)

    @model_validator(mode="after")
    def _layers_fit(self) -> "WaveVQ":
        if self.decoder == "wavenet" and self.decoder_layers % 2:
            raise ValueError(
                f"decoder_layers {self.decoder_layers}: wavenet has two stacks; give an even number"
            )
        if self.decoder == "istft" and not istft_fits(self.strides):
            raise ValueError(
                f"decoder istft makes a spectrum every strides[0] = {self.strides[0]} samples, "
                "which must be even and at least 8; take decoder conv, or a larger first stride"
            )
        if self.frontend == "filters" and self.strides[0] < 8:
            raise ValueError(
                f"frontend filters is as long as 4 * strides[0] = {4 * self.strides[0]} samples, "
                "at least 32; take frontend conv, or a larger first stride"
            )
        if self.quantizer == "fsq" and self.vocab not in FSQ_LEVELS:
            raise ValueError(
                f"vocab {self.vocab}: FSQ has no levels for it; allowed: {sorted(FSQ_LEVELS)}"
            )
        return self
