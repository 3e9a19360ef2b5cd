"""SpeechTokenizer (Zhang et al. 2024, arXiv:2308.16692) from its published checkpoint.

A repository or folder has ``config.json`` and ``SpeechTokenizer.pt``, a dictionary of tensors in
PyTorch's format; nothing else in it is run.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.errors import UserError
from nano4m.storage.json_files import read_object
from nano4m.tokenizers.codec import CodecTokenizer
from nano4m.tokenizers.seanet import SpeechTokenizerNet, published_names


class SpeechTokTokenizer(CodecTokenizer):
    """SpeechTokenizer: one SEANet, whose first codebook was trained towards HuBERT."""

    key = "speechtokenizer"
    licence = "the weights' card names none (code: Apache 2.0)"
    files = ("config.json", "SpeechTokenizer.pt")
    subfolder = "speechtokenizer_hubert_avg"
    package = ""

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""
        needed = {
            "sample_rate", "strides", "codebook_size", "n_q", "n_filters", "dimension",
            "lstm_layers", "bidirectional", "n_residual_layers", "residual_kernel_size",
            "dilation_base", "activation",
        }  # fmt: skip
        if missing := sorted(needed - config.keys()):
            raise UserError(f"config.json is none of SpeechTokenizer: it lacks {missing}")
        if config["activation"] != "ELU":
            raise UserError(f"activation {config['activation']!r}: only ELU is read")
        hop = math.prod(config["strides"])
        return config["sample_rate"], hop, config["codebook_size"], config["n_q"]

    @classmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder."""
        path = folder / cls.files[1]
        net = SpeechTokenizerNet(read_object(folder / "config.json"))
        try:
            published = torch.load(path, map_location="cpu", weights_only=True)
            net.load_state_dict(published_names(published))
        except (RuntimeError, AttributeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"{path}: no checkpoint of SpeechTokenizer ({first[0]})") from error
        return net

    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T), of sounds (B, 1, L)."""
        return self.net.encode(sound_BCL, self.num_codebooks)

    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, L) of codes (B, Q, T)."""
        return self.net.decode(codes_BQT)

    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks, float32 (Q, V, C)."""
        return torch.stack([book.embed for book in self.net.codebooks[: self.num_codebooks]])
