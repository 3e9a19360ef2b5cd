"""Orders of a sound's tokens: against MusicGen's own layout, and there and back at any length."""

import json

import pytest
import torch

from nano4m.tokens.patterns import PATTERNS, lay_out, ranks_of, restore, slots_of

LENGTHS = [0, 1, 2, 3, 7, 64, 257]


@pytest.fixture
def golden(shared_data):
    path = shared_data / "golden" / "patterns" / "delay_pattern.json"
    if not path.is_file():
        pytest.skip(f"needs the data of ../shared ({path})")
    return json.loads(path.read_text())["patterns"]


def test_delay_is_musicgens(golden):
    """Its sequence has one more step in front, of special ids alone."""
    assert {(case["K"], case["T"]) for case in golden} == {(2, 6), (4, 6)}
    for case in golden:
        frames, books = case["T"], case["K"]
        steps = [
            [[slot % books, slot // books] for slot in step]
            for step in slots_of("delay", frames, books)
        ]
        assert [sorted(s) for s in case["steps"]] == [[], *steps]
        assert len(steps) == case["sequence_steps"] - 1
        example = case["example"]
        codes_BTQ = torch.tensor(example["codes"]).T[None]
        laid = lay_out(codes_BTQ, "delay", example["special_token"])
        wanted = torch.tensor(example["delayed"])
        assert torch.equal(laid[0].T, wanted[:, 1:]) and (wanted[:, 0] == -1).all()
        assert torch.equal(laid[0].T != -1, torch.tensor(example["mask"])[:, 1:].bool())
        assert torch.equal(restore(laid, "delay", frames, books), codes_BTQ)
        step_of = torch.tensor(case["step_of"]) - 1
        for step, slots in enumerate(slots_of("delay", frames, books)):
            for slot in slots:
                assert step_of[slot % books, slot // books] == step


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("books", [1, 2, 4, 9])
@pytest.mark.parametrize("frames", LENGTHS)
def test_there_and_back(name, books, frames):
    g = torch.Generator().manual_seed(frames * 10 + books)
    ids = torch.randint(0, 5000, (3, frames, books), generator=g)
    laid = lay_out(ids, name, -7)
    assert torch.equal(restore(laid, name, frames, books), ids)
    assert int((laid != -7).sum()) == ids.numel(), "an id that stands twice, or not at all"
    slots = [slot for step in slots_of(name, frames, books) for slot in step]
    assert sorted(slots) == list(range(frames * books))
    assert all(step for step in slots_of(name, frames, books)), "an empty step"
    # A codebook comes after the coarser ones of its frame, or with them.
    step_of = {s: i for i, step in enumerate(slots_of(name, frames, books)) for s in step}
    for t in range(frames):
        own = [step_of[t * books + q] for q in range(books)]
        assert own == sorted(own)


def test_steps_and_places():
    ids = torch.tensor([[[0, 10], [1, 11], [2, 12]]])
    assert lay_out(ids, "interleave", -1)[0, :, 0].tolist() == [0, 10, 1, 11, 2, 12]
    assert lay_out(ids, "coarse_first", -1)[0, :, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert lay_out(ids, "parallel", -1)[0].tolist() == ids[0].tolist()
    assert lay_out(ids, "delay", -1)[0].tolist() == [[0, -1], [1, 10], [2, 11], [-1, 12]]
    assert ranks_of("interleave", 3, 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert ranks_of("coarse_first", 3, 2).tolist() == [0, 3, 1, 4, 2, 5]
    assert ranks_of("delay", 3, 2).tolist() == [0, 2, 1, 4, 3, 5]
    assert lay_out(ids.to(torch.uint16).int(), "delay", 9).dtype == torch.int32


@pytest.mark.parametrize("name", PATTERNS)
def test_another_length_is_refused(name):
    laid = lay_out(torch.zeros(2, 5, 3, dtype=torch.int64), name, -1)
    for wrong in (laid[:, :-1], laid[:, :, :-1]):
        with pytest.raises(ValueError, match=r"has \(steps, tokens\)"):
            restore(wrong, name, 5, 3)
