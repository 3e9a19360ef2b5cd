"""Sound to semantic ids and residual acoustic ids, coarse first, and back through a log-mel.

Semantic ids are clusters of the frames of an encoder that was trained without labels, as
HuBERT's units are (arXiv:2106.07447); acoustic levels say what the log-mel has beyond them, as
AudioLM puts both kinds together (arXiv:2209.03143). Sound comes from the decoder of all levels and
Griffin-Lim.

Legend: B batch, M mel bands, F frames, T token frames, Q levels.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nano4m.compute.on_device import CPU, has_room, repeatable, seeded, send, take
from nano4m.config.clips import ClipsConfig
from nano4m.config.compatibility import read_section
from nano4m.config.tokenizers import Semantic
from nano4m.media.mel import FLOOR_DB, MelSpectrogram
from nano4m.tokenizers.apply import vary_sound
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.codebook_ids import to_codebooks, to_vocabulary
from nano4m.tokenizers.codec_weights import find_again, write_origin
from nano4m.tokenizers.frames.clusters import Clusters, principal_axes
from nano4m.tokenizers.frames.masked_encoder import TrainedFrames, fit_frames
from nano4m.tokenizers.frames.pretrained import FILES, PretrainedFrames, find_encoder, source_of
from nano4m.tokenizers.level_decoder import LevelAutoencoder
from nano4m.tokenizers.mel_vq import logmel_loss
from nano4m.tokenizers.pretrained_weights import Found
from nano4m.tokenizers.quantize import train_autoencoder

PART = 256
"""Sounds whose frames are computed together."""


UNKNOWN = "where the tokenizer's folder says"
"""Encoder of a state: its weights are no part of it, see ``SemanticTokenizer.from_folder``."""


class SemanticTokenizer(Tokenizer):
    """Ids (B, T, Q) of one sound a clip, T = ceil(frames / downsample); the first level semantic.

    The last token is padded with silent frames if ``downsample`` does not divide the frames. Ids of
    level k lie in k * vocab .. (k + 1) * vocab - 1.

    Args:
        samples: Length of a sound.
        sample_rate: In Hz.
        section: Settings of the configuration.

    Raises:
        UserError: n_fft, hop and mels are incompatible.
    """

    key = "semantic"
    licence = "that of the clips it was fitted on"
    files: ClassVar[tuple[str, ...]] = FILES
    subfolder: ClassVar[str] = ""

    def __init__(self, samples: int, sample_rate: int, section: Semantic) -> None:
        self.samples, self.sample_rate, self.section = samples, sample_rate, section
        self.mel = MelSpectrogram(sample_rate, section.n_fft, section.hop, section.mels)
        self.frames = self.mel.frames(samples)
        self.num_codebooks = section.codebooks
        self.hop = section.hop * section.downsample
        self.frame_rate = sample_rate / self.hop
        self.shape = (-(-self.frames // section.downsample), section.codebooks)
        self.vocab_size = section.vocab * section.codebooks
        self.mean, self.std = torch.zeros(section.mels, 1), torch.ones(section.mels, 1)
        self.encoder: TrainedFrames | PretrainedFrames
        self.encoder = TrainedFrames(section, self.mean, torch.ones(1, 1))
        self.clusters = Clusters(torch.zeros(section.vocab, 1))
        self.net = LevelAutoencoder(section).eval()

    @classmethod
    def prepare(
        cls, section: Semantic, material: Material, seed: int, device: torch.device
    ) -> "SemanticTokenizer":
        """Return a fitted tokenizer, see ``fit``."""
        return cls.fit(section, material.train, material.sample_rate, seed, device)

    @classmethod
    def check(cls, section: Semantic, kind: str, clips: ClipsConfig) -> None:
        """Refuse an encoder that is not here and cannot be downloaded.

        Raises:
            UserError: Says what to install or download, and what works without.
        """
        del kind, clips
        if section.encoder:
            find_encoder(section)

    def use_pretrained(self, found: Found) -> None:
        """Take the frames of a pretrained encoder instead of one trained on the clips.

        Raises:
            UserError: The weights cannot be used.
        """
        self.encoder = PretrainedFrames(self.section, found, self.sample_rate, self.shape[0])
        self.licence = f"that of the clips and of the encoder {self.section.encoder}"

    @classmethod
    def fit(
        cls,
        section: Semantic,
        sounds: Tensor,
        sample_rate: int,
        seed: int,
        device: torch.device = CPU,
    ) -> "SemanticTokenizer":
        """Return a tokenizer fitted on sounds (n, samples), on a device.

        First the encoder and its clusters, then acoustic codes and decoder. The same seed gives the
        same tokenizer on the same machine. With more than one view a clip, the latter are fitted on
        a varied version of each sound, too.

        Raises:
            UserError: Fewer frames than clusters.
        """
        with seeded(seed, device):
            tokenizer = cls(sounds.shape[1], sample_rate, section)
            if section.encoder:
                tokenizer.use_pretrained(find_encoder(section))
            tokenizer.to(device)
            logmel = tokenizer._logmel(sounds, CPU)
            if not section.encoder:
                seconds = tokenizer.hop / sample_rate
                tokenizer.encoder = fit_frames(section, logmel, seconds, seed, device)
            vectors = tokenizer._vectors(sounds, logmel)
            tokenizer.clusters = Clusters.fit(vectors.flatten(0, 1), section.vocab, seed)
            ids = tokenizer.clusters.ids(vectors)
            tokenizer.clusters.to(device)
            if section.augmentations > 1:
                varied = vary_sound(sounds, sample_rate, section, np.random.default_rng(seed))
                other = tokenizer._logmel(varied, CPU)
                own = tokenizer.clusters.ids(tokenizer._vectors(varied, other).to(device)).cpu()
                logmel, ids = torch.cat([logmel, other]), torch.cat([ids, own])
            tokenizer._fit_decoder(logmel, ids, seed)
        return tokenizer

    def _fit_decoder(self, logmel: Tensor, ids_BT: Tensor, seed: int) -> None:
        section, device = self.section, self.device
        mean, std = logmel.mean((0, 2))[:, None], logmel.std((0, 2)).mean().clamp_min(1.0)
        self.mean, self.std = mean.to(device), std.to(device).expand(len(mean), 1)
        if has_room(logmel.nbytes, device):
            logmel = logmel.to(device)

        def batch(generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(logmel), (section.batch_size,), generator=generator)
            x, ids = take(logmel, rows, device), take(ids_BT, rows, device)
            return self.net.pack((x - self.mean) / self.std, ids)

        def loss(y: Tensor, packed: Tensor) -> Tensor:
            return logmel_loss(y, packed[:, :-1], self.mean, self.std)

        train_autoencoder(
            self.net, batch, loss, steps=section.steps, lr=section.lr, seed=seed,
            title="fit sound",
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Self:
        """Move networks, clusters, filters and statistics to a device and return this tokenizer."""
        self.net.to(device)
        self.encoder.to(device)
        self.clusters.to(device)
        self.mel.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.mean.device

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return ids, int64 (B, T, Q), of sounds, float32 (B, samples) in [-1, 1].

        Raises:
            ValueError: Another length, or samples that are not finite.
        """
        logmel = self._logmel(media, self.device)
        with repeatable(self.device, exact=True):
            semantic = self.clusters.ids(self.encoder.vectors(media, logmel))
            ids = semantic[:, :, None]
            if self.net.has_codes:
                codes = self.net.codes((logmel - self.mean) / self.std, semantic)
                ids = torch.cat([ids, codes], 2)
        return to_vocabulary(ids, self.section.vocab)

    @torch.no_grad()
    def decode_logmel(self, ids: Tensor) -> Tensor:
        """Return the log-mel (B, mels, frames) in dB of ids (B, T, Q), the input of Griffin-Lim.

        Raises:
            ValueError: Wrong shape, id out of range, or an id of another level.
        """
        own = to_codebooks(ids, self.shape, self.section.vocab)
        with repeatable(self.device, exact=True):
            y = self.net.decode(own.to(self.device))
        return (y * self.std + self.mean).clamp_min(FLOOR_DB)[:, :, : self.frames]

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return sounds, float32 (B, samples) in [-1, 1], of ids (B, T, Q)."""
        sound = self.mel.to_waveform(
            self.decode_logmel(ids), self.section.griffin_lim, self.samples
        )
        return sound.clamp(-1, 1)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """Return the vector of each id, float32 (vocab_size, code_dim).

        Semantic ids have their centroid on its principal axes, so that ids of similar meaning are
        near; its scale is that of the acoustic codes.
        """
        books = [principal_axes(self.clusters.centroids.cpu(), self.section.code_dim)]
        if self.net.has_codes:
            acoustic = self.net.quantizer.codebook().cpu()
            books[0] *= acoustic.std() / books[0].std().clamp_min(1e-6)
            books.append(acoustic)
        return torch.cat(books)

    def state(self) -> tuple[dict, dict[str, Tensor]]:
        """Return settings, weights, clusters and the statistics of the bands."""
        settings: dict[str, Any] = {"samples": self.samples, "sample_rate": self.sample_rate}
        parts = {
            "net.": self.net.state_dict(),
            "encoder.": self.encoder.state(),
            "clusters.": {"centroids": self.clusters.centroids},
            "bands.": {"mean": self.mean, "std": self.std},
        }
        tensors = {
            prefix + name: tensor.cpu().contiguous()
            for prefix, own in parts.items()
            for name, tensor in own.items()
        }
        section = self.section.model_dump()
        if isinstance(self.encoder, PretrainedFrames):
            # What the weights are, not where they are, decides the ids.
            section |= {"encoder": "", "encoder_revision": ""}
            settings["files"] = self.encoder.found.hashes
        return settings | {"section": section}, tensors

    def save(self, folder: Path) -> None:
        """Write settings, tensors, and where the weights of a pretrained encoder were."""
        super().save(folder)
        if isinstance(self.encoder, PretrainedFrames):
            found = self.encoder.found
            write_origin(folder, source_of(self.section), found, self.licence)

    @classmethod
    def from_folder(
        cls, folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "SemanticTokenizer":
        """Return the tokenizer that ``save`` wrote; a pretrained encoder is looked for again.

        Raises:
            UserError: Its weights are nowhere, or have other content.
        """
        tokenizer = cls.from_state(settings, tensors)
        if "files" in settings:
            found, given = find_again(folder, cls, dict(settings["files"]))
            changed = {"encoder": given.given, "encoder_revision": given.revision}
            tokenizer.section = tokenizer.section.model_copy(update=changed)
            tokenizer.use_pretrained(found)
        return tokenizer

    @classmethod
    def from_state(cls, settings: dict, tensors: dict[str, Tensor]) -> "SemanticTokenizer":
        """Return the tokenizer with this state."""
        with seeded(0):
            stored = settings["section"]
            if "files" in settings:
                stored = stored | {"encoder": UNKNOWN}
            section = read_section(Semantic, stored)
            tokenizer = cls(settings["samples"], settings["sample_rate"], section)

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        tokenizer.net.load_state_dict(part("net."))
        if not section.encoder:
            tokenizer.encoder.load(part("encoder."))
        tokenizer.clusters = Clusters(part("clusters.")["centroids"])
        bands = part("bands.")
        tokenizer.mean, tokenizer.std = bands["mean"], bands["std"]
        return tokenizer

    def _vectors(self, sounds: Tensor, logmel: Tensor) -> Tensor:
        # (n, T, C) on the CPU, of sounds and their log-mels on the CPU.
        return torch.cat(
            [
                self.encoder.vectors(sound, send(part, self.device)).cpu()
                for sound, part in zip(sounds.split(PART), logmel.split(PART), strict=True)
            ]
        )

    def _logmel(self, sound: Tensor, to: torch.device) -> Tensor:
        # Log-mel (B, M, F) with F padded to whole tokens; computed on the tokenizer's device.
        if sound.ndim != 2 or sound.shape[1] != self.samples:
            raise ValueError(f"a sound must be (B, {self.samples}), not {tuple(sound.shape)}")
        parts = [self.mel(send(p, self.device).float()).to(to) for p in sound.split(PART)]
        found = torch.cat(parts)
        if not bool(torch.isfinite(found).all()):
            raise ValueError("a sound has samples that are not finite")
        missing = self.shape[0] * self.section.downsample - self.frames
        return F.pad(found, (0, missing), value=FLOOR_DB)
