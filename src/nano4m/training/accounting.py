"""Cost of training: real tokens, useful operations, memory.

Tokens are counted, never estimated: inputs and targets of every batch, none of them padding.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from nano4m.config.masking import MaskingConfig
from nano4m.config.training import TrainConfig
from nano4m.modalities import Modality
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch


def count_tokens(batches: Sequence[MaskedBatch]) -> int:
    """Return the number of input and target tokens."""
    return sum(b.input_ids_BN.numel() + b.target_ids_BM.numel() for b in batches)


def _matrices(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


@dataclass(frozen=True)
class Operations:
    """Useful floating-point operations of a forward and backward pass.

    Multiplications and additions of matrix products count, once forward and twice backward: each
    token's own matrices, attention scores and sums, and the logits of targets over the ids of
    their own codebook. Norms, softmax and recomputation do not count.
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
        """Return the operations of a model, from its matrices."""
        keys = sum(_matrices(block.get_submodule("cross.kv")) for block in model.decoder)
        return cls(
            encoder=_matrices(model.encoder),
            decoder=_matrices(model.decoder) - keys,
            context=keys + _matrices(model.context),
            registers=int(model.config.register_token),
            depths=(len(model.encoder), len(model.decoder)),
            width=model.config.dim,
            heads=tuple(len(model.loss_heads(c)[0][0]) for c in range(len(model.modalities))),
        )

    def count(self, batches: Sequence[MaskedBatch]) -> int:
        """Return the operations of one step on ``batches``."""
        groups = [
            (
                len(b.input_ids_BN),
                b.input_ids_BN.shape[1] + self.registers,
                b.target_ids_BM.shape[1],
            )
            for b in batches
        ]
        kinds = torch.cat([b.target_modality_BM.flatten() for b in batches])
        targets = torch.bincount(kinds, minlength=len(self.heads)).tolist()
        return self.of_groups(groups, targets)

    def about(
        self, modalities: Sequence[Modality], masking: MaskingConfig, train: TrainConfig
    ) -> int:
        """Return an estimate of the operations of a whole run."""
        num_inputs, num_targets = usual_totals(modalities, masking)
        slots = sum(m.length for m in modalities)
        targets = [round(train.batch_size * num_targets * m.length / slots) for m in modalities]
        return self.of_groups([(train.batch_size, num_inputs, num_targets)], targets) * train.steps

    def of_groups(self, groups: Sequence[tuple[int, int, int]], targets: Sequence[int]) -> int:
        """Return the operations of a step.

        Args:
            groups: (samples, inputs of each with its register, targets of each).
            targets: Number of targets of each modality, over all samples.
        """
        total = 0
        for rows, num_inputs, num_targets in groups:
            matrices = num_inputs * (self.encoder + self.context) + num_targets * self.decoder
            attention = self.depths[0] * num_inputs**2 + self.depths[1] * num_targets * (
                num_targets + num_inputs
            )
            total += 2 * rows * (matrices + 2 * self.width * attention)
        scores = sum(n * v for n, v in zip(targets, self.heads, strict=True))
        return 3 * (total + 2 * self.width * scores)


def usual_totals(modalities: Sequence[Modality], masking: MaskingConfig) -> tuple[int, int]:
    """Return estimates of a sample's mean inputs, register included, and targets."""
    slots = sum(m.length for m in modalities)
    if masking.totals_repeat:
        most = min(masking.max_inputs or slots, slots), min(masking.max_targets or slots, slots)
        return (masking.min_inputs + most[0]) // 2 + 1, (masking.min_targets + most[1]) // 2
    return slots // 3 + 1, slots // 3


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far, in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux getrusage includes the peak of the parent process.
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (s for s in status.read_text().splitlines() if s.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_needed(
    model: FourM, train: TrainConfig, masking: MaskingConfig, dtype: torch.dtype, passes: int
) -> int:
    """Return an estimate of the memory of a packed step on a GPU, in bytes.

    It is the sum of weights, gradients, optimizer states and average, of the activations kept for
    the backward pass, and of the logits of the loss. Computed from the widths of the layers, it is
    within a fifth of measurements (docs/PERFORMANCE.md).

    Args:
        model: On any device, also ``meta``.
        train: ``batch_size``, ``ema`` and ``optimizer`` are used.
        masking: Masking settings of the run.
        dtype: Compute type.
        passes: Forward passes of a step.
    """
    size = dtype.itemsize
    a_weight = 4 + 4 + 8 + (4 if train.ema else 0) + (2 * size if size < 4 else 4)
    fixed = model.num_parameters * a_weight
    num_inputs, num_targets = usual_totals(model.modalities, masking)
    width, ratio = model.config.dim, model.config.mlp_ratio
    # Inputs of norms, matrices and nonlinearity, in multiples of the width.
    encoder = len(model.encoder) * (8 + 2 * ratio)
    decoder = len(model.decoder) * (12 + 2 * ratio)
    context = len(model.decoder) * 4
    kept = (num_inputs * (encoder + context) + num_targets * decoder) * width * size
    # Logits of the largest codebook, which may have twice its share of a step's targets.
    targets = 2 * num_targets * train.batch_size // passes
    slots = sum(m.length for m in model.modalities)
    most = max(
        targets * m.length // slots // m.num_codebooks * m.codebook_size for m in model.modalities
    )
    # Logits are float32, their gradient has the compute type.
    scores = min(most, 1 << 28) * (4 + size)
    return int(fixed + kept * train.batch_size / passes + scores)
