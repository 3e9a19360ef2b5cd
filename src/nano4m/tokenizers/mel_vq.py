"""Sound to ids and back: log-mel spectrogram, convolutional VQ over time, Griffin-Lim.

After VQ-VAE and SoundStream's residual codebooks (arXiv:1711.00937, arXiv:2107.03312), on mel bands
instead of the waveform. The network's input is decibels minus the mean of their band over the train
split, divided by one deviation for all bands: a deviation for each would amplify bands that are
nearly always silent. Decoding inverts the same scale.

Legend: B batch, M mel bands, F frames, T token frames, Q codebooks.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.compute.on_device import CPU, has_room, repeatable, seeded, send, take
from nano4m.config.compatibility import read_section
from nano4m.config.tokenizers import MelVQ
from nano4m.media.mel import FLOOR_DB, MelSpectrogram
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.codebook_ids import to_codebooks, to_vocabulary
from nano4m.tokenizers.quantize import Autoencoder, Quantizer, train_autoencoder
from nano4m.tokenizers.vocoder import Spectrograms, Vocoder, fit_vocoder

CROP_FRAMES, CROPS = 64, 16
"""Frames of a crop that the vocoder is trained on, and crops of a step."""

LEVEL_WEIGHT = 0.2
"""Weight of the level of a frame against its shape in the loss."""


class Residual(nn.Module):
    """x + 1x1(act(k3(act(x)))) over time, the last one starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=1)
        self.narrow = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, T) for (B, width, T)."""
        return x + self.narrow(F.silu(self.wide(F.silu(x))))


class Patches(nn.Module):
    """(B, mels, F) to (B, mels * size, F / size), or back: the whole network runs at token rate."""

    def __init__(self, size: int, back: bool = False) -> None:
        super().__init__()
        self.size, self.back = size, back

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with ``size`` frames folded into channels, or unfolded."""
        if self.back:
            return x.unflatten(1, (-1, self.size)).transpose(2, 3).flatten(2)
        return x.unflatten(2, (-1, self.size)).transpose(2, 3).flatten(1, 2)


def build(
    mels: int, downsample: int, width: int, code_dim: int, quantizer: Quantizer
) -> Autoencoder:
    """Return the network over (B, mels, F), with a token for each ``downsample`` frames."""
    down: list[nn.Module] = [
        Patches(downsample),
        nn.Conv1d(mels * downsample, width, 3, padding=1),
        *(Residual(width) for _ in range(3)),
        nn.SiLU(),
        nn.Conv1d(width, code_dim, 1),
    ]
    up: list[nn.Module] = [
        nn.Conv1d(code_dim, width, 3, padding=1),
        *(Residual(width) for _ in range(3)),
        nn.SiLU(),
        nn.Conv1d(width, mels * downsample, 1),
        Patches(downsample, back=True),
    ]
    return Autoencoder(nn.Sequential(*down), quantizer, nn.Sequential(*up))


