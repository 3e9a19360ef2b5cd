"""The report on a made-up run: the reader sees what the results say, and nothing is fetched."""

import base64
import dataclasses
import io
import json
import math
import re
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nano4m.config.run import Config, ReportConfig
from nano4m.config.tokenizers import Bpe, ImageVQ, MelVQ
from nano4m.data.clip_shards import write_shard
from nano4m.data.clip_table import ClipTable, open_clips
from nano4m.evaluate.results import (
    AllSources,
    ClassifierScore,
    Continuation,
    CrossEntropy,
    Difference,
    Direction,
    Diversity,
    Probe,
    Results,
    Score,
    Spread,
)
from nano4m.media.depth import depth_png
from nano4m.media.normals import normals_png
from nano4m.media.picture import jpeg
from nano4m.media.sound import flac
from nano4m.modalities import MODALITIES
from nano4m.report.overview import overview_png
from nano4m.report.page import write_report
from nano4m.report.samples import choose
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
SECTIONS = ("any-to-any", "matrix", "probes", "entropy", "tokenizers", "training", "clips",
            "provenance")  # fmt: skip


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
        channels = 1 if self.media == "depth" else 3
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


def fake_clips(folder: Path, geometry: bool = True) -> ClipTable:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(9):
        label = CLASSES[i % 3]
        picture = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        vectors = np.dstack([np.zeros((SIZE, SIZE, 2)), np.ones((SIZE, SIZE))])
        tone = LEVEL * np.sin(np.arange(SAMPLES) / RATE * 2 * np.pi * (300 + 100 * i))
        rows.append({
            "clip_id": f"clip{i}", "source": "fake", "video_id": f"v{i}", "label": label,
            "caption": NASTY if i == 0 else f"a {label}", "split": "test", "licence": "CC0-1.0",
            "start_s": 0.0, "audio": flac(tone, RATE), "frames": [jpeg(picture)],
            "depth": [depth_png(rng.random((SIZE, SIZE)))] if geometry else [],
            "normals": [normals_png(vectors)] if geometry else [],
            "crop": [[0, 0, SIZE]], "kept": True,
        })  # fmt: skip
    write_shard(folder, 0, rows, sample_rate=RATE)
    return open_clips(folder)


def score(value: float, **more: Any) -> Score:
    return Score(value=value, low=value - 0.0513, high=value + 0.0487, n=137, chance=1 / 3, **more)


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
        classifiers=[ClassifierScore(modality=n, accuracy=score(0.91, round_trip=0.844)) for n in names],
        probes=[
            Probe(name="class <of> sound", task="classification", source=names[-1], target=names[0],
                  score=score(0.7345, majority=0.41, balanced=0.722, controls={"shuffled": 0.331})),
            Probe(name="retrieval", task="retrieval", source=names[0], target=names[-1],
                  score=score(0.2)),
        ],
        matrix=[
            Direction(source=a, target=b, class_consistency=score(0.4 + i / 50, majority=None),
                      diversity=VARIED if i == 0 else None)
            for i, (a, b) in enumerate(pairs)
        ],
        all_sources=[
            AllSources(target=names[-1], class_consistency=score(0.777),
                     gain_over={names[0]: Difference(value=0.125, low=-0.031, high=0.252)})
        ],
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fake_run(tmp_path_factory.mktemp("fake"), list(MODALITIES))


@pytest.fixture(scope="module")
def text(run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run.write(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(text: str) -> Reader:
    return Reader(text)


def test_needs_nothing_else(text: str, page: Reader) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "poster", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:60])
        assert not any(name.startswith("on") for name in attributes)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text and "http" not in text
    assert str(Path.home()) not in text


def test_sections_in_order(page: Reader) -> None:
    assert tuple(a["id"] for a in page.all("section")) == SECTIONS
    links = [a["href"] for a in page.all("a")]
    assert links == [f"#{key}" for key in SECTIONS]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") is not None for a in page.all("img"))
    assert all(a.get("aria-label") for a in page.all("audio"))


