"""Captions of a list: several a clip in every form, none, in any language and punctuation."""

import csv
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_folder_forms import needs_odd, odd

from media_files import tone
from nano4m.config.clips import ClipsConfig
from nano4m.config.datasets import FolderDataset
from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe, MelVQ
from nano4m.data.build import build_clips
from nano4m.data.clip_table import open_clips
from nano4m.data.sources import folder
from nano4m.errors import UserError
from nano4m.tokenizers.base import Material
from nano4m.tokenizers.bpe import BpeTokenizer

COUNT = 8
NAMES = [f"s{i}.wav" for i in range(COUNT)]


def captions_of(i: int) -> tuple[str, ...]:
    """Clip i has i % 4 + 1 captions."""
    return tuple(f"a dog, {i}, told {k}" for k in range(i % 4 + 1))


def sounds(root: Path) -> None:
    for i, name in enumerate(NAMES):
        tone(root / name, 0.2, hertz=200 + 30 * i)


def write(root: Path, name: str, rows: list[list[str]]) -> Path:
    sounds(root)
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def repeated_pairs(root: Path) -> Path:
    rows = [["audio_id", "class", "audio", "images", "caption"]]
    turns = [(i, k) for k in range(4) for i in range(COUNT) if k < len(captions_of(i))]
    # Later rows leave their class out, and spell the path otherwise.
    rows += [
        [f"id{i}", "" if k else "dog", f"{'./' if k else ''}s{i}.wav", "", captions_of(i)[k]]
        for i, k in turns
    ]
    return write(root, "pairs.csv", rows)


def other_ids(root: Path) -> Path:
    """AudioCaps: an id for each caption, and the file repeated."""
    rows = [["audio_id", "class", "audio", "images", "caption"]]
    rows += [
        [f"id{i}" if not k else f"more{i}-{k}", "dog", f"s{i}.wav", "", text]
        for i in range(COUNT)
        for k, text in enumerate(captions_of(i))
    ]
    return write(root, "pairs.csv", rows)


def repeated_labels(root: Path) -> Path:
    rows = [["file", "label", "caption"]]
    rows += [[f"s{i}.wav", "dog", text] for i in range(COUNT) for text in captions_of(i)]
    return write(root, "labels.csv", rows)


def columns(root: Path, style: str) -> Path:
    """Clotho: caption_1 to caption_5, in any order."""
    rows = [["file", "label", *(style.format(k + 1) for k in reversed(range(4)))]]
    for i in range(COUNT):
        own = list(captions_of(i)) + [""] * (4 - len(captions_of(i)))
        rows.append([f"s{i}.wav", "dog", *reversed(own)])
    return write(root, "labels.csv", rows)


def lines(root: Path) -> Path:
    rows = [["file", "label", "caption"]]
    rows += [[f"s{i}.wav", "dog", "\n".join(captions_of(i))] for i in range(COUNT)]
    return write(root, "labels.csv", rows)


FORMS = {
    "repeated pairs": repeated_pairs,
    "other ids": other_ids,
    "repeated labels": repeated_labels,
    "caption1": lambda root: columns(root, "caption{}"),
    "caption_1": lambda root: columns(root, "caption_{}"),
    "Caption 1": lambda root: columns(root, "Caption {}"),
    "lines": lines,
}


def plans_of(data: Path, **settings):
    return folder.plan(FolderDataset(**settings), data, 0)


def found(plans) -> dict[str, tuple[str, ...]]:
    own = {p.details["file"]: (p.caption, *p.more_captions) for p in plans}
    return {Path(name).name: captions for name, captions in own.items()}