class MelVQTokenizer(Tokenizer):
    """Ids (B, T, Q) of one sound a clip, T = ceil(frames / downsample).

    The last token is padded with silent frames if ``downsample`` does not divide the frames. Ids of
    codebook k lie in k * vocab .. (k + 1) * vocab - 1, so that every id identifies its codebook.

    Args:
        samples: Length of a sound.
        sample_rate: In Hz.
        section: Settings of the configuration.

    Raises:
        UserError: n_fft, hop and mels are incompatible.
    """

    key = "mel_vq"
    licence = "that of the clips it was fitted on"

    def __init__(self, samples: int, sample_rate: int, section: MelVQ) -> None:
        self.samples, self.sample_rate, self.section = samples, sample_rate, section
        self.mel = MelSpectrogram(sample_rate, section.n_fft, section.hop, section.mels)
        self.frames = self.mel.frames(samples)
        self.num_codebooks = section.codebooks
        self.frame_rate = sample_rate / section.hop / section.downsample
        self.shape = (-(-self.frames // section.downsample), section.codebooks)
        self.vocab_size = section.vocab * section.codebooks
        quantizer = Quantizer("vq", section.code_dim, section.vocab, section.codebooks)
        self.net = build(
            section.mels, section.downsample, section.width, section.code_dim, quantizer
        ).eval()
        self.mean, self.std = torch.zeros(section.mels, 1), torch.ones(section.mels, 1)
        self.vocoder: Vocoder | None = None
        if section.vocoder == "gan":
            # Drawn aside, so that ids are those of a tokenizer without one.
            with torch.random.fork_rng(devices=[]):
                self.vocoder = Vocoder(section.mels, section.hop, section.vocoder_width).eval()

    @classmethod
    def prepare(
        cls, section: MelVQ, material: Material, seed: int, device: torch.device
    ) -> "MelVQTokenizer":
        """Return a fitted tokenizer, see ``fit``."""
        return cls.fit(section, material.train, material.sample_rate, seed, device)

    @classmethod
    def fit(
        cls,
        section: MelVQ,
        sounds: Tensor,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
    ) -> "MelVQTokenizer":
        """Return a tokenizer trained on sounds (n, samples), on a device.

        The same seed gives the same tokenizer on the same machine. With more than one view a clip,
        training batches are shifted and scaled as views are.
        """
        with seeded(seed, device):
            tokenizer = cls(sounds.shape[1], sample_rate, section).to(device)
            size = 4 * len(sounds) * section.mels * tokenizer.frames
            logmel = tokenizer._logmel(sounds, device if has_room(size, device) else CPU)
            mean, std = logmel.mean((0, 2))[:, None], logmel.std((0, 2)).mean().clamp_min(1.0)
            tokenizer.mean, tokenizer.std = mean.to(device), std.to(device).expand(len(mean), 1)

            def batch(generator: torch.Generator) -> Tensor:
                rows = torch.randint(len(logmel), (section.batch_size,), generator=generator)
                x = take(logmel, rows, device)
                return tokenizer._normal(
                    tokenizer._vary(x, generator) if section.augmentations > 1 else x
                )

            def loss(y: Tensor, x: Tensor) -> Tensor:
                return logmel_loss(y, x, tokenizer.mean, tokenizer.std)

            train_autoencoder(
                tokenizer.net, batch, loss, steps=section.steps, lr=section.lr, seed=seed,
                title="fit sound",
            )  # fmt: skip
            if tokenizer.vocoder is not None:
                fit_vocoder(
                    tokenizer.vocoder, tokenizer._spectrograms(logmel, sounds),
                    steps=section.vocoder_steps, sample_rate=sample_rate, seed=seed,
                    discriminators=section.vocoder_discriminators,
                )  # fmt: skip
        return tokenizer

    def to(self, device: torch.device | str) -> Self:
        """Move network, filters and statistics to a device and return this tokenizer."""
        self.net.to(device)
        self.mel.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        if self.vocoder is not None:
            self.vocoder.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.mean.device

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return ids, int64 (B, T, Q), of sounds, float32 (B, samples) in [-1, 1]."""
        with repeatable(self.device, exact=True):
            ids = self.net.ids(self._normal(self._logmel(media, self.device)))
        return to_vocabulary(ids, self.section.vocab)

    @torch.no_grad()
    def decode_logmel(self, ids: Tensor) -> Tensor:
        """Return the log-mel (B, mels, frames) in dB of ids (B, T, Q), the input of Griffin-Lim.

        Raises:
            ValueError: Wrong shape, id out of range, or an id of another codebook.
        """
        own = to_codebooks(ids, self.shape, self.section.vocab)
        with repeatable(self.device, exact=True):
            codes = self.net.quantizer.vectors(own.to(self.device))
            y = self.net.decoder(codes.transpose(1, 2))
        return (y * self.std + self.mean).clamp_min(FLOOR_DB)[:, :, : self.frames]

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return sounds, float32 (B, samples) in [-1, 1], of ids (B, T, Q)."""
        return self.to_waveform(self.decode_logmel(ids))

    @property
    def way_back(self) -> str:
        """What makes the waveform, as its figures are named."""
        return "griffin_lim" if self.vocoder is None else "vocoder"

    @torch.no_grad()
    def to_waveform(self, logmel: Tensor) -> Tensor:
        """Return sounds, float32 (B, samples) in [-1, 1], of log-mel (B, mels, frames) in dB."""
        if self.vocoder is not None:
            with repeatable(self.device, exact=True):
                parts = [self.vocoder(self._normal(part)) for part in logmel.split(64)]
            return torch.cat(parts)[:, : self.samples].clamp(-1, 1)
        sound = self.mel.to_waveform(logmel, self.section.griffin_lim, self.samples)
        return sound.clamp(-1, 1)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """Return the vector of each id, float32 (vocab_size, code_dim), of all codebooks."""
        return self.net.quantizer.codebook().cpu()

    def state(self) -> tuple[dict, dict[str, Tensor]]:
        """Return settings, weights and the statistics of the bands."""
        settings = {"samples": self.samples, "sample_rate": self.sample_rate}
        weights = {f"net.{k}": v.cpu() for k, v in self.net.state_dict().items()}
        if self.vocoder is not None:
            own = self.vocoder.state_dict().items()
            weights |= {f"vocoder.{k}": v.cpu() for k, v in own}
        statistics = {"mean": self.mean.cpu(), "std": self.std.cpu()}
        return settings | {"section": self.section.model_dump()}, weights | statistics

    @classmethod
    def from_state(cls, settings: dict, tensors: dict[str, Tensor]) -> "MelVQTokenizer":
        """Return the tokenizer with this state."""
        with seeded(0):
            section = read_section(MelVQ, settings["section"])
            tokenizer = cls(settings["samples"], settings["sample_rate"], section)
        weights = {k[4:]: v for k, v in tensors.items() if k.startswith("net.")}
        tokenizer.net.load_state_dict(weights)
        if tokenizer.vocoder is not None:
            own = {k[8:]: v for k, v in tensors.items() if k.startswith("vocoder.")}
            tokenizer.vocoder.load_state_dict(own)
        tokenizer.mean, tokenizer.std = tensors["mean"], tensors["std"]
        return tokenizer

    def _logmel(self, sound: Tensor, to: torch.device) -> Tensor:
        # Log-mel (B, M, F) with F padded to whole tokens; computed on the tokenizer's device.
        if sound.ndim != 2 or sound.shape[1] != self.samples:
            raise ValueError(f"a sound must be (B, {self.samples}), not {tuple(sound.shape)}")
        parts = [self.mel(send(p, self.device).float()).to(to) for p in sound.split(256)]
        missing = self.shape[0] * self.section.downsample - self.frames
        return F.pad(torch.cat(parts), (0, missing), value=FLOOR_DB)

    def _spectrograms(self, logmel: Tensor, sounds: Tensor) -> Spectrograms:
        # Crops of whole tokens: the log-mel that the codebooks give back, and the true sound.
        hop, size = self.section.hop, self.section.downsample
        tokens = min(max(CROP_FRAMES // size, 1), self.shape[0])
        frames = tokens * size

        def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(logmel), (CROPS,), generator=generator)
            starts = torch.randint(self.shape[0] - tokens + 1, (CROPS,), generator=generator)
            given, real = [], []
            for row, start in zip(rows.tolist(), (starts * size).tolist(), strict=True):
                given.append(logmel[row, :, start : start + frames])
                sound = sounds[row, start * hop : (start + frames) * hop].float()
                real.append(F.pad(sound, (0, frames * hop - len(sound))))
            with torch.no_grad():
                x = self._normal(send(torch.stack(given), self.device))
                y = self.net(x)[0] * self.std + self.mean
            return self._normal(y.clamp_min(FLOOR_DB)), send(torch.stack(real), self.device)

        return draw

    def _normal(self, logmel: Tensor) -> Tensor:
        return (logmel - self.mean) / self.std

    def _vary(self, logmel: Tensor, generator: torch.Generator) -> Tensor:
        # The shift and the gain of a view, in whole frames, on its spectrogram.
        frames = int(self.section.shift_seconds * self.sample_rate / self.section.hop)
        gain = (torch.rand(len(logmel), 1, 1, generator=generator) * 2 - 1) * self.section.gain_db
        shifts = torch.randint(-frames, frames + 1, (len(logmel),), generator=generator)
        gain, shifts = send(gain, logmel.device), send(shifts, logmel.device)
        index = torch.arange(logmel.shape[2], device=logmel.device)[None] - shifts[:, None]
        inside = (index >= 0) & (index < logmel.shape[2])
        index = index.clamp(0, logmel.shape[2] - 1)[:, None].expand_as(logmel)
        moved = torch.where(inside[:, None], logmel.gather(2, index) + gain, FLOOR_DB)
        return moved.clamp_min(FLOOR_DB)


def logmel_loss(y: Tensor, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the loss of normalised log-mels y for x, (B, M, F) each, of the scale mean and std."""
    # Most of a spectrogram is silence and noise, so values within 30 dB of the loudest count ten
    # times as much. The mean of decibels is below the decibels of the mean, so the level of whole
    # frames has a term of its own, which is small because a large one harms the shape.
    x_db, y_db = x * std + mean, y * std + mean
    level_x, level_y = _level(x_db), _level(y_db)
    level = _weighted(((level_y - level_x) / std[0]).square(), level_x)
    return _weighted((y - x).square(), x_db) + LEVEL_WEIGHT * level


def _level(db: Tensor) -> Tensor:
    # Level of all bands of a frame together in dB, (B, 1, F).
    scale = math.log(10) / 10
    return (db * scale).logsumexp(1, keepdim=True) / scale


def _weighted(error: Tensor, db: Tensor) -> Tensor:
    weight = 0.1 + 0.9 * torch.sigmoid((db - db.amax((1, 2), keepdim=True) + 30) / 6)
    return (error * weight).mean() / weight.mean()
