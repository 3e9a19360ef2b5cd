"""Tokenizers and classifiers on a device: nothing is left on the CPU, and nobody waits for a GPU.

Without a GPU the device is ``meta``: its tensors have shapes and no numbers, an operation that
mixes them with tensors of the CPU is refused, and a number read from them is noticed.
"""

import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit import Clips
from test_tokenizers import IMAGE, MEDIA, MEL, RATE, fit
from torch.utils._python_dispatch import TorchDispatchMode

import nano4m
from nano4m.compute.on_device import hold, ordered_sums, repeatable, seeded, take
from nano4m.evaluate.classifiers import train_classifier
from nano4m.tokenizers import apply, load_tokenizer
from nano4m.tokenizers.image_vq import ImageVQTokenizer
from nano4m.tokenizers.mel_vq import MelVQTokenizer
from nano4m.tokenizers.quality import measure

META = torch.device("meta")
CARD = torch.device("cuda", 0)
TENSORS = [name for name in MEDIA if name != "caption"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class HostReads(TorchDispatchMode):
    """Counts the lines that read a number from ``meta``, and answers them with nothing special."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == META:
            frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename]
            last = [f for f in frames if f.filename != __file__][-1]
            self.found[f"{Path(last.filename).name}: {last.line}"] += 1
            return False if args[0].dtype == torch.bool else 0.5
        return func(*args, **(kwargs or {}))

    def of_ours(self) -> dict[str, int]:
        """Return the reads that stand in a file of this package."""
        own = {path.name for path in Path(nano4m.__file__).parent.rglob("*.py")}
        return {line: n for line, n in self.found.items() if line.split(":")[0] in own}


class Judged(Clips):
    """Clips of one frame, as a classifier asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_frames = 1

    def media(self, kind, rows, frame=None):
        media = super().media(kind, rows, frame)
        return media[:, None] if media.ndim == 4 else media


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tokenizer of each kind, hardly trained."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name in MEDIA:
        fit(name, **({} if name == "caption" else {"steps": 3})).save(folder / name)
    return folder


# -- contracts of all --------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEDIA)
def test_moving_returns_the_tokenizer_and_keeps_its_fingerprint(saved, name):
    tokenizer = load_tokenizer(saved / name)
    before = tokenizer.fingerprint
    assert tokenizer.device.type == "cpu" and tokenizer.to("cpu") is tokenizer
    assert tokenizer.fingerprint == before
    moved = load_tokenizer(saved / name, META)
    assert moved.device == (torch.device("cpu") if name == "caption" else META)


@pytest.mark.parametrize("name", TENSORS)
def test_media_and_ids_follow_the_tokenizer_and_meet_no_tensor_of_the_cpu(saved, name):
    here, there = load_tokenizer(saved / name), load_tokenizer(saved / name, META)
    media = MEDIA[name](5)
    ids = here.encode(media)
    with HostReads() as reads:
        # The library asks whether its codebook was started; no is the answer of this device.
        made = there.encode(media)
        assert made.device == META and made.shape == ids.shape
        decoded = there.decode(ids)
    assert decoded.device == META and decoded.shape == media.shape
    assert not reads.of_ours(), "ids of the CPU are checked there"


def test_captions_take_ids_of_any_device(saved):
    tokenizer = load_tokenizer(saved / "caption", META)
    captions = MEDIA["caption"](3)
    assert tokenizer.decode(tokenizer.to(META).encode(captions)) == captions


# -- fits --------------------------------------------------------------------------------------


def _fit(name: str, device: torch.device, steps: int, **changes):
    media = MEDIA[name](64)
    if name in ("sound", "residual"):
        books = {"codebooks": 2, "vocab": 32} if name == "residual" else {}
        section = MEL.model_copy(update={"steps": steps} | books | changes)
        return MelVQTokenizer.fit(section, media, RATE, 0, device)
    changes = {"quantizer": "fsq" if name == "fsq" else "vq", "steps": steps} | changes
    kind = "picture" if name == "fsq" else name
    return ImageVQTokenizer.fit(IMAGE.model_copy(update=changes), kind, media.half(), 0, device)


@pytest.mark.parametrize(
    "name, changes", [("picture", {}), ("fsq", {}), ("residual", {"views": 2})]
)
def test_a_fit_reads_nothing_from_its_device_but_every_twentieth_loss(name, changes):
    with HostReads() as reads:
        assert _fit(name, META, 25, **changes).device == META
    (line, count), *others = reads.of_ours().items()
    assert "loss.item()" in line and count == 2 and not others


@pytest.mark.parametrize("kind", ["picture", "sound"])
def test_a_judge_trains_where_its_media_are_and_reads_nothing(kind):
    clips, rows = Judged(), np.arange(64)
    with HostReads() as reads:
        train_classifier(kind, clips, rows, rows % 3, 3, steps=4, seed=0, device=META)
    assert not reads.found


def test_a_planted_read_is_noticed():
    with HostReads() as reads:
        hold(torch.zeros(3), META).sum().item()
    assert sum(reads.found.values()) == 1


def test_global_streams_and_settings_come_back():
    cudnn = torch.backends.cudnn
    torch.manual_seed(5)
    expected, before = torch.rand(3), (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
    torch.manual_seed(5)
    with seeded(1), pytest.raises(KeyError), repeatable(CARD, exact=True), ordered_sums(CARD):
        assert cudnn.deterministic and not cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(7)
        raise KeyError
    assert torch.equal(torch.rand(3), expected)
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_rows_of_media_that_a_device_has_no_room_for(monkeypatch):
    media, rows = torch.arange(12).view(6, 2), torch.tensor([4, 0])
    assert torch.equal(take(media, rows, torch.device("cpu")), media[rows])
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (4 * media.nbytes, 0))
    assert hold(media, CARD) is media
    assert take(media, rows, META).device == META


# -- the token table ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "most, sizes", [(1 << 28, [4, 4, 1]), (100, [2, 2, 2, 2, 1]), (1, [1] * 9)]
)
def test_a_gpu_encodes_several_chunks_together(monkeypatch, most, sizes):
    monkeypatch.setattr(apply, "MOST_BYTES", most)
    chunks = [torch.full((1, 1, 15), float(i)) for i in range(9)]
    joined = list(apply._join(iter(chunks), CARD))
    assert [len(part) for part in joined] == sizes
    assert torch.equal(torch.cat(joined), torch.cat(chunks))
    assert len(list(apply._join(iter(chunks), torch.device("cpu")))) == 9


