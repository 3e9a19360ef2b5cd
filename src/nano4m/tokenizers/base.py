"""The interface of every tokenizer: media to ids and back."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from nano4m.config.clips import ClipsConfig
from nano4m.storage.arrays import write_tensors
from nano4m.storage.json_files import write_json


class Material(NamedTuple):
    """Media that a tokenizer is fitted on and measured with.

    Attributes:
        media: Name of the kind of media.
        train: Media of train clips: planes (n, C, H, W), sounds (n, samples) or n strings.
        val: Media of some validation clips, one item a clip, to measure the quality.
        val_clips: Number of these clips.
        sample_rate: Of sounds, in Hz.
        texts: For text, the captions of all splits, of which only the length is used; else empty.
        clip_ids: Of ``texts``; messages name them.
        modality: Its name.
    """

    media: str
    train: Any
    val: Any
    val_clips: int
    sample_rate: int
    texts: list[str]
    clip_ids: Sequence[str] = ()
    modality: str = ""


def fingerprint_of(key: str, settings: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the fingerprint of a tokenizer from its key and its stored state."""
    digest = hashlib.sha256(json.dumps([key, settings], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


class Tokenizer(ABC):
    """Turns a batch of media into ids and ids into media.

    Media, by the form of their kind (``nano4m.media``):
        plane  float32 (B, channels, H, W) in [0, 1], or unit vectors (``is_direction``)
        sound  float32 (B, samples) in [-1, 1] at ``sample_rate``
        text   list of B strings

    ``encode`` and ``decode`` take tensors of any device and return them on the tokenizer's; ids of
    captions stay on the CPU. ``state`` and ``codebook`` are CPU tensors, so the fingerprint is the
    same on any device.

    Attributes:
        key: Name in TOKENIZERS and in the configuration.
        shape: Sizes of the layout of one clip's ids.
        vocab_size: Ids are 0 <= id < vocab_size, of all codebooks together.
        num_codebooks: Codebooks of equal size; the ids of one follow those of the one before.
        most_measured: Most validation clips that its quality is measured on.
        licence: Of the weights.
    """

    key: ClassVar[str]
    num_codebooks: int = 1
    most_measured: int = 256
    shape: tuple[int, ...]
    vocab_size: int
    licence: str

    @classmethod
    @abstractmethod
    def prepare(
        cls, section: Any, material: Material, seed: int, device: torch.device
    ) -> "Tokenizer":
        """Return a tokenizer for media of one kind: fitted on them, or loaded and adapted.

        Deterministic in ``seed`` on one kind of device.

        Args:
            section: Its settings, see ``nano4m.config.tokenizers``.
            material: Media of train clips.
            seed: Of everything random.
            device: Where it is fitted, and returned.

        Raises:
            UserError: The settings do not suit the media.
        """

    @classmethod
    def check(cls, section: Any, kind: str, clips: ClipsConfig) -> None:
        """Refuse settings that ``prepare`` would refuse, from the configuration alone.

        Args:
            section: Its settings.
            kind: Kind of media.
            clips: How the clips are cut.

        Raises:
            UserError: The settings do not suit each other.
        """
        del section, kind, clips

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move weights and constants to a device and return this tokenizer."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device that it computes on."""

    def usable(self, texts: Sequence[str], section: Any) -> list[str]:
        """Return those of a clip's texts that ``encode`` takes, each once; no empty ones.

        Too long ones are shortened, or left out, as ``section`` says.
        """
        del section
        return list(dict.fromkeys(text for text in texts if text))

    @abstractmethod
    def encode(self, media: Any) -> Tensor:
        """Return ids, int64 (B, *shape).

        Text returns (B, max_length) padded with the end-of-text token; ``lengths`` counts the
        tokens before the padding.

        Raises:
            ValueError: ``media`` is not of this tokenizer's form; the message gives both shapes.
        """

    @abstractmethod
    def decode(self, ids: Tensor) -> Any:
        """Return the media of ids (B, *shape); the same ids always give the same media.

        Raises:
            ValueError: A wrong shape, or an id outside the vocabulary. Nothing is clamped.
        """

    def codebook(self) -> Tensor | None:
        """Return the vector of each id, float32 (vocab_size, width) on the CPU, or None.

        Ids with near vectors have similar meanings; a model can be initialised from them.
        """
        return None

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what ``from_state`` needs: JSON settings, and tensors on the CPU."""

    @classmethod
    @abstractmethod
    def from_state(cls, settings: dict[str, Any], tensors: dict[str, Tensor]) -> "Tokenizer":
        """Return the tokenizer with this ``state``, on the CPU."""

    @classmethod
    def from_folder(
        cls, folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor]
    ) -> "Tokenizer":
        """Return the tokenizer that ``save`` wrote into a folder; weights may be elsewhere.

        Raises:
            UserError: Weights that are not in the folder are not where they were.
        """
        return cls.from_state(settings, tensors)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits of a SHA-256 over settings and weights: equal means same ids.

        Computed once: weights do not change after ``prepare`` and loading.
        """
        return fingerprint_of(self.key, *self.state())

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer.safetensors``; never a pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        settings, tensors = self.state()
        write_tensors(folder / "tokenizer.safetensors", tensors)
        entry = {"key": self.key, "licence": self.licence, "fingerprint": self.fingerprint}
        write_json(folder / "tokenizer.json", entry | {"settings": settings})