@pytest.mark.parametrize("form", FORMS)
def test_several_captions_are_of_one_clip_in_every_form(tmp_path, form, capsys):
    plans = plans_of(FORMS[form](tmp_path))
    assert found(plans) == {name: captions_of(i) for i, name in enumerate(NAMES)}
    assert len(plans) == COUNT and {p.label for p in plans} == {"dog"}
    assert "6 of 8 clips have several captions, up to 4" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_rows_that_differ_in_more_than_captions_are_refused_or_stay_apart(tmp_path):
    head = ["audio_id", "class", "audio", "images", "caption", "split"]
    for number, (second, said) in enumerate(
        [
            (["a", "dog", "s1.wav", "", "b", "train"], r"lines 2 and 3: audio_id 'a' has audio"),
            (["a", "cat", "s0.wav", "", "b", "train"], r"has class 'dog' and 'cat'"),
            (["a", "dog", "s0.wav", "", "b", "val"], r"has split 'train' and 'val'"),
        ]
    ):
        data = write(
            tmp_path / str(number),
            "pairs.csv",
            [head, ["a", "dog", "s0.wav", "", "a", "train"], second],
        )
        with pytest.raises(UserError, match=said):
            plans_of(data)
    rows = [head[:5]]
    rows += [[f"{i}-{k}", "dog", name, f"p{k}.png", f"told {i}"] for i, name in enumerate(NAMES)
             for k in range(2)]  # fmt: skip
    # A sound with two pictures in two rows is two clips, as it was, of one recording.
    plans = plans_of(write(tmp_path / "pictures", "pairs.csv", rows))
    assert len(plans) == 2 * COUNT and len({p.video_id for p in plans}) <= COUNT
    assert not any(p.more_captions for p in plans)


def test_pictures_of_all_rows_of_a_clip_are_its_pictures(tmp_path):
    from media_files import picture

    rows = [["audio_id", "class", "audio", "images", "caption"]]
    for i, name in enumerate(NAMES):
        for k in range(3):
            picture(tmp_path / f"p{i}-{k % 2}.png", (20 * i, 90 * k, 9))
            rows.append([f"id{i}", "dog", name, f"p{i}-{k % 2}.png", f"told {k}"])
    plans = plans_of(write(tmp_path, "pairs.csv", rows))
    assert [[Path(p).name for p in plan.details["pictures"]] for plan in plans] == [
        [f"p{i}-0.png", f"p{i}-1.png"] for i in range(COUNT)
    ]
    assert {len(plan.more_captions) for plan in plans} == {2}


SAID = {
    "comma": "A dog calls, then it is quiet, and a car passes",
    "quotes": 'she says "sit", he says ""stay""',
    "apostrophe": "it's a dog's life; isn't it?",
    "chinese": "一只狗在叫，然后很安静",
    "thai": "สุนัขเห่า",
    "hindi": "क्षत्रिय कुत्ता",
    "arabic": "كلب ينبح",
    "emoji": "👩‍👩‍👧 with a 🐕‍🦺 👍🏽",
    "accents": "un chien hurlé à la forêt",
    "inner  spaces": "a dog   and a cat\tand a cow",
}


@pytest.mark.parametrize("listed", ["labels.csv", "pairs.csv"])
def test_captions_of_any_language_and_punctuation_come_back_as_they_are(tmp_path, listed):
    rows = []
    for name, text in zip(range(len(SAID)), SAID.values(), strict=True):
        tone(tmp_path / f"f{name}.wav", 0.05, hertz=100 + 9 * name)
        own = unicodedata.normalize("NFD", text) if name % 2 else text
        own = f" \u3000{own}\n" if name % 3 else own
        row = [f"f{name}.wav", "dog", own]
        rows.append(row if listed == "labels.csv" else [f"id{name}", "dog", row[0], "", own])
    head = {
        "labels.csv": ["file", "label", "caption"],
        "pairs.csv": ["audio_id", "class", "audio", "images", "caption"],
    }
    plans = plans_of(write(tmp_path, listed, [head[listed], *rows]))
    assert [p.caption for p in plans] == list(SAID.values())
    assert not any(p.more_captions for p in plans)


