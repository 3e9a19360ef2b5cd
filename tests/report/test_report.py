"""The report on a made-up run: the reader sees what the results say, and nothing is fetched."""

import base64
import dataclasses
import io
import json
import math
import re
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_run import (
    LEVEL,
    RATE,
    SAMPLES,
    SECTIONS,
    Reader,
    Run,
    fake_run,
)
from PIL import Image

from nano4m.evaluate.results import Results
from nano4m.modalities import MODALITIES
from nano4m.report.overview import overview_png
from nano4m.report.samples import choose


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
    known = [row for row in page.rows if len(row) > 1 and row[1] in ("new", "trained on")]
    assert [row[2].split(" [")[0] for row in known] == ["91.0 %", "93.0 %"] * len(titles)
    probe = rows["class <of> sound"]
    assert [_percent(c) for c in probe[3:7]] == [[0.333], [0.41], [0.722], []]
    assert "shuffled" in probe[7] and _percent(probe[7]) == [0.331, 0.328]
    by_input, bits = rows_of(page, "given", "bits, given"), rows_of(page, "bits, given")
    against = [row for row in page.rows if len(row) == 8 and row[1] == "nothing"]
    names = [entry.modality for entry in run.results.cross_entropy]
    for column, entry in enumerate(run.results.cross_entropy, 1):
        for condition, value in entry.conditions.items():
            cell = by_input[titles.get(condition, condition)][column]
            assert float(cell) == pytest.approx(value, abs=5.1e-4)
        (row,) = (row for row in against if row[0] == titles[entry.modality])
        assert row[2:] == ["3.871", "4.159", "3.917", "\u2013", "\u2013", "160"]
        assert bits["nothing"][column] == "1,300.2"
        assert bits["the true token before: bigram"][column] == "1,234.5"
    assert len(against) == len(names)
    (entry,) = run.results.continuation
    own = [row for row in page.rows if row and row[0] == titles[entry.modality] and len(row) == 8]
    shown = [re.findall(r"\d\.\d{3}", " ".join(row)) for row in own if row[1].startswith("first")]
    assert shown == [["2.718", "2.600", "2.800", "4.159", "3.100"], ["2.900", "4.159", "3.500"],
                     ["3.333"]]  # fmt: skip
    (both,) = run.results.all_sources
    row = " ".join(rows_of(page, "made")[titles[both.target]])
    assert "77.7 %" in row and re.findall(r"[+-]\d+\.\d", row) == ["+12.5", "-3.1", "+25.2"]
    assert "21.7 dB" in rows_of(page, "modality")["picture"][1]
    assert "81.2 %" in " ".join(rows_of(page, "modality")["picture"])
    assert rows["silent <"][-1] == "1"


def rows_of(page: Reader, first: str, following: str = "") -> dict[str, list[str]]:
    """Return the rows of the table whose first title is ``first``.

    A table as wide, whose first title is ``following``, may come after it.
    """
    start = next(i for i, row in enumerate(page.rows) if row and row[0] == first)
    width = len(page.rows[start])
    found = {}
    for row in page.rows[start + 1 :]:
        if len(row) != width or row[0] == following:
            break
        found[row[0]] = row
    return found


def _bytes(uri: str | None) -> bytes:
    return base64.b64decode((uri or "").split(",", 1)[1])


def test_variety_stands_beside_that_of_real_clips(page: Reader) -> None:
    (row,) = (cells for cells in page.rows if "real 4.25" in " ".join(cells))
    assert row[1:] == ["3.14 real 4.25", "71.0 % real 99.0 %", "12.5 % real 25.0 %",
                       "33.3 % real 66.6 %", "\u2013 real 77.7 %"]  # fmt: skip


