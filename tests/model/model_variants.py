"""A small model in every choice of its architecture, and batches for it; no tests."""

import numpy as np
import pytest
import torch

from conftest import tiny_modalities
from nano4m.config.model import ModelConfig
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch

MODALITIES = tiny_modalities()
SIZE = {"encoder_depth": 2, "decoder_depth": 2, "dim": 16, "head_dim": 8, "mlp_ratio": 3.0}
PUBLISHED = {
    "positions": "sincos1d", "tables": "shared", "register_token": False, "context": "positioned",
    "init": "normal",
}  # fmt: skip
VARIANTS: dict[str, dict] = {
    "default": {},
    "sincos1d": {"positions": "sincos1d"},
    "rope1d": {"positions": "rope1d"},
    "coarse_first": {"positions": "sincos1d", "codebook_order": "coarse_first"},
    "delay": {"positions": "rope1d", "codebook_order": "delay"},
    "rope2d": {"positions": "rope2d"},
    "swiglu": {"mlp": "swiglu"},
    "qk_norm": {"qk_norm": True},
    "soft_cap": {"logit_soft_cap": 4.0},
    "shared": {"tables": "shared"},
    "tied": {"tied": True},
    "tied_shared": {"tied": True, "tables": "shared"},
    "positioned": {"context": "positioned"},
    "no_register": {"register_token": False},
    "published": PUBLISHED,
    "modern": {"positions": "rope2d", "mlp": "swiglu", "qk_norm": True, "logit_soft_cap": 20.0},
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


def build(name: str, seed: int = 0, **more) -> FourM:
    """A model whose gains, biases and heads are not what they start from."""
    model = FourM(ModelConfig(**(SIZE | VARIANTS[name] | more)), MODALITIES)
    draw = torch.Generator().manual_seed(seed)
    model.init_weights(draw)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.startswith("heads.") or key.endswith("bias"):
                weight.normal_(0, 0.3, generator=draw)
            elif "norm" in key:
                weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.2)
    return model.eval()


def all_logits(model: FourM, states: torch.Tensor, index: int) -> torch.Tensor:
    """The logits of all ids of a modality, (..., V): those of its codebooks, one after the other.

    Asked for together, each slot with its codebook, they are the same.
    """
    books = range(MODALITIES[index].num_codebooks)
    parts = [model.logits(states, index, book) for book in books]
    for book, own in zip(books, parts, strict=True):
        each = torch.full(states.shape[:-1], book)
        torch.testing.assert_close(model.logits(states, index, each), own)
    return torch.cat(parts, -1)


def batch_of(rows: int = 2, given: int = 7, asked: int = 5, seed: int = 0) -> MaskedBatch:
    """Random tokens of random modalities."""
    draw = torch.Generator().manual_seed(seed)

    def side(count: int) -> list[torch.Tensor]:
        modality = torch.randint(len(MODALITIES), (rows, count), generator=draw)
        ids, coords = torch.zeros_like(modality), torch.zeros(rows, count, 2, dtype=torch.long)
        for place in np.ndindex(rows, count):
            entry = MODALITIES[modality[place]]
            drawn = torch.randint(entry.vocab_size, (), generator=draw)
            slot = int(torch.randint(entry.length, (), generator=draw))
            size = entry.codebook_size
            ids[place] = drawn % size + slot % entry.num_codebooks * size
            coords[place] = torch.tensor(entry.coordinates()[slot])
        return [ids, modality, coords]

    return MaskedBatch(*side(given), *side(asked))
