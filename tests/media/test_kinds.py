"""What every kind of media promises, by the registry; a kind that lacks a part is refused."""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nano4m.cli import main
from nano4m.errors import UserError
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import REQUIRED, Item, check_kinds
from nano4m.modalities import MODALITIES

RATE, SIZE = 16000, 24
CLIPS = SimpleNamespace(picture_size=SIZE, depth_near=1.0)
PLANES = [name for name, kind in MEDIA.items() if kind.is_plane]


def stored(name: str, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """A plane as the clips table codes it: its two halves differ, so that a flip is seen."""
    kind, rng = MEDIA[name], np.random.default_rng(seed)
    coarse = rng.uniform(0.55, 0.95, (kind.channels, 4, 4))
    coarse[..., :2] -= 0.5
    # One row is turned round: a kind of two values differs from seed to seed too.
    coarse[:, seed % 4] = coarse[:, seed % 4, ::-1]
    values = coarse.repeat(size // 4, 1).repeat(size // 4, 2)
    if kind.is_direction:
        values = values * 2 - 1
        values /= np.linalg.norm(values, axis=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"plane{kind.suffix}"
        path.write_bytes(kind.write(values, RATE))
        recorded = kind.read(path, SimpleNamespace(picture_size=size, depth_near=1.0))
    return kind.crop(recorded, (0, 0, size), SimpleNamespace(picture_size=size, depth_near=1.0))


def shown(array: np.ndarray) -> np.ndarray:
    """The plane (C, H, W) that ``decode`` should give."""
    values = array / 255 if array.dtype == np.uint8 else array.astype(np.float32)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def items(name: str, count: int = 3) -> torch.Tensor | list[str]:
    """Media of some clips as tokenizers take them."""
    kind = MEDIA[name]
    if kind.form == "text":
        return [f"a dog {i}" for i in range(count)]
    if kind.form == "sound":
        turns = torch.arange(RATE // 4) / RATE * 2 * torch.pi
        return torch.stack([0.5 * torch.sin(turns * 300 * (i + 1)) for i in range(count)])
    cells = [[kind.encode(stored(name, seed=i))] for i in range(count)]
    return kind.decode(cells, 0)


@pytest.mark.parametrize("name", PLANES)
def test_a_plane_comes_back_from_its_cell(name):
    kind = MEDIA[name]
    planes = [[stored(name, seed=2 * i), stored(name, seed=2 * i + 1)] for i in range(3)]
    cells = [[kind.encode(plane) for plane in clip] for clip in planes]
    whole = kind.decode(cells, None)
    assert whole.shape == (3, 2, kind.channels, SIZE, SIZE) and whole.dtype == torch.float32
    expected = np.stack([np.stack([shown(plane) for plane in clip]) for clip in planes])
    assert np.abs(whole.numpy() - expected).mean() < 0.02
    assert torch.equal(kind.decode(cells, 1), whole[:, 1])
    assert torch.equal(kind.decode(cells[1:], 0), whole[1:, 0])


@pytest.mark.parametrize("name", PLANES)
def test_what_is_written_can_be_read_and_cut_again(name, tmp_path):
    kind = MEDIA[name]
    media = kind.decode([[kind.encode(stored(name))]], 0)
    path = tmp_path / f"file{kind.suffix}"
    path.write_bytes(kind.write(media[0], RATE))
    plane = kind.read(path, CLIPS)
    again = kind.encode(kind.crop(plane, (0, 0, SIZE), CLIPS))
    assert (kind.decode([[again]], 0) - media).abs().mean() < 0.03


@pytest.mark.parametrize("name", PLANES)
def test_a_crop_is_a_crop_of_the_box(name, tmp_path):
    kind = MEDIA[name]
    path = tmp_path / f"plane{kind.suffix}"
    path.write_bytes(kind.write(shown(stored(name, 48)), RATE))
    recorded = kind.read(path, CLIPS)
    left = kind.crop(recorded, (0, 0, 24), CLIPS)
    assert left.shape[:2] == (SIZE, SIZE)
    right = kind.crop(recorded, (24, 0, 24), CLIPS)
    assert np.abs(shown(left) - shown(right)).mean() > 0.1, "the two halves are alike"


@pytest.mark.parametrize("name", MEDIA)
def test_a_classifier_and_a_page_can_look_at_it(name):
    kind, media = MEDIA[name], items(name)
    if kind.form == "text":
        assert kind.features is None and kind.pixels is None
        return
    features = kind.features(RATE, torch.device("cpu"))(media)
    assert features.ndim == 4 and len(features) == 3
    generator = torch.Generator().manual_seed(0)
    varied = kind.augment(features, generator, lambda numbers, device: numbers)
    assert varied.shape == features.shape and not torch.equal(varied, features)
    item = Item(media=name, value=media[0], sample_rate=RATE)
    top = kind.limit(item) if kind.limit else kind.default_limit
    pixels = kind.pixels(item, top)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.std() > 5, "nothing to see"
    other = kind.pixels(Item(media=name, value=media[1], sample_rate=RATE), top)
    assert not np.array_equal(pixels, other)


@pytest.mark.parametrize("name", PLANES)
def test_fidelity_is_perfect_for_the_original_and_worse_for_another(name):
    media = items(name)
    same = MEDIA[name].fidelity(media, media.clone(), None)
    other = MEDIA[name].fidelity(media, media.roll(1, 0), None)
    assert same.keys() == other.keys() and same != other
    assert all(np.isfinite(value) for value in (*same.values(), *other.values()))


def test_silhouettes_count_pixels():
    real = torch.zeros(2, 1, 4, 4)
    real[0, 0, :2] = 1
    found = torch.zeros(2, 1, 4, 4)
    found[0, 0, 1:3] = 0.9
    numbers = MEDIA["silhouette"].fidelity(real, found, None)
    # The empty one is right, and has nothing in common with anything.
    assert numbers == pytest.approx({"iou": (4 / 12 + 0) / 2, "pixel_accuracy": (8 / 16 + 1) / 2})


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, part) for name, kind in MEDIA.items() for part in REQUIRED[kind.form]],
)
def test_a_kind_without_a_part_is_refused_by_its_name(name, part):
    empty = {"channels": 0, "suffix": ""}.get(part)
    lacking = MEDIA | {name: dataclasses.replace(MEDIA[name], **{part: empty})}
    with pytest.raises(UserError, match=f"media kind {name!r} lacks {part};"):
        check_kinds(lacking, MODALITIES.values())


def test_a_form_that_is_none_is_refused():
    odd = MEDIA | {"depth": dataclasses.replace(MEDIA["depth"], form="plain")}
    with pytest.raises(UserError, match="'depth' has the form 'plain'; did you mean 'plane'"):
        check_kinds(odd, [])


def test_a_modality_with_a_tokenizer_of_another_layout_is_refused(monkeypatch, capsys):
    wrong = dataclasses.replace(MODALITIES["rgb"], tokenizer="mel_vq")
    monkeypatch.setitem(MODALITIES, "rgb", wrong)
    with pytest.raises(SystemExit):
        main(["info", "farm"])
    assert "'rgb' has the tokenizer 'mel_vq', which makes no tokens" in capsys.readouterr().err


def test_a_column_twice_a_wrong_name_and_a_wrong_layout_are_refused():
    twice = MEDIA | {"depth": dataclasses.replace(MEDIA["depth"], column="normals")}
    with pytest.raises(UserError, match="'depth' and 'normals' share the column 'normals'"):
        check_kinds(twice, MODALITIES.values())
    with pytest.raises(UserError, match="depth.py is called 'normals'; call it 'depth'"):
        check_kinds({"depth": MEDIA["normals"]}, [])
    wrong = dataclasses.replace(MODALITIES["depth"], layout="text")
    with pytest.raises(
        UserError, match="'depth' has the layout 'text'; tokens of 'depth' have grid"
    ):
        check_kinds(MEDIA, [wrong])
    with pytest.raises(UserError, match="unknown media 'dept'; did you mean 'depth'"):
        media_kind("dept")


def test_every_command_refuses_a_kind_that_lacks_a_part_before_it_starts(monkeypatch, capsys):
    monkeypatch.setitem(MEDIA, "depth", dataclasses.replace(MEDIA["depth"], fidelity=None))
    for command in (["run", "farm"], ["info", "farm"], ["generate", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        assert "media kind 'depth' lacks fidelity" in capsys.readouterr().err


def test_a_modality_of_a_kind_without_a_file_is_named():
    code = (
        "import dataclasses, nano4m.modalities as m\n"
        "flow = dataclasses.replace(m.MODALITIES['rgb'], name='flow', media='flow')\n"
        "m.MODALITIES['flow'] = flow\n"
        "from nano4m.cli import main\nmain(['info', 'modalities'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "flow has media 'flow', and there is no nano4m/media/flow.py" in done.stderr


def test_looking_at_the_kinds_loads_no_torch():
    code = "import sys, nano4m.media; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
