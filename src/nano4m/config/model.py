"""Size and variants of the transformer, explained in docs/ARCHITECTURE.md."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nano4m.config.numbers import Range
from nano4m.config.section import Section, Width


class ModelConfig(Section):
    """Size and variants of the encoder-decoder transformer."""

    encoder_depth: Annotated[int, Range(1, 256)] = Field(3, description="Encoder blocks.")
    decoder_depth: Annotated[int, Range(1, 256)] = Field(3, description="Decoder blocks.")
    dim: Width = Field(192, description="Width.")
    head_dim: Width = Field(32, description="Width of an attention head; divides dim.")
    mlp_ratio: Annotated[float, Range(0, 64, above=True)] = Field(
        4.0, description="Hidden width over dim."
    )
    positions: Literal["sincos1d", "sincos2d", "rope1d", "rope2d"] = Field(
        "sincos2d",
        description="Sinusoidal embeddings added to tokens, or rotations of queries and keys "
        "(RoPE), by index in the modality (1d) or by two coordinates (2d).",
    )
    codebook_order: Literal["interleave", "coarse_first", "delay"] = Field(
        "interleave",
        description="1-D positions of a sound's tokens: all codebooks of a frame, then the next "
        "frame; all frames of a codebook, then the next codebook; or each codebook a frame later "
        "than the one before (MusicGen's delay).",
    )
    mlp: Literal["gelu", "swiglu"] = Field(
        "gelu",
        description="GELU MLP, or SwiGLU with 2/3 of its hidden width (a multiple of 8) for about "
        "as many parameters.",
    )
    qk_norm: bool = Field(False, description="LayerNorm on each head of queries and keys.")
    tables: Literal["modality", "shared"] = Field(
        "modality",
        description="Embedding table and head for each modality, or one shared vocabulary.",
    )
    tied: bool = Field(False, description="Embedding tables are the output heads.")
    logit_soft_cap: Annotated[float, Range(0.01, 1e6, or_zero=True)] = Field(
        0.0, description="Logits are cap * tanh(logits / cap); 0: no cap."
    )
    register_token: bool = Field(
        True,
        description="A learned token that is always input, so that the encoder is never empty.",
    )
    context: Literal["plain", "positioned"] = Field(
        "plain",
        description="Projection between encoder and decoder: without bias, or with bias and with "
        "positions added again.",
    )
    init: Literal["scaled", "normal"] = Field(
        "scaled", description="Matrices by fan-in and tables N(0, 1), or all N(0, 0.02)."
    )
    checkpointing: bool = Field(
        False, description="Activation checkpointing: less memory, more time, the same results."
    )

    @property
    def rotary(self) -> bool:
        """Whether positions are rotations of queries and keys."""
        return self.positions in ("rope1d", "rope2d")

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.dim % self.head_dim:
            raise ValueError(f"dim {self.dim} is not a multiple of head_dim {self.head_dim}")
        if self.dim % 4:
            raise ValueError(f"dim {self.dim} is not a multiple of 4 (two sin-cos coordinates)")
        pairs = {"rope1d": 2, "rope2d": 4}.get(self.positions, 1)
        if int(self.dim * self.mlp_ratio) < 1:
            raise ValueError(
                f"mlp_ratio {self.mlp_ratio} gives the MLP no hidden channel at dim {self.dim}; "
                f"give at least {1 / self.dim:.2g}"
            )
        if self.head_dim % pairs:
            raise ValueError(
                f"head_dim {self.head_dim} is not a multiple of {pairs}, which positions "
                f"{self.positions} needs"
            )
        if self.codebook_order != "interleave" and not self.positions.endswith("1d"):
            raise ValueError(
                f"codebook_order {self.codebook_order} is an order of 1-D positions, and positions "
                f"{self.positions} has frame and codebook; use positions sincos1d or rope1d"
            )
        if self.rotary and self.context == "positioned":
            raise ValueError(
                f"context positioned adds positions, and positions {self.positions} adds none to "
                f"tokens; use context plain, or positions sincos1d or sincos2d"
            )
        return self
