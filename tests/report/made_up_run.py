"""A made-up run for the report, and a reader of its page; no tests."""

import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nano4m.config.run import Config, ReportConfig
from nano4m.config.tokenizers import Bpe, ImageVQ, MelVQ
from nano4m.data.clip_shards import write_shard
from nano4m.data.clip_table import ClipTable, open_clips
from nano4m.evaluate.likelihood_results import Continuation, CrossEntropy
from nano4m.evaluate.probe_results import Control, LeftOut, Probe, Score
from nano4m.evaluate.results import (
    AllSources,
    ClassifierScore,
    Difference,
    Direction,
    Results,
)
from nano4m.evaluate.sample_results import ClosestPair, Diversity, Memorization, Spread
from nano4m.media import MEDIA
from nano4m.media.base import MediaKind
from nano4m.media.picture import jpeg
from nano4m.media.sound import flac
from nano4m.modalities import MODALITIES, TEXT_END
from nano4m.report.page import write_report
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.table import TokenSpec, TokenTable

RATE, SAMPLES, SIZE, CLASSES = 16000, 4096, 16, ("cow", "dog", "owl")
NASTY = "<script>alert('x')</script> & $x$ \u00e9 " + "a very long caption " * 12
LEVEL = 0.25
VARIED = Diversity(
    generated=Spread(entropy=3.14, distinct_sequences=0.71, distinct_tokens=0.125, within=0.333),
    real=Spread(entropy=4.25, distinct_sequences=0.99, distinct_tokens=0.25, within=0.666,
                between=0.777),
)  # fmt: skip
SECTIONS = ("any-to-any", "matrix", "memorization", "probes", "entropy", "tokenizers",
            "training", "clips", "provenance")  # fmt: skip


