"""EnCodec (Defossez et al. 2022, arXiv:2210.13438) through transformers.

The 48 kHz model is stereo and encodes chunks of a second, each divided by its own level, which is
no part of the ids. A mono clip goes into both channels and comes back as their mean; all chunks are
decoded at one level, that of the train clips (``clips.target_rms_db`` gives all clips one level).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.config.tokenizers.codec import CodecSection, Encodec48
from nano4m.errors import UserError
from nano4m.tokenizers.base import Material
from nano4m.tokenizers.codec import CodecTokenizer
from nano4m.tokenizers.transformers_models import load_model

LEVEL_CLIPS = 64
"""Train clips from which the level of decoded chunks is taken."""


def require_model_type(config: dict[str, Any], wanted: str) -> None:
    """Refuse a ``config.json`` of another network.

    Raises:
        UserError: Names both.
    """
    if config.get("model_type") != wanted:
        raise UserError(f"config.json is of {config.get('model_type')!r}, not of {wanted!r}")


class Encodec24Tokenizer(CodecTokenizer):
    """EnCodec at 24 kHz, mono and causal."""

    key = "encodec_24khz"
    licence = "card: none; code: MIT; audiocraft's: CC BY-NC 4.0: take as non-commercial"

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""
        require_model_type(config, "encodec")
        hop, vocab = 1, config.get("codebook_size", 1024)
        for ratio in config.get("upsampling_ratios", (8, 5, 4, 2)):
            hop *= ratio
        rate, channels = config.get("sampling_rate", 24000), config.get("audio_channels", 1)
        if channels != cls.channels:
            raise UserError(f"weights of {channels} channels, and {cls.key} has {cls.channels}")
        chunks = config.get("chunk_length_s"), config.get("overlap")
        if chunks != cls.chunked():
            raise UserError(
                f"chunks (seconds, overlap) {chunks}, and {cls.key} has {cls.chunked()}"
            )
        bits = (vocab - 1).bit_length() * -(-rate // hop)
        most = max(config.get("target_bandwidths", (24.0,)))
        return rate, hop, vocab, int(1000 * most // bits)

    @classmethod
    def chunked(cls) -> tuple[float | None, float | None]:
        """Return seconds and overlap of the chunks; None where there are none."""
        return None, None

    @classmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder."""
        return load_model("EncodecModel", folder)

    def encoded(self, sound_BCL: Tensor) -> Any:
        """Return what the network says of sounds at a bandwidth with enough codebooks."""
        # Codebooks are residual, so the first ones are the same at any bandwidth.
        quantizer: Any = self.net.quantizer
        enough = [
            bandwidth
            for bandwidth in sorted(self.net.config.target_bandwidths)
            if quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= self.num_codebooks
        ]
        return self.net.encode(sound_BCL, bandwidth=enough[0])

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 1, L)."""
        return self.encoded(sound_BCL).audio_codes[0][:, : self.num_codebooks]

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, L) of codes (B, Q, T)."""
        return self.net.decode(codes_BQT[None], [None]).audio_values

    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks, float32 (Q, V, C)."""
        layers: Any = self.net.quantizer.layers
        return torch.stack([layer.codebook.embed for layer in layers[: self.num_codebooks]])


class Encodec48Tokenizer(Encodec24Tokenizer):
    """EnCodec at 48 kHz: stereo, not causal, chunks of a second at one level."""

    key = "encodec_48khz"
    licence = "card and code: MIT; audiocraft's: CC BY-NC 4.0: take as non-commercial"
    channels = 2
    section: Encodec48

    def __init__(self, samples: int, sample_rate: int, section: CodecSection, found: Any) -> None:
        self.level = torch.ones(1)
        super().__init__(samples, sample_rate, section, found)

    @classmethod
    def chunked(cls) -> tuple[float | None, float | None]:
        """Return seconds and overlap of the chunks."""
        return Encodec48.chunk_seconds, Encodec48.overlap

    def adapt(self, material: Material) -> None:
        """Take the level at which all chunks are decoded: the power mean of train clips."""
        scales = []
        with torch.no_grad():
            for sound in material.train[:LEVEL_CLIPS].float().split(1):
                scales += self.encoded(self._padded(self._to_codec(sound))).audio_scales
        power = torch.cat(scales).square().mean().cpu()
        self.level = power.sqrt().clamp_min(1e-4).reshape(1)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take the level from the tensors of ``state``."""
        self.level = tensors["level"]

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return sizes, hashes of the weights, and the level of decoded chunks."""
        settings, _ = super().state()
        return settings, {"level": self.level}

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 2, L): those of all chunks in a row."""
        found = self.encoded(self._padded(sound_BCL))
        chunks = list(found.audio_codes[:, :, : self.num_codebooks])
        last = chunks[-1].shape[2] - (found.last_frame_pad_length or 0)
        return torch.cat([*chunks[:-1], chunks[-1][:, :, :last]], dim=2)

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 2, L) of codes (B, Q, T)."""
        sizes = [-(-n // self.section.codec_hop) for n in self.section.chunks(self.codec_samples)]
        chunks = list(codes_BQT.split(sizes, dim=2))
        missing = sizes[0] - sizes[-1]
        chunks[-1] = nn.functional.pad(chunks[-1], (0, missing))
        level = self.level.to(codes_BQT.device).expand(len(codes_BQT), 1)
        decoded = self.net.decode(
            torch.stack(chunks), [level] * len(chunks), last_frame_pad_length=missing
        )
        return decoded.audio_values

    def _padded(self, sound_BCL: Tensor) -> Tensor:
        missing = self.section.padded(self.codec_samples) - sound_BCL.shape[2]
        return nn.functional.pad(sound_BCL, (0, missing))
