"""The section of ``mel_vq``: log-mel spectrogram, VQ over time, and a way back to a waveform."""

from typing import Literal

from pydantic import Field

from nano4m.config.section import Steps, Width
from nano4m.config.tokenizers.form import CHOSEN
from nano4m.config.tokenizers.spectrogram import SpectrogramSection


class MelVQ(SpectrogramSection):
    """Log-mel spectrogram, convolutional VQ over time, and Griffin-Lim back to a waveform."""

    kind: Literal["mel_vq"] = Field("mel_vq", description=CHOSEN)
    vocoder: Literal["griffin_lim", "gan"] = Field(
        "griffin_lim",
        description="Back to a waveform: phase reconstruction, or a network that is trained "
        "against discriminators after the codebooks.",
    )
    vocoder_steps: Steps = Field(1000, description="Training steps of vocoder gan.")
    vocoder_discriminators: Literal["period", "stft", "both"] = Field(
        "period", description="Of vocoder gan: by periods, by spectra (slow on a CPU), or both."
    )
    vocoder_width: Width = Field(128, description="Channels of vocoder gan.")