def _percent(cell: str) -> list[float]:
    return [round(float(x) / 100, 4) for x in re.findall(r"(\d+\.\d) %", cell)]


def test_figures_are_those_of_the_results(run: Run, page: Reader) -> None:
    titles = {m.name: m.title for m in run.table.modalities}
    rows = {row[0]: row for row in page.rows if row}
    cells = rows_of(page, "given \u2192 made")
    for direction in run.results.matrix:
        row = cells[f"{titles[direction.source]} \u2192 {titles[direction.target]}"]
        assert _percent(row[1]) == [pytest.approx(direction.class_consistency.value, abs=5.1e-4)]
        low, high = re.findall(r"\[([\d.]+)\u2013([\d.]+)\]", row[1])[0]
        assert float(low) / 100 == pytest.approx(direction.class_consistency.low, abs=5.1e-4)
        assert float(high) / 100 == pytest.approx(direction.class_consistency.high, abs=5.1e-4)
        assert _percent(row[2]) == [pytest.approx(1 / 3, abs=5.1e-4)]
        assert row[3] == "\u2013" and row[-1] == "137"
    probe = rows["class <of> soundclassification"]
    assert [_percent(c) for c in probe[3:7]] == [[0.333], [0.41], [0.722], []]
    assert "shuffled" in probe[7] and _percent(probe[7]) == [0.331]
    for entry in run.results.cross_entropy:
        shown = [float(x) for x in rows_of(page, "predicted")[titles[entry.modality]] if "." in x]
        wanted = [entry.uniform, entry.unigram, entry.bigram, *entry.conditions.values()]
        assert sorted(shown) == pytest.approx(sorted(wanted), abs=5.1e-4)
        bits = rows_of(page, "bits for")[f"{titles[entry.modality]}a {entry.unit}"]
        assert [cell for cell in bits[1:] if "." in cell] == ["1,234.5", "1,300.2"]
    (entry,) = run.results.continuation
    row = rows_of(page, "continued")[titles[entry.modality]]
    assert re.findall(r"\d\.\d{3}", " ".join(row)) == [
        "2.718",
        "2.600",
        "2.800",
        "2.900",
        "4.159",
        "3.500",
        "3.100",
        "3.333",
    ]
    (both,) = run.results.all_sources
    row = " ".join(rows_of(page, "made")[titles[both.target]])
    assert "77.7 %" in row and re.findall(r"[+-]\d+\.\d", row) == ["+12.5", "-3.1", "+25.2"]
    assert "21.7 dB" in rows_of(page, "modality")["picture"][1]
    assert "81.2 %" in " ".join(rows_of(page, "modality")["picture"])
    assert rows["silent <"][-1] == "1"


