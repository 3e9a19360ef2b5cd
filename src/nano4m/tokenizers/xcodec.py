"""X-Codec (Ye et al. 2024, arXiv:2408.17175) through transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.tokenizers.codec import CodecTokenizer
from nano4m.tokenizers.encodec import require_model_type
from nano4m.tokenizers.transformers_models import load_model


class XCodecTokenizer(CodecTokenizer):
    """X-Codec: DAC's encoder and HuBERT or WavLM, quantised together."""

    key = "xcodec"
    licence = "the weights name none (code: MIT)"

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""
        require_model_type(config, "xcodec")
        hop, acoustic = 1, config.get("acoustic_model_config") or {}
        for ratio in acoustic.get("downsampling_ratios", (8, 5, 4, 2)):
            hop *= ratio
        rate, vocab = config.get("sample_rate", 16000), config.get("codebook_size", 1024)
        bits = (vocab - 1).bit_length() * -(-rate // hop)
        return rate, hop, vocab, int(1000 * max(config.get("target_bandwidths", (4,))) // bits)

    @classmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder."""
        return load_model("XcodecModel", folder)

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 1, L)."""
        quantizer, config = self._parts()
        enough = [
            bandwidth
            for bandwidth in sorted(config.target_bandwidths)
            if quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= self.num_codebooks
        ]
        found = self.net.encode(sound_BCL, bandwidth=enough[0]).audio_codes
        return found[:, : self.num_codebooks]

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, L) of codes (B, Q, T)."""
        return self.net.decode(codes_BQT).audio_values

    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks, float32 (Q, V, C)."""
        quantizer, _ = self._parts()
        layers = quantizer.quantizers[: self.num_codebooks]
        return torch.stack([layer.codebook.embed for layer in layers])

    def _parts(self) -> tuple[Any, Any]:
        return self.net.quantizer, self.net.config
