"""The sections of pretrained codecs: which weights, how many of their codebooks.

The form of the tokens follows from rate, hop and vocabulary, whose defaults are those of the
published weights; other weights of the same kind have others, which are checked before any work.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.numbers import Range
from nano4m.config.tokenizers.form import CHOSEN, TokenShape, Vocabulary
from nano4m.config.tokenizers.sound import SoundSection

Codebooks = Annotated[int, Range(1, 32)]
Rate = Annotated[int, Range(1000, 192_000)]
Hop = Annotated[int, Range(1, 65536)]

RATE = "Sample rate of the codec in Hz; clips of another rate are resampled to it and back."
HOP = "Samples of the codec a frame of tokens."
VOCAB = "Ids of each codebook of the codec."
BOOKS = "Residual codebooks that are used, the first ones."


class CodecSection(SoundSection):
    """Base of the sections of pretrained codecs."""

    weights: str
    revision: str = Field(
        "main", description="Branch, tag or commit of a repository; the commit found is stored."
    )
    copy_weights: bool = Field(
        False,
        description="Copy the weights into the run, where their licence lets one; otherwise the "
        "run needs the same weights wherever it is used.",
    )
    codebooks: Codebooks
    codec_rate: Rate
    codec_hop: Hop
    codec_vocab: Vocabulary

    @field_validator("weights")
    @classmethod
    def _is_named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must be a folder, or a repository such as facebook/encodec_24khz")
        return value

    def samples(self, samples: int, sample_rate: int) -> int:
        """Return the samples of a sound at the codec's rate."""
        return -(-samples * self.codec_rate // sample_rate)

    def frames(self, samples: int) -> int:
        """Return the frames of tokens of a sound of so many samples at the codec's rate."""
        return math.ceil(samples / self.codec_hop)

    def token_shape(self, clips: ClipsConfig) -> TokenShape:
        """Return the form of the tokens of a clip."""
        own = round(clips.window_seconds * clips.sample_rate)
        shape = (self.frames(self.samples(own, clips.sample_rate)), self.codebooks)
        return TokenShape(self.layout, shape, (self.codec_vocab,) * self.codebooks)


def _weights(published: str) -> str:
    field: str = Field(
        published, description="Folder of the weights, or a repository of the Hugging Face Hub."
    )
    return field


class Encodec24(CodecSection):
    """EnCodec at 24 kHz, mono; two codebooks are its 1.5 kbit/s."""

    kind: Literal["encodec_24khz"] = Field("encodec_24khz", description=CHOSEN)
    weights: str = _weights("facebook/encodec_24khz")
    codebooks: Codebooks = Field(2, description=BOOKS)
    codec_rate: Rate = Field(24000, description=RATE)
    codec_hop: Hop = Field(320, description=HOP)
    codec_vocab: Vocabulary = Field(1024, description=VOCAB)


class Encodec48(CodecSection):
    """EnCodec at 48 kHz, stereo, in normalised chunks of a second; four codebooks are 6 kbit/s."""

    chunk_seconds: ClassVar[float] = 1.0
    overlap: ClassVar[float] = 0.01
    """Chunks of the published weights, and how much of one the next one repeats."""

    kind: Literal["encodec_48khz"] = Field("encodec_48khz", description=CHOSEN)
    weights: str = _weights("facebook/encodec_48khz")
    codebooks: Codebooks = Field(4, description=BOOKS)
    codec_rate: Rate = Field(48000, description=RATE)
    codec_hop: Hop = Field(320, description=HOP)
    codec_vocab: Vocabulary = Field(1024, description=VOCAB)

    def chunks(self, samples: int) -> list[int]:
        """Return the samples of each chunk of a sound; each but the last is whole."""
        whole = int(self.chunk_seconds * self.codec_rate)
        stride = max(1, int((1 - self.overlap) * whole))
        samples = self.padded(samples)
        return [min(whole, samples - start) for start in range(0, samples, stride)]

    def padded(self, samples: int) -> int:
        """Return the samples that are encoded: whole frames, and whole chunks but for the last."""
        samples += -samples % self.codec_hop
        whole = int(self.chunk_seconds * self.codec_rate)
        stride = max(1, int((1 - self.overlap) * whole))
        rest = samples % stride
        return samples + (whole - stride - rest) * (samples > stride and 0 < rest < whole - stride)

    def frames(self, samples: int) -> int:
        """Return the frames of tokens of a sound of so many samples at the codec's rate."""
        return sum(math.ceil(n / self.codec_hop) for n in self.chunks(samples))


class Dac(CodecSection):
    """Descript Audio Codec; 16 kHz (12 codebooks), 24 kHz (32) and 44.1 kHz (9, hop 512)."""

    kind: Literal["dac"] = Field("dac", description=CHOSEN)
    weights: str = _weights("descript/dac_24khz")
    codebooks: Codebooks = Field(2, description=BOOKS)
    codec_rate: Rate = Field(24000, description=RATE)
    codec_hop: Hop = Field(320, description=HOP)
    codec_vocab: Vocabulary = Field(1024, description=VOCAB)


class Mimi(CodecSection):
    """Mimi at 24 kHz: 12.5 frames a second, the first codebook distilled from WavLM."""

    kind: Literal["mimi"] = Field("mimi", description=CHOSEN)
    weights: str = _weights("kyutai/mimi")
    codebooks: Codebooks = Field(8, description=BOOKS)
    codec_rate: Rate = Field(24000, description=RATE)
    codec_hop: Hop = Field(1920, description=HOP)
    codec_vocab: Vocabulary = Field(2048, description=VOCAB)


class XCodec(CodecSection):
    """X-Codec at 16 kHz: features of HuBERT and of an acoustic encoder in one quantiser."""

    kind: Literal["xcodec"] = Field("xcodec", description=CHOSEN)
    weights: str = _weights("hf-audio/xcodec-hubert-general-balanced")
    codebooks: Codebooks = Field(2, description=BOOKS)
    codec_rate: Rate = Field(16000, description=RATE)
    codec_hop: Hop = Field(320, description=HOP)
    codec_vocab: Vocabulary = Field(1024, description=VOCAB)


class SpeechTok(CodecSection):
    """SpeechTokenizer at 16 kHz: speech, the first codebook distilled from HuBERT."""

    kind: Literal["speechtokenizer"] = Field("speechtokenizer", description=CHOSEN)
    weights: str = _weights("fnlp/SpeechTokenizer")
    codebooks: Codebooks = Field(2, description=BOOKS)
    codec_rate: Rate = Field(16000, description=RATE)
    codec_hop: Hop = Field(320, description=HOP)
    codec_vocab: Vocabulary = Field(1024, description=VOCAB)
