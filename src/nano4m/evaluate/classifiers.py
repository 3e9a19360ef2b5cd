"""Classifiers: does what the model makes look, or sound, like the clip's class?

One classifier a kind of media, trained on real media of the train split alone and chosen by kind
from CLASSIFIERS. A caption needs no training: it is right if it is one of that class in the train split.

A classifier trains and answers on a device; its media lie there, and all random numbers are drawn on the
CPU and sent.

Shapes: B batch, C channels, H height, W width, M mel bands, F frames.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from nano4m.compute.workers import ahead, count_readers
from nano4m.data.clip_table import ClipTable
from nano4m.modalities import FRAMED, Media
from nano4m.progress import bar
from nano4m.tokenizers.mel import FLOOR_DB, MelSpectrogram
from nano4m.tokenizers.on_device import CPU, fused, repeatable, seeded, send

MOST_MEDIA = 12000
"""Pictures or sounds that a classifier is trained on; more fill the memory."""
MOST_PIXELS = 64
"""Larger pictures are averaged down to this many pixels a side: classifiers look at shapes."""
BATCH = 32
UNKNOWN = -1
"""Answer to a caption that no class has."""


class Classifier(Protocol):
    """A classifier of media of one kind."""

    def predict(self, media: Any) -> np.ndarray:
        """Return the class of each of n media of any device, int64 (n,); UNKNOWN is never right."""


class ClassifierTraining(NamedTuple):
    """What a classifier is trained with; ``media`` comes in parts of some clips each."""

    media: Iterator[Any]
    labels: np.ndarray
    num_classes: int
    sample_rate: int
    steps: int
    seed: int
    device: torch.device = CPU


Augment = Callable[[Tensor, Generator], Tensor]


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


def _shift(x: Tensor, most: Sequence[int], generator: Generator, fill: Tensor) -> Tensor:
    """Move a batch (B, C, H, W) by up to ``most`` rows and columns and uncover ``fill`` ()."""
    height, width = x.shape[2:]
    # Not F.pad: it takes a number, and the host would wait for the device to tell it.
    padded = fill.expand(*x.shape[:2], height + 2 * most[0], width + 2 * most[1]).clone()
    padded[:, :, most[0] : most[0] + height, most[1] : most[1] + width] = x
    top, left = (int(torch.randint(2 * n + 1, (), generator=generator)) for n in most)
    return padded[:, :, top : top + height, left : left + width]


def _spread(values: Tensor, size: float, generator: Generator) -> Tensor:
    """Return uniform numbers in [-size, size], (B, 1, 1, 1), on the device of ``values``."""
    numbers = (torch.rand(len(values), 1, 1, 1, generator=generator) * 2 - 1) * size
    return send(numbers, values.device)


def _vary_picture(x: Tensor, generator: Generator) -> Tensor:
    side = min(x.shape[2:])
    x = _shift(x, (side // 12, side // 12), generator, x[:, :, 0].mean())
    # Detail that a tokenizer loses must not be what a classifier relies on: most batches are blurred.
    blur = 1 + int(torch.randint(min(3, side // 8), (), generator=generator))
    if blur > 1:
        x = F.interpolate(F.avg_pool2d(x, blur, ceil_mode=True), size=x.shape[2:], mode="bilinear")
    return x * (1 + _spread(x, 0.2, generator)) + _spread(x, 0.1, generator)


def _vary_sound(x: Tensor, generator: Generator) -> Tensor:
    # Standardised log-mel: a shift in time, a change of level, a hole in time and one in pitch.
    x = _shift(x, (1, x.shape[3] // 10), generator, x.min()) + _spread(x, 0.4, generator)
    x = x.clone()
    for axis in (2, 3):
        width = int(torch.randint(x.shape[axis] // 8 + 1, (), generator=generator))
        first = int(torch.randint(x.shape[axis] - width + 1, (), generator=generator))
        x.narrow(axis, first, width).zero_()
    return x


class _Network(Classifier):
    """A convolutional network behind ``prepare``, which makes (B, C, H, W) of a batch of media."""

    def __init__(
        self, prepare: Callable[[Tensor], Tensor], training: ClassifierTraining, vary: Augment
    ) -> None:
        self.prepare, self.device = prepare, training.device
        x = torch.cat([prepare(part.to(self.device)) for part in training.media])
        axes = (0, 2, 3)
        self.mean = x.mean(axes, keepdim=True)
        self.std = x.std(axes, keepdim=True).clamp_min(1e-3)
        with seeded(training.seed, self.device):
            net = _network(x.shape[1], min(x.shape[2:]), training.num_classes)
        self.net = net.to(self.device)
        labels = torch.from_numpy(training.labels).to(self.device)
        with repeatable(self.device):
            _train(
                self.net, (x - self.mean) / self.std, labels, vary, training.steps, training.seed
            )

    @torch.inference_mode()
    def predict(self, media: Tensor) -> np.ndarray:
        """Return the likeliest classes."""
        with repeatable(self.device, exact=True):
            parts = [
                self.net((self.prepare(part) - self.mean) / self.std).argmax(1)
                for part in media.to(self.device).split(256)
            ]
        return torch.cat(parts).cpu().numpy()


def _train(net: nn.Module, x: Tensor, labels: Tensor, vary: Augment, steps: int, seed: int) -> None:
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
            logits = net(vary(x[rows], generator))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance()
    net.eval()


def _picture_classifier(training: ClassifierTraining) -> Classifier:
    def prepare(media: Tensor) -> Tensor:
        size = min(MOST_PIXELS, media.shape[-1])
        media = media.float()
        return media if media.shape[-1] == size else F.adaptive_avg_pool2d(media, size)

    return _Network(prepare, training, _vary_picture)


def _sound_classifier(training: ClassifierTraining) -> Classifier:
    mel = MelSpectrogram(training.sample_rate, n_fft=1024, hop=512, mels=40).to(training.device)

    def prepare(media: Tensor) -> Tensor:
        # What lies 60 dB below the peak is not heard, and phase reconstruction leaves it arbitrary.
        logmel_BMF = mel(media.float())
        floor = (logmel_BMF.amax((1, 2), keepdim=True) - 60).clamp_min(FLOOR_DB)
        return torch.maximum(logmel_BMF, floor)[:, None]

    return _Network(prepare, training, _vary_sound)


class _Captions(Classifier):
    """Knows each train caption's commonest class."""

    def __init__(self, training: ClassifierTraining) -> None:
        texts = [text for part in training.media for text in part]
        counts = Counter(zip(texts, training.labels.tolist(), strict=True))
        self.known: dict[str, int] = {}
        for (text, label), _ in sorted(counts.items(), key=lambda item: (item[1], item[0])):
            self.known[text] = label

    def predict(self, media: list[str]) -> np.ndarray:
        """Return the class of each text, UNKNOWN for one that no train clip has."""
        return np.array([self.known.get(text, UNKNOWN) for text in media], dtype=np.int64)


