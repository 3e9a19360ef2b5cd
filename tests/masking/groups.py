"""Two layouts of tokens and what the masking tests ask of them; no tests."""

import numpy as np
import torch
from torch import Tensor

from conftest import tiny_modalities, tiny_table
from nano4m.config.masking import MaskingConfig
from nano4m.masking import STRATEGIES
from nano4m.modalities import MODALITIES
from nano4m.tokens.batch import TokenSequence

TOKENS = TokenSequence(tiny_modalities())
# Other lengths, other strides, a sound in the middle, fewer modalities.
OTHER = TokenSequence(
    tuple(
        MODALITIES[name].with_tokens(*size)
        for name, size in {
            "rgb": ((4, 5), 11),
            "sound": ((7, 3), 12),
            "caption": ((9,), 13),
        }.items()
    )
)


def tiny_rows(rows: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and valid of the first rows of the tiny table."""
    table = tiny_table(seed=seed)
    ids, valid = table.gather(np.arange(rows), None)
    return torch.from_numpy(ids), torch.from_numpy(valid)


def only(name: str, **more) -> MaskingConfig:
    """Return a configuration in which no other strategy has a weight."""
    return MaskingConfig(**{n: float(n == name) for n in STRATEGIES} | {"group_size": 8} | more)


def runs(slots: Tensor) -> list[tuple[int, int]]:
    """Return first and last of each run of consecutive True."""
    index = slots.nonzero()[:, 0].tolist()
    firsts = [i for i in index if i - 1 not in index]
    return list(zip(firsts, [i for i in index if i + 1 not in index], strict=True))
