"""Tokenizers: media to ids and back. TOKENIZERS lists them; importing this loads no PyTorch."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nano4m.errors import UserError, nearest
from nano4m.storage.arrays import read_weights
from nano4m.storage.damage import DamagedFile, reading
from nano4m.storage.json_files import read_object

if TYPE_CHECKING:
    import torch

    from nano4m.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tokenizer of the registry: its class, and what to know before choosing it.

    Attributes:
        module: Module of the class; importing it may load PyTorch.
        name: Name of the class.
        description: One line.
        licence: Of the weights that it makes or loads.
    """

    module: str
    name: str
    description: str
    licence: str

    def load(self) -> "type[Tokenizer]":
        """Import and return the class."""
        return getattr(importlib.import_module(self.module), self.name)


TOKENIZERS: dict[str, Entry] = {
    "image_vq": Entry(
        module="nano4m.tokenizers.image_vq",
        name="ImageVQTokenizer",
        description="small convolutional VQ or FSQ autoencoder: pictures, depth, normals",
        licence="that of the clips it was fitted on",
    ),
    "mel_vq": Entry(
        module="nano4m.tokenizers.mel_vq",
        name="MelVQTokenizer",
        description="log-mel spectrogram, convolutional VQ over time, Griffin-Lim: sound",
        licence="that of the clips it was fitted on",
    ),
    "wave_vq": Entry(
        module="nano4m.tokenizers.wave_vq",
        name="WaveVQTokenizer",
        description="raw waveform, strided convolutions, residual VQ or FSQ, a decoder: sound",
        licence="that of the clips it was fitted on",
    ),
    "semantic": Entry(
        module="nano4m.tokenizers.semantic",
        name="SemanticTokenizer",
        description="clusters of cepstra or of an encoder, then residual acoustic codes: sound",
        licence="that of the clips it was fitted on",
    ),
    "encodec_24khz": Entry(
        module="nano4m.tokenizers.encodec",
        name="Encodec24Tokenizer",
        description="EnCodec 24 kHz, pretrained: sound",
        licence="card: none; code: MIT; audiocraft's: CC BY-NC 4.0: take as non-commercial",
    ),
    "encodec_48khz": Entry(
        module="nano4m.tokenizers.encodec",
        name="Encodec48Tokenizer",
        description="EnCodec 48 kHz, pretrained, stereo chunks: sound",
        licence="card and code: MIT; audiocraft's: CC BY-NC 4.0: take as non-commercial",
    ),
    "dac": Entry(
        module="nano4m.tokenizers.dac",
        name="DacTokenizer",
        description="Descript Audio Codec, pretrained: sound",
        licence="MIT",
    ),
    "mimi": Entry(
        module="nano4m.tokenizers.mimi",
        name="MimiTokenizer",
        description="Mimi, pretrained, first codebook semantic: sound",
        licence="CC BY 4.0",
    ),
    "xcodec": Entry(
        module="nano4m.tokenizers.xcodec",
        name="XCodecTokenizer",
        description="X-Codec, pretrained, semantic and acoustic together: sound",
        licence="the weights name none (code: MIT)",
    ),
    "speechtokenizer": Entry(
        module="nano4m.tokenizers.speechtokenizer",
        name="SpeechTokTokenizer",
        description="SpeechTokenizer, pretrained, first codebook semantic: speech",
        licence="the weights' card names none (code: Apache 2.0)",
    ),
    "bpe": Entry(
        module="nano4m.tokenizers.bpe",
        name="BpeTokenizer",
        description="byte-pair encoding learnt on the captions of the run",
        licence="that of the captions it was fitted on",
    ),
}


def load_tokenizer(folder: Path, device: "torch.device | str" = "cpu") -> "Tokenizer":
    """Return the tokenizer that ``Tokenizer.save`` wrote, on a device.

    Raises:
        UserError: No tokenizer there, or one of an unknown key.
        DamagedFile: A file cannot be read, or has other content than was written.
    """
    head, weights = folder / "tokenizer.json", folder / "tokenizer.safetensors"
    for file in (head, weights):
        if not file.is_file():
            raise UserError(
                f"no tokenizer in {folder}: {file.name} is missing; "
                f"run: nano4m tokenizers PRESET --out OUT"
            )
    from nano4m.tokenizers.base import fingerprint_of

    entry = read_object(head)
    with reading(head):
        key, settings, expected = entry["key"], dict(entry["settings"]), entry["fingerprint"]
    if key not in TOKENIZERS:
        raise UserError(f"{head}: tokenizer {key!r}; {nearest(str(key), TOKENIZERS)}")
    tensors = read_weights(weights)
    # Hash of the stored settings: one that was renamed or added since changes no fingerprint.
    found = fingerprint_of(key, settings, tensors)
    if found != expected:
        said = f"it was changed: fingerprint {found}, and {head.name} says {expected}"
        raise DamagedFile(weights, said)
    with reading(head):
        tokenizer = TOKENIZERS[key].load().from_folder(folder, settings, tensors)
    tokenizer.fingerprint = found
    return tokenizer.to(device)