CLASSIFIERS: dict[Media, Callable[[ClassifierTraining], Classifier]] = {
    "picture": _picture_classifier,
    "depth": _picture_classifier,
    "normals": _picture_classifier,
    "sound": _sound_classifier,
    "caption": _Captions,
}


def train_classifier(
    kind: Media,
    clips: ClipTable,
    rows: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    steps: int,
    seed: int,
    device: torch.device = CPU,
) -> Classifier:
    """Train the classifier of a kind on real media.

    Args:
        kind: Key of CLASSIFIERS.
        clips: Where the media are.
        rows: Clips of the train split; all frames of them are used.
        labels: int64 (len(rows),), their classes.
        num_classes: Classes of the run.
        steps: Of training.
        seed: Of everything random.
        device: Where it trains and answers.
    """
    has_frames = kind in FRAMED
    most = max(1, MOST_MEDIA // (clips.num_frames if has_frames else 1))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])

    def read(part: np.ndarray) -> Any:
        media = clips.media(kind, part)
        return media.flatten(0, 1) if has_frames else media

    parts = np.array_split(rows[chosen], -(-len(chosen) // 256))
    media = ahead(read, parts, 0 if device.type == "cpu" else count_readers())
    own = np.repeat(labels[chosen], clips.num_frames if has_frames else 1)
    return CLASSIFIERS[kind](
        ClassifierTraining(media, own, num_classes, clips.sample_rate, steps, seed, device)
    )
