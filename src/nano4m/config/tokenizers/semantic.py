"""The section of ``semantic``: clusters of an encoder's frames, then residual acoustic codes."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nano4m.config.numbers import Range
from nano4m.config.section import Steps, Width
from nano4m.config.tokenizers.form import CHOSEN, Vocabulary
from nano4m.config.tokenizers.spectrogram import SpectrogramSection


class Semantic(SpectrogramSection):
    """Clusters of the frames of an audio encoder, and residual codes of the log-mel after them."""

    kind: Literal["semantic"] = Field("semantic", description=CHOSEN)
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
    steps: Steps = Field(500, description="Training steps of acoustic codes and decoder.")

    @model_validator(mode="after")
    def _layer_is_there(self) -> "Semantic":
        most = self.encoder_layers
        if not self.encoder and not -most - 1 <= self.layer <= most:
            raise ValueError(
                f"layer {self.layer} is not one of an encoder with {most} blocks: {-most - 1} to "
                f"{most}; 0 is its input, -1 the last"
            )
        return self
