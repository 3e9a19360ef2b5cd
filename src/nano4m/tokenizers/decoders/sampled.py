"""Autoregressive decoders as decoders of ``wave_vq``: how they are built, fitted and run.

Legend: B batch, C channels of the latents, T tokens.
"""

from torch import Tensor, nn

from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.tokenizers.decoders.autoregressive import Autoregressive
from nano4m.tokenizers.decoders.fit import Pairs, fit_autoregressive
from nano4m.tokenizers.decoders.wavenet import WaveNet
from nano4m.tokenizers.decoders.wavernn import WaveRNN


class Sampled(nn.Module):
    """Latents (B, C, T) to sounds (B, T * hop), drawn with one seed, so always the same."""

    def __init__(self, net: Autoregressive, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, latents_BCT: Tensor) -> Tensor:
        """Return sounds of latents."""
        return self.net.generate(latents_BCT, temperature=self.temperature)


def build_wavenet(section: WaveVQ, sample_rate: int) -> nn.Module:
    """Return an untrained WaveNet of these settings."""
    del sample_rate
    net = WaveNet(
        section.code_dim, section.hop, layers=section.decoder_layers, width=section.decoder_width
    )
    return Sampled(net, section.temperature)


def build_wavernn(section: WaveVQ, sample_rate: int) -> nn.Module:
    """Return an untrained WaveRNN of these settings."""
    del sample_rate
    width = section.decoder_width
    net = WaveRNN(section.code_dim, section.hop, width=4 * width, condition_width=width)
    return Sampled(net, section.temperature)


def train_sampled(
    decoder: nn.Module, pairs: Pairs, section: WaveVQ, sample_rate: int, seed: int
) -> None:
    """Fit a decoder that ``build_wavenet`` or ``build_wavernn`` made, in place.

    Args:
        decoder: On the device where it is trained.
        pairs: Draws latents (B, C, T) and their sounds (B, T * hop) with a CPU generator.
        section: ``decoder_steps``, ``decoder_lr`` and ``clip_norm`` are used.
        sample_rate: In Hz.
        seed: Of the batches.
    """
    del sample_rate
    assert isinstance(decoder, Sampled)
    fit_autoregressive(
        decoder.net, pairs, steps=section.decoder_steps, lr=section.decoder_lr, seed=seed,
        clip_norm=section.clip_norm,
    )  # fmt: skip