def test_an_empty_caption_is_absent_unless_no_row_has_one(tmp_path, capsys):
    empty = ["", " ", "\u3000", "\u200b", "\n \n"]
    some = [["file", "label", "caption"]]
    some += [[name, "wild dog", "" if i < 5 else "told"] for i, name in enumerate(NAMES)]
    for row, text in zip(some[1:], empty, strict=False):
        row[2] = text
    plans = plans_of(write(tmp_path / "some", "labels.csv", some))
    assert [p.caption for p in plans] == [""] * 5 + ["told"] * 3
    assert "5 of 8 clips have no caption (first in line 2" in capsys.readouterr().err.replace(
        "\n", " "
    )
    none = [row[:2] + [" "] for row in some]
    none[0] = some[0]
    plans = plans_of(write(tmp_path / "none", "labels.csv", none))
    assert [p.caption for p in plans] == ["wild dog"] * COUNT
    assert "has no caption; classes are the captions" in capsys.readouterr().err


def build(data: Path, out: Path, **changes):
    config = Config(
        preset="animals",
        dataset=FolderDataset(val_share=0.3, **changes),
        clips=ClipsConfig(require=(), window_seconds=0.2, sample_rate=16000, workers=0),
        tokenizers={"sound": MelVQ(), "caption": Bpe()},
        evaluate={"split": "val"},
    )
    return build_clips(config, data, out)


def test_the_clips_table_has_all_captions_only_where_a_clip_has_several(tmp_path):
    data = repeated_labels(tmp_path / "several")
    build(data, tmp_path / "out")
    clips = open_clips(tmp_path / "out")
    assert dict(zip(clips.clip_ids.tolist(), clips.captions, strict=True)) == {
        name: captions_of(i) for i, name in enumerate(NAMES)
    }
    assert clips.media("caption", [3])[0] == clips.captions[3][0]
    rows = [["file", "label", "caption"], *([n, "dog", "" if n == "s2.wav" else n] for n in NAMES)]
    build(write(tmp_path / "one", "labels.csv", rows), tmp_path / "plain")
    assert "captions" not in pq.read_schema(tmp_path / "plain/clips-00000.parquet").names
    plain = open_clips(tmp_path / "plain")
    assert dict(zip(plain.clip_ids.tolist(), plain.captions, strict=True)) == {
        name: () if name == "s2.wav" else (name,) for name in NAMES
    }
    assert plain.clip_ids[~plain.present("caption")].tolist() == ["s2.wav"]
    with pytest.raises(ValueError, match="s2.wav .* has no caption"):
        plain.media("caption", np.arange(COUNT))


def test_other_captions_are_other_clips(tmp_path):
    data = repeated_labels(tmp_path / "data")
    build(data, tmp_path / "out")
    text = (data / "labels.csv").read_text().replace("told 3", "told otherwise")
    (data / "labels.csv").write_text(text)
    with pytest.raises(UserError, match="clips of other settings or data"):
        build(data, tmp_path / "out")


@needs_odd
def test_one_long_caption_of_a_list_is_said_and_the_others_stay_whole(tmp_path, capsys):
    case = "pairs:one_long_caption_pairs.csv:one_long_caption_metadata.csv"
    plans = folder.plan(FolderDataset(val_share=0.3), odd(case, tmp_path / "data"), 0)
    captions = [plan.caption for plan in plans]
    assert sorted(Counter(captions).values()) == [1, 5, 6, 6]
    [long] = [text for text in captions if len(text.split()) > 30]
    ids = [plan.clip_id for plan in plans]
    material = Material("caption", captions, captions[:1], 1, 0, captions, ids, "caption")
    section = Bpe(vocab=512, max_length=24)
    tokenizer = BpeTokenizer.prepare(section, material, 0, torch.device("cpu"))
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 18 captions have more than 24 tokens" in said
    assert f"first that of clip {ids[captions.index(long)]}: 'a small brown dog that stands" in said
    assert f"--tokenizers.caption.max_length {tokenizer.count(long)} has room for all" in said
    for text in captions:
        [usable] = tokenizer.usable([text], section)
        assert (usable == text) == (text != long) and text.startswith(usable)