def test_texts_are_joined_too():
    assert list(apply._join(iter([["a"], ["b", "c"]]), CARD)) == [["a", "b", "c"]]


# -- with a GPU --------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("name", TENSORS)
def test_a_gpu_makes_the_ids_and_media_of_the_cpu(saved, name):
    here, there = load_tokenizer(saved / name), load_tokenizer(saved / name, CARD)
    assert there.fingerprint == here.fingerprint
    media = MEDIA[name](64)
    ids, made = here.encode(media), there.encode(media)
    assert made.device == CARD and (made.cpu() == ids).float().mean() > 0.99
    decoded = there.decode(ids)
    assert decoded.device == CARD
    # Phase reconstruction is chaotic: sounds agree in what they measure, not sample by sample.
    if name not in ("sound", "residual"):
        torch.testing.assert_close(decoded.cpu(), here.decode(ids), atol=1e-3, rtol=0)
    ours, theirs = (measure(t, "picture" if name == "fsq" else name if name != "residual" else
                            "sound", media) for t in (here, there))  # fmt: skip
    assert theirs == pytest.approx(ours, rel=0.05, abs=0.05)


@needs_gpu
@pytest.mark.parametrize("name", TENSORS)
def test_a_gpu_fits_the_same_tokenizer_twice_and_a_good_one(name):
    stream = torch.cuda.get_rng_state(CARD)
    first, again = _fit(name, CARD, 60), _fit(name, CARD, 60)
    assert torch.equal(torch.cuda.get_rng_state(CARD), stream)
    assert first.fingerprint == again.fingerprint
    media = MEDIA[name](64)
    kind = {"fsq": "picture", "residual": "sound"}.get(name, name)
    there, here = (
        measure(first, kind, media),
        measure(_fit(name, torch.device("cpu"), 60), kind, media),
    )
    error = next(iter(there))
    assert there[error] == pytest.approx(here[error], rel=0.25)


@needs_gpu
@pytest.mark.parametrize("kind", ["picture", "sound"])
def test_a_gpu_trains_the_same_judge_twice(kind):
    clips, rows = Judged(), np.arange(64)
    classifiers = [train_classifier(kind, clips, rows, rows % 3, 3, 40, 0, CARD) for _ in range(2)]
    media = MEDIA[kind](64)
    first, again = (classifier.predict(media) for classifier in classifiers)
    assert (first == again).all() and (classifiers[0].predict(media.to(CARD)) == first).all()