def test_what_is_made_stands_beside_the_train_clip_it_is_nearest_to(run: Run, page: Reader) -> None:
    first, second = run.results.memorization
    titles = {m.name: m.title for m in run.table.modalities}
    rows = [row for row in page.rows if row and row[-1] == "548, 9 clusters"]
    assert [row[0] for row in rows] == [
        f"each other alone \u2192 {titles[first.target]}",
        f"{titles[second.source]} \u2192 {titles[second.target]}",
    ]
    assert rows[0][1:4] == ["61.3 % [51.2\u201370.4]", "31.2 %", "28.0 %"]
    shown = {str(a["alt"]): a["src"] for a in page.all("img")}
    title, source = titles[first.target], titles[first.closest[0].source]
    places = {clip: i for i, clip in enumerate(run.table.clip_ids.tolist())}
    made = run.generated[f"{first.closest[0].source}->{first.target}"]
    own = {str(clip): i for i, clip in enumerate(run.generated["clip_ids"])}
    for alt, ids in (
        (f"{title} made from {source}", made[own["clip3"]]),
        (f"{title} of the train clip clip5", run.table.ids[first.target][places["clip5"], 0]),
    ):
        shaped = torch.from_numpy(ids.astype(np.int64)).reshape(1, 4, 4)
        wanted = (run.tokenizers[first.target].decode(shaped)[0].movedim(0, -1) * 255).round()
        image = np.asarray(Image.open(io.BytesIO(_bytes(shown[alt]))))
        assert np.array_equal(image, wanted.numpy().astype(np.uint8))


def test_a_run_of_one_class_shows_diversity_without_class_consistency(
    run: Run, tmp_path: Path
) -> None:
    matrix = [d.model_copy(update={"class_consistency": None}) for d in run.results.matrix]
    one = run.results.model_copy(
        update={"matrix": matrix, "classifiers": [], "all_sources": [], "classes": ["cow"]}
    )
    single = dataclasses.replace(run, results=one)
    page = Reader(single.write(tmp_path / "report"))
    assert tuple(a["id"] for a in page.all("section")) == SECTIONS
    assert any("real 4.25" in " ".join(row) for row in page.rows)
    args = (one, run.clips, run.tokenizers, run.table, run.generated)
    assert Image.open(overview_png(*args, tmp_path / "a.png")).size[0] == 1600


def test_sounds_have_their_length_and_level(run: Run, page: Reader) -> None:
    # Recorded, round trip, given, and made from four others.
    assert len(page.all("audio")) == 4 * (2 + len(MODALITIES))
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
    assert len(Reader(text).all("audio")) == 2 + len(MODALITIES)


def test_nothing_measured(run: Run, tmp_path: Path) -> None:
    bare = run.results.model_copy(update={
        "matrix": [], "probes": [], "classifiers": [], "cross_entropy": [], "continuation": [],
        "left_out": [],
        "all_sources": [], "memorization": [], "tokenizers": {}, "training": {}, "clips": {},
        "seconds": {}, "provenance": {}, "classes": [],
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


def test_every_figure_says_of_how_many_clips(run: Run, tmp_path: Path) -> None:
    def cells(results: Results) -> list[str]:
        page = Reader(dataclasses.replace(run, results=results).write(tmp_path / "page"))
        return [row[-1] for row in page.rows if any("137" in cell for cell in row)]

    before = run.results
    assert set(cells(before)) == {"137"}
    whole = json.loads(before.model_dump_json())
    count = 0
    for part in parts_of(whole):
        if part.get("n") == 137 and "low" in part:
            count += 1
            part |= {"clusters": 18, "effective": 9.3}
    found = cells(Results.model_validate(whole | {"evaluated": 137, "available": 20000}))
    assert len(found) >= count - len(before.all_sources)  # a difference stands beside its score
    # What a classifier was trained on is no part of the split that is evaluated.
    assert set(found) == {"137 of 20,000, 18 clusters", "137, 18 clusters"}
    assert found.count("137, 18 clusters") == len(before.classifiers)


def parts_of(tree: object) -> Iterator[dict]:
    """Yield every dictionary inside ``tree``."""
    if isinstance(tree, dict):
        yield tree
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for part in inner:
        yield from parts_of(part)
