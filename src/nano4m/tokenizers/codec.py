"""Pretrained neural codecs: sound to ids and back with weights that others trained.

What they have in common: weights from a folder or a repository, resampling between the rate of the
clips and that of the codec, ids with an offset for each codebook. A kind of codec is a subclass in
a file of its family; it calls the codec's network.

A tokenizer's folder has the hashes of the weights, and where they were; the weights themselves
only if ``copy_weights`` says so and their licence lets one (``codec_weights``).

Legend: B batch, S samples of a clip, L samples at the codec's rate, T frames of tokens, Q
codebooks, V ids of a codebook, C width of a code.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.compute.on_device import repeatable, seeded
from nano4m.config.clips import ClipsConfig
from nano4m.config.tokenizers import SECTIONS
from nano4m.config.tokenizers.codec import CodecSection
from nano4m.errors import UserError
from nano4m.progress import log_info
from nano4m.storage.arrays import not_finite
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.codebook_ids import to_codebooks, to_vocabulary
from nano4m.tokenizers.codec_weights import (
    copy_weights,
    find_again,
    require_sizes,
    source_of,
    words_of,
    write_origin,
)
from nano4m.tokenizers.pretrained_weights import Found, fetch, require_package
from nano4m.tokenizers.resampling import fitted, resampled

SAMPLES_AT_ONCE = 1 << 23
"""Samples that are encoded or decoded together on a GPU. On a CPU each sound is by itself: together
they take as long, and the ids do not depend on the batch."""

SIZES = ("codebooks", "codec_rate", "codec_hop", "codec_vocab")
"""Fields of a section that decide the ids."""


class CodecTokenizer(Tokenizer):
    """Base of the pretrained codecs.

    Args:
        samples: Of a sound of the clips.
        sample_rate: Of the clips, in Hz.
        section: Settings.
        found: The weights.

    Raises:
        UserError: The weights cannot be used, or are not what the settings say.
    """

    files: ClassVar[tuple[str, ...]] = ("config.json", "model.safetensors")
    subfolder: ClassVar[str] = ""
    package: ClassVar[str] = "transformers"
    channels: ClassVar[int] = 1
    net: Any
    may_copy: ClassVar[bool] = False
    """Whether the licence lets one copy the weights into a run that may be given away."""

    def __init__(self, samples: int, sample_rate: int, section: CodecSection, found: Found) -> None:
        self.samples, self.sample_rate, self.section, self.found = (
            samples, sample_rate, section, found,
        )  # fmt: skip
        require_sizes(type(self), section, found.folder)
        self.codec_samples = section.samples(samples, sample_rate)
        self.num_codebooks = section.codebooks
        self.shape = (section.frames(self.codec_samples), section.codebooks)
        self.vocab_size = section.codec_vocab * section.codebooks
        self.frame_rate = section.codec_rate / section.codec_hop
        self.hop = section.codec_hop * sample_rate / section.codec_rate
        with seeded(0):
            self.net = self.load(found.folder).eval().requires_grad_(False)
        bad = not_finite(self.net.state_dict())
        if bad:
            raise UserError(f"{found.folder}: weights are not finite: {bad}")
        if not bool(self.vectors().flatten(1).abs().amax(1).all()):
            raise UserError(
                f"{found.folder}: a codebook has nothing but zeros, so all sounds would be one; "
                "these weights were never trained"
            )

    # -- what a kind of codec says and does -----------------------------------------------------

    @classmethod
    @abstractmethod
    def sizes(cls, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``.

        Raises:
            UserError: The configuration is of another codec, or of a form that is not read.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> nn.Module:
        """Return the network of a folder with ``files``, on the CPU.

        Raises:
            UserError: The files are damaged, or of another network.
        """

    @abstractmethod
    def codes(self, sound_BCL: Tensor) -> Tensor:
        """Return codes, int64 (B, Q, T) in 0..V-1, of sounds (B, channels, L)."""

    @abstractmethod
    def waveform(self, codes_BQT: Tensor) -> Tensor:
        """Return sounds (B, channels, about L) of codes (B, Q, T)."""

    @abstractmethod
    def vectors(self) -> Tensor:
        """Return the vectors of the used codebooks, float32 (Q, V, C)."""

    def adapt(self, material: Material) -> None:
        """Set what depends on the clips; most codecs have nothing of that kind."""

    # -- the contract of all tokenizers ---------------------------------------------------------

    @classmethod
    def prepare(
        cls, section: CodecSection, material: Material, seed: int, device: torch.device
    ) -> Self:
        """Return the tokenizer with the section's weights, downloaded if they are not here."""
        found = fetch(source_of(cls, section), *words_of(cls, material.media))
        tokenizer = cls(material.train.shape[1], material.sample_rate, section, found).to(device)
        if section.codec_rate != material.sample_rate:
            log_info(
                f"{cls.key}: clips of {material.sample_rate} Hz are resampled to "
                f"{section.codec_rate} Hz and back"
            )
        tokenizer.adapt(material)
        return tokenizer

    @classmethod
    def check(cls, section: CodecSection, kind: str, clips: ClipsConfig) -> None:
        """Refuse what ``prepare`` would refuse; weights that are not here are downloaded now.

        Raises:
            UserError: The package or the weights are missing, they have other sizes than the
                settings say, or must not be copied.
        """
        del clips
        what, option, without = words_of(cls, kind)
        if section.copy_weights and not cls.may_copy:
            raise UserError(
                f"{option.replace('.weights', '.copy-weights')}: the licence of the weights of "
                f"{cls.key} ({cls.licence}) does not let a run carry them; leave it out, and keep "
                "the weights where they are"
            )
        if cls.package:
            require_package(cls.package, what, without)
        found = fetch(source_of(cls, section), what, option, without)
        require_sizes(cls, section, found.folder)

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
            ValueError: Another shape, or a number that is not finite.
        """
        if media.ndim != 2 or media.shape[1] != self.samples:
            raise ValueError(f"a sound must be (B, {self.samples}), not {tuple(media.shape)}")
        if not bool(torch.isfinite(media).all()):
            raise ValueError("a sound has numbers that are not finite")
        parts = [media.new_zeros((0, *self.shape), dtype=torch.int64).to(self.device)]
        for part in media.float().split(self._at_once()) if len(media) else ():
            with repeatable(self.device, exact=True):
                codes_BQT = self.codes(self._to_codec(part))
            if tuple(codes_BQT.shape[1:]) != self.shape[::-1]:
                raise ValueError(
                    f"{self.key} made codes {tuple(codes_BQT.shape[1:])} of a sound, not "
                    f"{self.shape[::-1]}: its weights have another form than their config.json"
                )
            parts.append(codes_BQT.transpose(1, 2).long())
        return to_vocabulary(torch.cat(parts), self.section.codec_vocab)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return sounds, float32 (B, samples) in [-1, 1], of ids (B, T, Q).

        Raises:
            ValueError: A wrong shape, an id out of range, or an id of another codebook.
        """
        own = to_codebooks(ids, self.shape, self.section.codec_vocab)
        parts = [torch.zeros((0, self.samples), device=self.device)]
        for part in own.to(self.device).split(self._at_once()) if len(own) else ():
            with repeatable(self.device, exact=True):
                parts.append(self._from_codec(self.waveform(part.transpose(1, 2))))
        return torch.cat(parts)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """Return the vector of each id, float32 (vocab_size, C), of all codebooks."""
        return self.vectors().flatten(0, 1).float().cpu()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what decides the ids: sizes, and the hashes of the weights, wherever they are."""
        settings = {"samples": self.samples, "sample_rate": self.sample_rate}
        sizes = {name: getattr(self.section, name) for name in SIZES}
        return settings | sizes | {"files": self.found.hashes}, {}

    def save(self, folder: Path) -> None:
        """Write settings, where the weights were, and the weights if they are to be copied."""
        super().save(folder)
        write_origin(folder, source_of(type(self), self.section), self.found, self.licence)
        if self.section.copy_weights and self.may_copy:
            copy_weights(folder, self.found)

    @classmethod
    def from_state(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Not possible: the weights are not part of the state, see ``from_folder``.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{cls.key} is loaded from its folder, which says where its weights are")

    @classmethod
    def from_folder(
        cls, folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]
    ) -> Self:
        """Return the tokenizer with the weights of its folder, or from where they were.

        Raises:
            UserError: The weights are nowhere, or have other content.
        """
        found, given = find_again(folder, cls, dict(settings["files"]))
        sizes = {name: settings[name] for name in SIZES}
        kind: Any = SECTIONS[cls.key]
        section = kind(weights=given.given, revision=given.revision, **sizes)
        tokenizer = cls(settings["samples"], settings["sample_rate"], section, found)
        tokenizer.restore(tensors)
        return tokenizer

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take what ``adapt`` has set from the tensors of ``state``."""

    def _at_once(self) -> int:
        if self.device.type == "cpu":
            return 1
        return max(1, SAMPLES_AT_ONCE // (self.codec_samples * self.channels))

    def _to_codec(self, sound_BS: Tensor) -> Tensor:
        sound_BL = resampled(
            sound_BS, self.sample_rate, self.section.codec_rate, self.codec_samples
        )
        # A whole number of frames: what an encoder would make up at the end is zeros.
        missing = -self.codec_samples % self.section.codec_hop
        padded = F.pad(sound_BL, (0, missing)).to(self.device)
        return padded[:, None].expand(-1, self.channels, -1)

    def _from_codec(self, sound_BCL: Tensor) -> Tensor:
        sound_BL = fitted(sound_BCL.float().mean(1), self.codec_samples)
        sound_BS = resampled(sound_BL, self.section.codec_rate, self.sample_rate, self.samples)
        return sound_BS.to(self.device).clamp(-1, 1)