def rows_of(page: Reader, first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first title is ``first``."""
    start = next(i for i, row in enumerate(page.rows) if row and row[0] == first)
    width = len(page.rows[start])
    found = {}
    for row in page.rows[start + 1 :]:
        if len(row) != width:
            break
        found[row[0]] = row
    return found


def _bytes(uri: str | None) -> bytes:
    return base64.b64decode((uri or "").split(",", 1)[1])


def test_variety_stands_beside_that_of_real_clips(page: Reader) -> None:
    (row,) = (cells for cells in page.rows if "real 4.25" in " ".join(cells))
    assert row[1:] == ["3.14 real 4.25", "71.0 % real 99.0 %", "12.5 % real 25.0 %",
                       "33.3 % real 66.6 %", "\u2013 real 77.7 %"]  # fmt: skip


def test_sounds_have_their_length_and_level(run: Run, page: Reader) -> None:
    # Recorded, round trip, given, and made from four others.
    assert len(page.all("audio")) == 4 * (3 + 4)
    for audio in page.all("audio"):
        with wave.open(io.BytesIO(_bytes(audio["src"]))) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
            assert (file.getframerate(), file.getnframes()) == (RATE, SAMPLES)
            pcm = np.frombuffer(file.readframes(SAMPLES), "<i2") / 32768
        assert np.sqrt((pcm**2).mean()) == pytest.approx(LEVEL / math.sqrt(2), rel=0.02)


def test_pictures_are_the_media(run: Run, page: Reader) -> None:
    # The first clip shown of this class is clip 0.
    shown = {str(a["alt"]): a["src"] for a in reversed(page.all("img"))}
    real = run.clips.media("picture", [0], frame=0)[0].movedim(0, -1).numpy() * 255
    label = run.clips.labels[0]
    image = np.asarray(Image.open(io.BytesIO(_bytes(shown[f"picture, recorded, {label}"]))))
    assert np.array_equal(image, real.round().astype(np.uint8))
    row = run.table.clip_ids.tolist().index("clip0")
    ids = torch.from_numpy(run.table.ids["rgb"][row].astype(np.int64)).reshape(1, 4, 4)
    wanted = (run.tokenizers["rgb"].decode(ids)[0].movedim(0, -1).numpy() * 255).round()
    image = np.asarray(Image.open(io.BytesIO(_bytes(shown[f"picture, round trip, {label}"]))))
    assert np.array_equal(image, wanted.astype(np.uint8))


def test_values_are_escaped(text: str) -> None:
    assert "<script>" not in text and "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text
    assert (
        "class <of>" not in text and "<i>" not in text and re.search(r"caption \d+ &lt;b&gt;", text)
    )


def test_same_inputs_same_bytes(run: Run, text: str, tmp_path: Path) -> None:
    assert run.write(tmp_path) == text
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize("names", [["rgb", "sound"], ["sound", "caption"], ["rgb", "caption"]])
def test_a_modality_less(names: list[str], tmp_path: Path) -> None:
    run = fake_run(tmp_path, names, samples=2, geometry=False)
    page = Reader(run.write(tmp_path / "report"))
    assert tuple(a["id"] for a in page.all("section")) == SECTIONS
    missing = {m.title for n, m in MODALITIES.items() if n not in names}
    assert not missing & {cell for row in page.rows for cell in row}
    assert len(page.all("details")) == 2 + 2


def test_page_stays_small(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nano4m.report.page.MOST_BYTES", 1)
    text = run.write(tmp_path)
    assert "1 of 4 clips are shown" in text
    assert len(Reader(text).all("audio")) == 3 + 4


def test_nothing_measured(run: Run, tmp_path: Path) -> None:
    bare = run.results.model_copy(update={
        "matrix": [], "probes": [], "classifiers": [], "cross_entropy": [], "continuation": [],
        "all_sources": [], "tokenizers": {}, "training": {}, "clips": {}, "seconds": {},
        "provenance": {}, "classes": [],
    })  # fmt: skip
    empty = dataclasses.replace(
        run, results=bare, train_log=tmp_path / "none", generated={"clip_ids": np.array([], str)}
    )
    page = Reader(empty.write(tmp_path / "report"))
    assert tuple(a["id"] for a in page.all("section")) == ("clips", "provenance")


def test_one_clip_a_class_first() -> None:
    labels = ["b", "b", "a", "b", "a", "c"]
    assert choose(labels, 3) == [2, 0, 5]
    assert choose(labels, 5) == [2, 0, 5, 4, 1]
    assert sorted(choose(labels, 99)) == list(range(6))
    assert choose([], 3) == []


def test_overview(run: Run, tmp_path: Path) -> None:
    args = (run.results, run.clips, run.tokenizers, run.table, run.generated)
    first = overview_png(*args, tmp_path / "a.png")
    assert Image.open(first).size[0] == 1600
    assert overview_png(*args, tmp_path / "b.png").read_bytes() == first.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
