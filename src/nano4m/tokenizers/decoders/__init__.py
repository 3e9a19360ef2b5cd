"""Decoders of sound tokenizers: latents (B, C, T) to sounds (B, T * hop).

DECODERS lists them by their name in a section. One without ``train`` is trained together with the
encoder; any other afterwards, on latents that do not change any more, in the place of the one that
the encoder was trained with.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from nano4m.config.tokenizers.wave_vq import WaveVQ, istft_fits
from nano4m.tokenizers.decoders.conv import build_conv
from nano4m.tokenizers.decoders.fit import Pairs
from nano4m.tokenizers.decoders.istft import build_istft
from nano4m.tokenizers.decoders.sampled import build_wavenet, build_wavernn, train_sampled


class DecoderEntry(NamedTuple):
    """A decoder.

    Attributes:
        build: From the section and the sample rate, a module whose ``forward`` takes latents
            (B, code_dim, T) and returns sounds (B, T * hop), not clamped.
        train: Trains such a module in place, on pairs of frozen latents and their sounds, with the
            section, the sample rate and a seed; none: the losses of ``wave_vq`` train it.
    """

    build: Callable[[WaveVQ, int], nn.Module]
    train: Callable[[nn.Module, Pairs, WaveVQ, int, int], None] | None = None


DECODERS: dict[str, DecoderEntry] = {
    "conv": DecoderEntry(build_conv),
    "istft": DecoderEntry(build_istft),
    "wavenet": DecoderEntry(build_wavenet, train_sampled),
    "wavernn": DecoderEntry(build_wavernn, train_sampled),
}


def joint_decoder(section: WaveVQ) -> DecoderEntry:
    """Return the decoder that the encoder is trained with: the section's own if it can be."""
    own = DECODERS[section.decoder]
    if own.train is None:
        return own
    return DECODERS["istft" if istft_fits(section.strides) else "conv"]
