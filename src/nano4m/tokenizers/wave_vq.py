"""Sound as tokens of the raw waveform: strided convolutions, vector quantization, a decoder.

The encoder maps samples to one latent a token, a residual quantizer makes its ids, and a decoder of
``nano4m.tokenizers.decoders`` maps the quantized latents back.

Legend: B batch, S samples, T tokens, Q codebooks, C width of a latent.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.compute.on_device import CPU, repeatable, seeded, send
from nano4m.config.compatibility import read_section
from nano4m.config.tokenizers import WaveVQ
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.codebook_ids import to_codebooks, to_vocabulary
from nano4m.tokenizers.decoders import DECODERS, joint_decoder
from nano4m.tokenizers.quantize import Autoencoder, Quantizer
from nano4m.tokenizers.wave.crops import random_crops
from nano4m.tokenizers.wave.encoder import build_encoder
from nano4m.tokenizers.wave.fit import Watch, train_wave
from nano4m.tokenizers.wave.losses import WaveLoss

TOGETHER = 64
"""Sounds that a CPU encodes or decodes at a time; more leave its cache."""


MEMORY = 8
"""Vectors a code that the moving averages of the codebooks remember at least."""


class WaveVQTokenizer(Tokenizer):
    """Ids (B, T, Q) of one sound a clip, T = ceil(samples / hop).

    A sound is padded with silence to whole tokens. Ids of codebook k lie in k * vocab ..
    (k + 1) * vocab - 1, so that every id identifies its codebook.

    Args:
        samples: Length of a sound.
        sample_rate: In Hz.
        section: Settings of the configuration.

    Attributes:
        net: ``encoder`` from sounds (B, T * hop) to latents (B, C, T), ``quantizer`` of latents
            (B, T, C), and ``decoder`` from latents (B, C, T) to sounds (B, T * hop).
        hop: Samples of a token.
        crop_tokens: Tokens of a training crop.
    """

    key = "wave_vq"
    licence = "that of the clips it was fitted on"

    def __init__(self, samples: int, sample_rate: int, section: WaveVQ) -> None:
        self.samples, self.sample_rate, self.section = samples, sample_rate, section
        self.hop = section.hop
        self.num_codebooks = section.codebooks
        self.shape = (-(-samples // self.hop), section.codebooks)
        self.vocab_size = section.vocab * section.codebooks
        tokens = max(round(section.crop_seconds * sample_rate / section.hop), 1)
        self.crop_tokens = min(tokens, self.shape[0])
        if DECODERS[section.decoder].train is not None:
            # One that draws sample by sample takes minutes for hundreds of sounds.
            self.most_measured = 32
        # A step sees few tokens, so codes remember as many steps as bring MEMORY vectors to each.
        decay = max(0.9, 1 - section.batch_size * self.crop_tokens / (MEMORY * section.vocab))
        quantizer = Quantizer(
            section.quantizer, section.code_dim, section.vocab, section.codebooks, decay=decay
        )
        self.net = Autoencoder(
            build_encoder(section, sample_rate),
            quantizer,
            DECODERS[section.decoder].build(section, sample_rate),
        ).eval()

    @classmethod
    def prepare(
        cls, section: WaveVQ, material: Material, seed: int, device: torch.device
    ) -> "WaveVQTokenizer":
        """Return a fitted tokenizer, see ``fit``."""
        return cls.fit(section, material.train, material.sample_rate, seed, device)

    @classmethod
    def fit(
        cls,
        section: WaveVQ,
        sounds: Tensor,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
        on_step: Watch | None = None,
    ) -> "WaveVQTokenizer":
        """Return a tokenizer trained on crops of sounds (n, samples), on a device.

        The same seed gives the same tokenizer on the same machine. ``on_step``: see ``train_wave``.
        """
        with seeded(seed, device):
            tokenizer = cls(sounds.shape[1], sample_rate, section).to(device)
            tokens = min(
                round(section.crop_seconds * sample_rate / section.hop), tokenizer.shape[0]
            )
            length = max(tokens, 1) * section.hop

            def batch(generator: torch.Generator) -> Tensor:
                return random_crops(sounds, section.batch_size, length, generator, device)

            net, own = tokenizer.net, DECODERS[section.decoder]
            if own.train is not None:
                decoder = joint_decoder(section).build(section, sample_rate).to(device)
                net = Autoencoder(net.encoder, net.quantizer, decoder)
            loss = WaveLoss(section, sample_rate).to(device)
            train_wave(net, batch, loss, section, seed, on_step)
            if own.train is not None:

                def pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
                    sounds = batch(generator)
                    with torch.no_grad():
                        latents = net.encoder(sounds).transpose(1, 2)
                        return net.quantizer(latents)[0].transpose(1, 2), sounds

                own.train(tokenizer.net.decoder, pairs, section, sample_rate, seed)
            tokenizer.net.eval()
        return tokenizer

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return this tokenizer."""
        self.net.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.net.parameters()).device

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return ids, int64 (B, T, Q), of sounds, float32 (B, samples) in [-1, 1].

        Raises:
            ValueError: Another shape, or samples that are not finite.
        """
        if media.ndim != 2 or media.shape[1] != self.samples:
            raise ValueError(f"a sound must be (B, {self.samples}), not {tuple(media.shape)}")
        ids = []
        with repeatable(self.device, exact=True):
            for part in media.split(TOGETHER):
                sound = send(part, self.device).float()
                if not bool(sound.isfinite().all()):
                    raise ValueError("a sound has samples that are not finite numbers")
                padded = F.pad(sound, (0, self.shape[0] * self.hop - self.samples))
                ids.append(self.net.ids(padded))
        return to_vocabulary(torch.cat(ids), self.section.vocab)

    @torch.no_grad()
    def latents(self, ids: Tensor) -> Tensor:
        """Return the quantized latents, float32 (B, C, T), of ids (B, T, Q).

        Raises:
            ValueError: Wrong shape, id out of range, or an id of another codebook.
        """
        own = to_codebooks(ids, self.shape, self.section.vocab)
        return self.net.quantizer.vectors(own.to(self.device)).transpose(1, 2)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return sounds, float32 (B, samples) in [-1, 1], of ids (B, T, Q).

        Raises:
            ValueError: Wrong shape, id out of range, or an id of another codebook.
        """
        latents = self.latents(ids)
        with repeatable(self.device, exact=True):
            sounds = torch.cat([self.net.decoder(part) for part in latents.split(TOGETHER)])
        return sounds[:, : self.samples].clamp(-1, 1)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """Return the vector of each id, float32 (vocab_size, C), of all codebooks."""
        return self.net.quantizer.codebook().cpu()

    def state(self) -> tuple[dict, dict[str, Tensor]]:
        """Return settings and weights."""
        settings = {"samples": self.samples, "sample_rate": self.sample_rate}
        weights = {f"net.{k}": v.cpu() for k, v in self.net.state_dict().items()}
        return settings | {"section": self.section.model_dump(mode="json")}, weights

    @classmethod
    def from_state(cls, settings: dict, tensors: dict[str, Tensor]) -> "WaveVQTokenizer":
        """Return the tokenizer with this state."""
        with seeded(0):
            section = read_section(WaveVQ, settings["section"])
            tokenizer = cls(settings["samples"], settings["sample_rate"], section)
        weights = {k.removeprefix("net."): v for k, v in tensors.items()}
        tokenizer.net.load_state_dict(weights)
        return tokenizer
