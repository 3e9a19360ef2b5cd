"""Descript Audio Codec (Kumar et al. 2023, arXiv:2306.06546) through transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.tokenizers.codec import CodecTokenizer
from nano4m.tokenizers.encodec import require_model_type
from nano4m.tokenizers.transformers_models import load_model


class DacTokenizer(CodecTokenizer):
    """DAC: a convolutional autoencoder with residual codebooks of eight dimensions."""

    key = "dac"
    licence = "MIT"
    may_copy = True

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""
        require_model_type(config, "dac")
        hop = 1
        for ratio in config.get("downsampling_ratios", (2, 4, 8, 8)):
            hop *= ratio
        rate, vocab = config.get("sampling_rate", 16000), config.get("codebook_size", 1024)
        return rate, hop, vocab, config.get("n_codebooks", 9)

    @classmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder."""
        return load_model("DacModel", folder)

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 1, L)."""
        return self.net.encode(sound_BCL, n_quantizers=self.num_codebooks).audio_codes

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, L) of codes; an odd ratio makes them some samples shorter."""
        return self.net.decode(audio_codes=codes_BQT).audio_values[:, None]

    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks as they are added up, float32 (Q, V, C)."""
        quantizers: Any = self.net.quantizer.quantizers
        return torch.stack(
            [q.out_proj(q.codebook.weight.T[None])[0].T for q in quantizers[: self.num_codebooks]]
        )
