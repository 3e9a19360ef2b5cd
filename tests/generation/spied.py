"""A tiny model that is watched while it generates, and what must hold at every step; no tests."""

import numpy as np
import torch

from conftest import tiny_modalities, tiny_table
from nano4m.config.model import ModelConfig
from nano4m.generation.likelihoods import log_prob_parts
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence

TOKENS = TokenSequence(tiny_modalities())
RGB, SOUND, CAPTION = (TOKENS.slices[TOKENS.index(n)] for n in ("rgb", "sound", "caption"))
BOOK_0, BOOK_1 = slice(SOUND.start, SOUND.stop, 2), slice(SOUND.start + 1, SOUND.stop, 2)


def build_model() -> FourM:
    built = FourM(
        ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), TOKENS.modalities
    )
    draw = torch.Generator().manual_seed(0)
    built.init_weights(draw)
    for head in built.heads:
        torch.nn.init.normal_(head.weight, 0, 0.5, generator=draw)
    return built.eval()


def log_probs(model, tokens, ids, given, asked, batch_size=64):
    """Return the whole distributions over the ids of each slot's codebook, (B, T, W)."""
    index = int(tokens.modality_L[asked[0, 0]])
    out = torch.empty(*asked.shape, tokens.modalities[index].codebook_size)
    for rows, first, log_p in log_prob_parts(model, tokens, ids, given, asked, batch_size):
        out[rows, first : first + log_p.shape[1]] = log_p
    return out


class Spy:
    """Hands everything on to the model and keeps what it was shown and asked, as slots."""

    def __init__(self, model: FourM) -> None:
        self.model, self.device = model, model.device
        self.shown: list[list[dict[int, int]]] = []
        self.asked: list[list[list[int]]] = []

    @staticmethod
    def slots(modality: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
        starts = torch.tensor([s.start for s in TOKENS.slices])
        columns = torch.tensor([1 if m.is_text else m.shape[1] for m in TOKENS.modalities])
        return starts[modality] + coords[..., 0] * columns[modality] + coords[..., 1]

    def encode(self, ids, modality, coords):
        rows = zip(self.slots(modality, coords).tolist(), ids.tolist(), strict=True)
        self.shown.append([dict(zip(*row, strict=True)) for row in rows])
        return self.model.encode(ids, modality, coords)

    def decode(self, context, modality, coords):
        self.asked.append(self.slots(modality, coords).tolist())
        return self.model.decode(context, modality, coords)

    def logits(self, states, index, codebook=0):
        return self.model.logits(states, index, codebook)


def some_given(name="rgb", rows=6):
    ids, valid = (torch.from_numpy(a) for a in tiny_table().gather(np.arange(rows), None))
    ids[:, BOOK_0] %= 8
    ids[:, BOOK_1] = ids[:, BOOK_1] % 8 + 8
    given = torch.zeros_like(valid)
    span = TOKENS.slices[TOKENS.index(name)]
    given[:, span] = valid[:, span]
    return ids, given


def check(spy: Spy, ids, given, got, filled) -> None:
    """Check one row at every step: what was given stays, ids keep to their codebook."""
    kept = {slot: int(ids[0, slot]) for slot in given[0].nonzero()[:, 0].tolist()}
    for shown, asked in zip(spy.shown, spy.asked, strict=True):
        for row, slots in zip(shown, asked, strict=True):
            for slot in row.keys() & kept.keys():
                assert row[slot] == kept[slot], "a given id was changed on the way"
            assert not set(slots) & kept.keys(), "a given slot was asked for"
            assert not set(slots) & row.keys() and len(set(slots)) == len(slots)
    assert torch.equal(got[given], ids[given]) and filled[given].all()
    for book, span in enumerate((BOOK_0, BOOK_1)):
        made = got[:, span][filled[:, span]]
        assert ((made >= 8 * book) & (made < 8 * book + 8)).all(), "an id of another codebook"
    for m, span in zip(TOKENS.modalities, TOKENS.slices, strict=True):
        made = got[:, span][filled[:, span]]
        assert ((made >= 0) & (made < m.vocab_size)).all()
