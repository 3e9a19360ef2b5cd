"""What training costs: real tokens, useful operations, memory.

Tokens are counted, never assumed: given and asked-for ones of every batch, none of them padding.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nano4m.batch import MaskedBatch
from nano4m.model.fourm import FourM


def count_tokens(batches: Sequence[MaskedBatch]) -> int:
    """Return the number of given and asked-for tokens."""
    return sum(b.enc_ids_BN.numel() + b.dec_ids_BM.numel() for b in batches)


def _matrices(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


@dataclass(frozen=True)
class Operations:
    """Useful floating-point operations of a forward and backward pass.

    Multiplications and additions of matrix products are counted, once forward and twice backward:
    what passes through each token's own matrices, scores and sums of attention, and the scores of
    targets over their own vocabulary. Norms, softmax and what is computed again are not.
    """

    encoder: int
    decoder: int
    context: int
    registers: int
    depths: tuple[int, int]
    width: int
    heads: tuple[int, ...]

    @classmethod
    def of(cls, model: FourM) -> "Operations":
        """Count the matrices of a model."""
        keys = sum(_matrices(block.get_submodule("cross.kv")) for block in model.decoder)
        return cls(
            encoder=_matrices(model.encoder),
            decoder=_matrices(model.decoder) - keys,
            context=keys + _matrices(model.context),
            registers=int(model.config.register_token),
            depths=(len(model.encoder), len(model.decoder)),
            width=model.config.dim,
            heads=tuple(
                len(model.head(c, full=model.config.tables == "shared")[0])
                for c in range(len(model.modalities))
            ),
        )

    def count(self, batches: Sequence[MaskedBatch]) -> int:
        """Return the operations of one step on ``batches``."""
        total = 0
        for batch in batches:
            rows, given = batch.enc_ids_BN.shape
            given += self.registers
            asked = batch.dec_ids_BM.shape[1]
            matrices = given * (self.encoder + self.context) + asked * self.decoder
            attention = self.depths[0] * given**2 + self.depths[1] * asked * (asked + given)
            total += 2 * rows * (matrices + 2 * self.width * attention)
            targets = torch.bincount(batch.dec_modality_BM.flatten(), minlength=len(self.heads))
            scores = sum(n * v for n, v in zip(targets.tolist(), self.heads, strict=True))
            total += 2 * self.width * scores
        return 3 * total


def peak_memory(device: torch.device) -> int:
    """Return the most memory held so far, in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux getrusage starts from what the process that started this one had held.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (s for s in status.read_text().splitlines() if s.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
