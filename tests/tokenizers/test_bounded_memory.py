"""Long windows and many views are read in smaller parts, with the same result as in large ones."""

import numpy as np
import pytest
import torch
from test_fit import Clips

from nano4m.tokenizers import apply, fit


class Long(Clips):
    """Clips that count the most of their sound that was asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def media(self, kind, rows, frame=None):
        found = super().media(kind, rows, frame)
        self.largest = max(self.largest, len(rows))
        return found


@pytest.mark.parametrize("kind, fitting", [("sound", 5), ("caption", apply.CHUNK)])
def test_a_chunk_holds_as_many_views_as_fit(kind, fitting, monkeypatch):
    clips, rows = Clips(), np.arange(64)
    monkeypatch.setattr(apply, "MOST_BYTES", 2000 * 4 * 3 * 5 + 100)  # five times three sounds
    assert apply.chunk_size(clips, kind, rows, views=3) == fitting
    assert apply.chunk_size(clips, kind, rows, views=10**9) == (1 if kind == "sound" else fitting)
    monkeypatch.undo()
    assert apply.chunk_size(clips, kind, rows, views=3) == apply.CHUNK


def test_a_fit_reads_as_many_sounds_as_fit(monkeypatch):
    rows = np.arange(64)

    def read(most: int) -> torch.Tensor:
        monkeypatch.setattr(fit, "MOST_SOUND_BYTES", most)
        return fit.READS["sound"](Clips(), "sound", rows, torch.Generator().manual_seed(0), 0)

    whole, some = read(1 << 30), read(2000 * 4 * 7 + 5)
    assert len(whole) == 64 and len(some) == 7
    chosen = [next(i for i, own in enumerate(whole) if torch.equal(own, part)) for part in some]
    assert chosen == sorted(set(chosen)), "the same sounds, once each, in the order of the table"
    assert torch.equal(some, read(2000 * 4 * 7))
    assert len(read(1)) == 1
