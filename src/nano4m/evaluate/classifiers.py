"""Classifiers that recognise a clip's class in what the model makes.

Each modality has one, trained on the ``features`` of real media of the train split alone; of a text
these are its words.

A classifier trains and predicts on a device, where its media are; all random numbers are drawn on
the CPU and sent.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nano4m.compute.on_device import CPU, fused, repeatable, seeded, send
from nano4m.compute.workers import ahead, count_readers
from nano4m.data.clip_table import ClipTable
from nano4m.evaluate.word_classifier import WordClassifier
from nano4m.media import media_kind
from nano4m.media.base import MediaKind, Send
from nano4m.progress import bar

MOST_MEDIA = 12000
"""Most pictures or sounds that a classifier is trained on; more fill the memory."""
BATCH = 32


Augment = Callable[[Tensor, Generator, Send], Tensor]


class Classifier(Protocol):
    """A classifier of media of one kind."""

    def predict(self, media: Any) -> np.ndarray:
        """Return the class of n media of any device, int64 (n,); -1 is no class."""


class ClassifierTraining(NamedTuple):
    """Training data and settings of a classifier; ``media`` yields the media of some clips each."""

    media: Iterator[Any]
    labels: np.ndarray
    num_classes: int
    sample_rate: int
    steps: int
    seed: int
    device: torch.device = CPU


class _Pool(nn.Module):
    """Mean and maximum over places, (B, C, H, W) -> (B, 2 C)."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return torch.cat([flat.mean(2), flat.amax(2)], 1)


def _network(channels: int, smallest_side: int, num_classes: int) -> nn.Sequential:
    """Return a classifier of (B, channels, H, W) of about 0.1 million parameters."""
    stride = 4 if smallest_side >= 48 else 2 if smallest_side >= 24 else 1
    layers: list[nn.Module] = [nn.Conv2d(channels, 32, 2 * stride + 1, stride, stride)]
    for narrow, wide in ((32, 48), (48, 96), (96, 96)):
        layers += [nn.BatchNorm2d(narrow), nn.ReLU(), nn.Conv2d(narrow, wide, 3, 2, 1)]
    layers += [nn.BatchNorm2d(96), nn.ReLU(), _Pool(), nn.Linear(192, num_classes)]
    return nn.Sequential(*layers)


class _Network(Classifier):
    """A convolutional network behind the ``features`` of a kind of media."""

    def __init__(self, kind: MediaKind, training: ClassifierTraining) -> None:
        self.device = training.device
        self.prepare = prepare = kind.part("features")(training.sample_rate, self.device)
        x = torch.cat([prepare(part.to(self.device)) for part in training.media])
        axes = (0, 2, 3)
        self.mean = x.mean(axes, keepdim=True)
        self.std = x.std(axes, keepdim=True).clamp_min(1e-3)
        with seeded(training.seed, self.device):
            net = _network(x.shape[1], min(x.shape[2:]), training.num_classes)
        self.net = net.to(self.device)
        labels = torch.from_numpy(training.labels).to(self.device)
        with repeatable(self.device):
            x = (x - self.mean) / self.std
            _train(self.net, x, labels, kind.part("augment"), training.steps, training.seed)

    @torch.inference_mode()
    def predict(self, media: Tensor) -> np.ndarray:
        """Return the likeliest classes."""
        with repeatable(self.device, exact=True):
            parts = [
                self.net((self.prepare(part) - self.mean) / self.std).argmax(1)
                for part in media.to(self.device).split(256)
            ]
        return torch.cat(parts).cpu().numpy()


def _train(
    net: nn.Module, x: Tensor, labels: Tensor, augment: Augment, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.02, fused=fused(x.device))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    net.train()
    order = torch.empty(0, dtype=torch.int64)
    with bar("train a classifier", steps, "step") as progress:
        for _ in range(steps):
            while len(order) < BATCH:
                order = torch.cat([order, torch.randperm(len(x), generator=generator)])
            rows, order = send(order[:BATCH], x.device), order[BATCH:]
            logits = net(augment(x[rows], generator, send))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance()
    net.eval()


def chosen_clips(kind: str, clips: ClipTable, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return which of ``rows`` a classifier of this kind of media is trained on, sorted places.

    Args:
        kind: Of media; clips without such media are left out.
        clips: Where the media are.
        rows: Clips of the train split.
        seed: Of the part that is drawn of more than MOST_MEDIA.
    """
    there = np.flatnonzero(clips.present(kind)[rows])
    most = max(1, MOST_MEDIA // (clips.num_frames if media_kind(kind).is_plane else 1))
    return np.sort(there[np.random.default_rng(seed).permutation(len(there))[:most]])


def train_classifier(
    kind: str,
    clips: ClipTable,
    rows: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    steps: int,
    seed: int,
    device: torch.device = CPU,
) -> Classifier:
    """Return a classifier trained on real media of one kind.

    Args:
        kind: Of media, a name in ``nano4m.media.MEDIA``.
        clips: Where the media are.
        rows: Clips of the train split; all frames, or captions, of those that have them are used.
        labels: int64 (len(rows),), their classes.
        num_classes: Classes of the run.
        steps: Of training.
        seed: Of everything random.
        device: Where it trains and answers.
    """
    known = media_kind(kind)
    has_frames = known.is_plane
    chosen = chosen_clips(kind, clips, rows, seed)

    if not known.features:
        texts = [clips.captions[row] for row in rows[chosen]]
        own = np.repeat(labels[chosen], [len(found) for found in texts])
        return WordClassifier([text for found in texts for text in found], own, seed)

    def read(part: np.ndarray) -> Any:
        media = clips.media(kind, part)
        return media.flatten(0, 1) if has_frames else media

    parts = np.array_split(rows[chosen], -(-len(chosen) // 256))
    media = ahead(read, parts, 0 if device.type == "cpu" else count_readers())
    own = np.repeat(labels[chosen], clips.num_frames if has_frames else 1)
    training = ClassifierTraining(media, own, num_classes, clips.sample_rate, steps, seed, device)
    return _Network(known, training)
