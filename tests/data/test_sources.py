"""Names of the sources of real media, and the digits: splits, pictures, what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conftest import SHARED
from media_files import tone
from nano4m.config.datasets import DigitsDataset
from nano4m.data.sources import SOURCES, digits, source
from nano4m.errors import UserError

needs_digits = pytest.mark.skipif(
    not (SHARED / "spoken_digits").is_dir(), reason="needs the data of ../shared: spoken_digits"
)


def digit_folder(root: Path, takes=(0, 1, 5, 6), numbers=range(10)) -> Path:
    for digit in numbers:
        for take in takes:
            tone(root / "recordings" / f"{digit}_theo_{take}.wav")
    return root


def pictures_by_split(plans) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for plan in plans:
        found[plan.split] |= {f"{plan.label}/{name}" for name in plan.details["pictures"]}
    return found


# -- names -------------------------------------------------------------------------------------


def test_an_unknown_source_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'digits'"):
        source("digit")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_resolves_to_plan_and_load(name):
    module = source(name)
    assert callable(module.plan) and callable(module.load)
    assert SOURCES[name].licence and SOURCES[name].description


# -- digits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "recordings"])
def test_digits_split_by_take_and_by_picture(tmp_path, inside):
    settings = DigitsDataset(pictures_per_sound=50)
    plans = digits.plan(settings, digit_folder(tmp_path) / inside, 0)
    assert Counter(p.split for p in plans) == {"train": 20, "val": 20}
    assert {p.split for p in plans if p.video_id.endswith(("_5", "_6"))} == {"val"}
    found = pictures_by_split(plans)
    assert found["train"] and found["val"] and not found["train"] & found["val"]
    assert {p.label for p in plans} == set(digits.WORDS)
    assert all(len(p.details["pictures"]) == 50 and p.caption == p.label for p in plans)


def test_digits_pictures_are_of_the_spoken_class_and_only_train_is_moved(tmp_path):
    settings = DigitsDataset(pictures_per_sound=2, picture_size=16)
    images, targets = digits._pictures()
    for plan in digits.plan(settings, digit_folder(tmp_path), 0):
        drawn = [int(name) for name in plan.details["pictures"]]
        assert {digits.WORDS[targets[i]] for i in drawn} == {plan.label}
        raw = digits.load(plan, settings)
        plain = [digits.enlarge(images[i], 16, None) for i in drawn]
        same = [np.array_equal(a, b) for a, b in zip(raw.frames, plain, strict=True)]
        assert not any(same) if plan.split == "train" else all(same)
        assert all(f.shape == (16, 16, 3) and f.dtype == np.uint8 for f in raw.frames)


def test_digits_moved_a_little_stay_the_digit():
    images, _ = digits._pictures()
    for i in range(20):
        still = digits.enlarge(images[i], 32, None).astype(float).ravel()
        moved = digits.enlarge(images[i], 32, np.random.default_rng(i)).astype(float).ravel()
        assert np.corrcoef(still, moved)[0, 1] > 0.4


def test_digits_depend_on_the_seed_alone(tmp_path):
    data, settings = digit_folder(tmp_path), DigitsDataset()
    assert digits.plan(settings, data, 3) == digits.plan(settings, data, 3)
    assert digits.plan(settings, data, 3) != digits.plan(settings, data, 4)
    plan = digits.plan(settings, data, 3)[0]
    first, second = digits.load(plan, settings), digits.load(plan, settings)
    assert all(np.array_equal(a, b) for a, b in zip(first.frames, second.frames, strict=True))


def test_digits_without_usable_data_say_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    tone(tmp_path / "wrong" / "seven.wav")
    for data, said in (
        (None, "needs --data"),
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path / "empty", "no .wav file"),
        (tmp_path / "wrong", "seven.wav"),
    ):
        with pytest.raises(UserError, match=said) as error:
            digits.plan(DigitsDataset(), data, 0)
        assert "7_theo_13.wav" in str(error.value) and "CC BY-SA 4.0" in str(error.value)


def test_digits_name_a_file_that_they_leave_out(tmp_path, capsys):
    tone(digit_folder(tmp_path) / "recordings" / "noise.wav")
    assert len(digits.plan(DigitsDataset(), tmp_path, 0)) == 40
    assert "noise.wav" in capsys.readouterr().err


@needs_digits
def test_digits_of_the_real_set():
    plans = digits.plan(DigitsDataset(), SHARED / "spoken_digits", 0)
    assert Counter(p.split for p in plans) == {"train": 2400, "val": 300}
    assert not pictures_by_split(plans)["train"] & pictures_by_split(plans)["val"]
