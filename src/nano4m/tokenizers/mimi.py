"""Mimi (Defossez et al. 2024, arXiv:2410.00037) through transformers."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nano4m.tokenizers.codec import CodecTokenizer
from nano4m.tokenizers.encodec import require_model_type
from nano4m.tokenizers.transformers_models import load_model


class MimiTokenizer(CodecTokenizer):
    """Mimi: a causal codec with transformers; its first codebook is semantic, not residual."""

    key = "mimi"
    licence = "CC BY 4.0"
    may_copy = True

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""
        require_model_type(config, "mimi")
        rate, hop = config.get("sampling_rate", 24000), 2
        for ratio in config.get("upsampling_ratios") or (8, 6, 5, 4):
            hop *= ratio
        return rate, hop, config.get("codebook_size", 2048), config.get("num_quantizers", 32)

    @classmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder."""
        return load_model("MimiModel", folder)

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 1, L)."""
        return self.net.encode(sound_BCL, num_quantizers=self.num_codebooks).audio_codes

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, L) of codes (B, Q, T)."""
        return self.net.decode(codes_BQT).audio_values

    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks, float32 (Q, V, C)."""
        layers = self._codebooks()[: self.num_codebooks]
        return torch.stack(
            [b.embed_sum / b.cluster_usage.clamp_min(b.epsilon)[:, None] for b in layers]
        )

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return this tokenizer."""
        for book in self._codebooks():
            # The library keeps the quotient of two buffers, which does not move with them.
            book._embed = None
        return super().to(device)

    def _codebooks(self) -> list[Any]:
        quantizer = self.net.quantizer
        parts = (
            quantizer.semantic_residual_vector_quantizer,
            quantizer.acoustic_residual_vector_quantizer,
        )
        return [layer.codebook for part in parts for layer in part.layers]
