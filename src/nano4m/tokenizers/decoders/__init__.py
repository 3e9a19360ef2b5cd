"""Decoders of sound tokenizers: latents (B, C, T) to sounds (B, T * hop).

DECODERS lists them by their name in a section. Those that are ``joint`` are trained with the
encoder; any other is fitted afterwards, on latents that do not change any more.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.decoders.conv import build_conv
from nano4m.tokenizers.decoders.istft import build_istft


class DecoderEntry(NamedTuple):
    """A decoder.

    Attributes:
        build: From the section and the sample rate, a module whose ``forward`` takes latents
            (B, code_dim, T) and returns sounds (B, T * hop), not clamped.
        joint: Whether the losses of ``wave_vq`` train it, together with the encoder.
    """

    build: Callable[[WaveVQ, int], nn.Module]
    joint: bool = True


DECODERS: dict[str, DecoderEntry] = {
    "conv": DecoderEntry(build_conv),
    "istft": DecoderEntry(build_istft),
}