class Fake(Tokenizer):
    """Decodes ids to flat colours, sines and numbers."""

    key = "fake"
    licence = "none"
    sample_rate = RATE

    def __init__(self, media: str, shape: tuple[int, ...]) -> None:
        self.media, self.shape, self.vocab_size = media, shape, 64

    @classmethod
    def prepare(cls, section: Any, material: Any, seed: int, device: torch.device) -> "Fake":
        raise NotImplementedError

    def to(self, device: torch.device | str) -> "Fake":
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, media: Any) -> torch.Tensor:
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"media": self.media}, {}

    @classmethod
    def from_state(cls, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> "Fake":
        raise NotImplementedError

    def decode(self, ids: torch.Tensor) -> Any:
        assert ids.shape[1:] == self.shape and ids.dtype == torch.int64
        return {"sound": self._sound, "caption": self._caption}.get(self.media, self._grid)(ids)

    def _grid(self, ids: torch.Tensor) -> torch.Tensor:
        channels = MEDIA[self.media].channels
        pixels = (ids.float() / 64).repeat_interleave(4, 1).repeat_interleave(4, 2)
        return pixels[:, None].expand(-1, channels, -1, -1).contiguous()

    def _sound(self, ids: torch.Tensor) -> torch.Tensor:
        turns = torch.arange(SAMPLES) / RATE * 2 * math.pi
        return LEVEL * torch.sin(turns * (200 + 40 * ids[:, 0, :1]))

    def _caption(self, ids: torch.Tensor) -> list[str]:
        return [f"caption {row[0]} <b>" for row in ids.tolist()]


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that ``write_report`` takes."""

    results: Results
    train_log: Path
    clips: ClipTable
    tokenizers: dict[str, Tokenizer]
    table: TokenTable
    generated: dict[str, np.ndarray]
    config: Config

    def write(self, folder: Path) -> str:
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]
        return write_report(*values, folder).read_text(encoding="utf-8")


def stored(kind: MediaKind, rng: np.random.Generator) -> bytes:
    """Return a made-up plane of a kind as the clips table holds it."""
    values = rng.random((kind.channels, SIZE, SIZE))
    if kind.is_direction:
        values = values * 2 - 1
        values /= np.linalg.norm(values, axis=0)
    if kind.name == "picture":
        return jpeg((values * 255).astype(np.uint8).transpose(1, 2, 0))
    return kind.write(values, RATE)


def fake_clips(folder: Path, geometry: bool = True) -> ClipTable:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(9):
        label = CLASSES[i % 3]
        pictures = {kind.column: [stored(kind, rng)] for kind in MEDIA.values() if kind.is_plane}
        if not geometry:
            pictures |= {name: [] for name in pictures if name != "frames"}
        tone = LEVEL * np.sin(np.arange(SAMPLES) / RATE * 2 * np.pi * (300 + 100 * i))
        rows.append({
            "clip_id": f"clip{i}", "source": "fake", "video_id": f"v{i}", "label": label,
            "caption": NASTY if i == 0 else f"a {label}", "split": "test", "licence": "CC0-1.0",
            "start_s": 0.0, "audio": flac(tone, RATE), "crop": [[0, 0, SIZE]], "kept": True,
            **pictures,
        })  # fmt: skip
    write_shard(folder, 0, rows, sample_rate=RATE)
    return open_clips(folder)


def score(value: float, **more: Any) -> Score:
    return Score(value=value, low=value - 0.0513, high=value + 0.0487, n=137, chance=1 / 3, **more)


def memorized(target: str, source: str | None, made_from: str = "") -> Memorization:
    pair = ClosestPair(clip_id="clip3", source=source or made_from, train_clip_id="clip5",
                       train_view=0, equal=0.4375)  # fmt: skip
    return Memorization(source=source, target=target, is_text=False, value=0.613, low=0.512,
                        high=0.704, n=548, clusters=9, effective=8.5, made_equal=0.3125,
                        real_equal=0.28, closest=[pair])  # fmt: skip


def fake_results(names: list[str]) -> Results:
    pairs = [(a, b) for a in names for b in names if a != b]
    return Results(
        preset="fake", config={"seed": 0, "note": "<i>"}, split="test", classes=list(CLASSES),
        provenance={"commit": "abc123", "command": "nano4m run fake", "versions": {"torch": "2"}},
        clips={"clips": 10, "kept": 9, "by_split": {"test": [9, 10]}, "reasons": {"silent <": 1}},
        tokenizers={n: {"psnr_db": 21.73, "codes_used_share": 0.8125, "no": None} for n in names},
        training={"steps": 40, "parameters": 3214080, "train_seconds": 431.2, "device": "cpu"},
        cross_entropy=[
            CrossEntropy(modality=n, uniform=math.log(64), unigram=3.917, bigram=3.662, tokens=160,
                         unit="picture", bits={"bigram": 1234.5, "nothing": 1300.25}, conditions={
                "nothing": 3.871, **{m: 2.5 + i / 7 for i, m in enumerate(names) if m != n},
                "shuffled others": 4.001})
            for n in names
        ],
        continuation=[
            Continuation(modality=names[-1], value=2.718, low=2.6, high=2.8, at_once=2.9, n=137,
                         tokens=900, uniform=4.159, unigram=3.5, bigram=3.1,
                         controls={"shuffled": 3.333})
        ],
        classifiers=[
            ClassifierScore(modality=n, accuracy=score(0.91, round_trip=0.844), train=score(0.93))
            for n in names
        ],
        probes=[
            Probe(name="class <of> sound", task="classification", source=names[-1], target=names[0],
                  score=score(0.7345, majority=0.41, balanced=0.722, controls={
                      "shuffled": Control(value=0.331, low=0.25, high=0.42, expected=0.328)})),
            Probe(name="retrieval", task="retrieval", source=names[0], target=names[-1], k=1,
                  score=score(0.2, ceilings={"class": 0.123, "caption": 0.234})),
            Probe(name="instances", task="instance retrieval", source=names[0], target=names[-1],
                  k=1, within="class", score=score(0.456).model_copy(update={"n": 131})),
        ],
        left_out=[LeftOut(probe="class from <x>", reason="it needs 7 predictions")],
        matrix=[
            Direction(source=a, target=b, class_consistency=score(0.4 + i / 50, majority=None),
                      diversity=VARIED if i == 0 else None)
            for i, (a, b) in enumerate(pairs)
        ],
        all_sources=[
            AllSources(target=names[-1], class_consistency=score(0.777),
                     gain_over={names[0]: Difference(value=0.125, low=-0.031, high=0.252)})
        ],
        memorization=[memorized(names[0], None, names[-1]), memorized(pairs[0][1], pairs[0][0])],
        seconds={"clips": 12.3, "train": 431.2},
    )  # fmt: skip


def fake_run(folder: Path, names: list[str], *, samples: int = 4, geometry: bool = True) -> Run:
    clips = fake_clips(folder / "clips", geometry)
    shapes = {"grid": (4, 4), "codebooks": (8, 1), "text": (6,)}
    modalities = tuple(MODALITIES[n].with_tokens(shapes[MODALITIES[n].layout], 64) for n in names)
    rng = np.random.default_rng(1)
    ids = {
        m.name: rng.integers(0, 64, (len(clips), 1, m.length)).astype(np.uint16) for m in modalities
    }
    for modality in modalities:
        if modality.is_text:
            ids[modality.name][..., -1] = TEXT_END
    table = TokenTable(
        TokenSpec(modalities, dict.fromkeys(names, "f")),
        clips.clip_ids[::-1], clips.labels[::-1], clips.splits[::-1], ids, {},
    )  # fmt: skip
    generated = {f"{a}->{b}": ids[b][:, 0] for a in names for b in names if a != b}
    log = folder / "log.jsonl"
    lines: list[dict[str, Any]] = [
        {"step": s, "lr": 1e-3, "grad_norm": 1.0, "loss": dict.fromkeys(names, 4 - s / 20)}
        for s in range(1, 41, 3)
    ]
    lines[-1]["val"] = dict.fromkeys(names, 2.5)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Config(
        tokenizers={"rgb": ImageVQ(), "sound": MelVQ(), "caption": Bpe()},
        report=ReportConfig(samples=samples),
    )
    tokenizers: dict[str, Tokenizer] = {m.name: Fake(m.media, m.shape) for m in modalities}
    return Run(fake_results(names), log, clips, tokenizers, table,
               generated | {"clip_ids": clips.clip_ids}, config)  # fmt: skip


class Reader(HTMLParser):
    """Collects elements, ids and the rows of all tables; notices tags that do not match."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data.replace("\u00a0", " ")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
