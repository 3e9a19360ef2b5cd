"""A training step controlled by the host: on a CPU, where reading a number is free, and for several
processes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.tokens.batch import MaskedBatch
from nano4m.training.device_update import DOUBLE_EVERY
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.optim import WeightAverage, gradient_norm


class HostStep:
    """Computes the gradients of a step's groups, one after the other, and updates the weights.

    Args:
        module: Module of the model; made before the optimizers, because it may shard the weights.
        optimizers, average: Updated in every step.
        most: Maximum gradient norm.
        progress_state: Progress state of a resumed run; ``scale``, ``good``, ``skipped``, ``sums``
            and ``counts`` in it are kept up to date.
    """

    def __init__(
        self,
        module: MixedPrecisionModule,
        optimizers: Sequence[torch.optim.Optimizer],
        average: WeightAverage,
        most: float,
        progress_state: dict[str, Any],
    ) -> None:
        self.module, self.optimizers = module, optimizers
        self.average, self.most, self.progress_state = average, most, progress_state
        # Weights and loss scale may have been restored.
        module.scale = progress_state["scale"]
        module.refresh()

    def __call__(self, batches: list[MaskedBatch], rate: float) -> tuple[Tensor, float, bool]:
        """Take a step; return summed cross-entropy (C,), gradient norm, whether to go on.

        An fp16 step that overflows is skipped and the loss scale halved; after any other loss that
        is not finite training must stop, and the weights are unchanged.
        """
        with self.module.threads.limited():
            return self._step(batches, rate)

    def _step(self, batches: list[MaskedBatch], rate: float) -> tuple[Tensor, float, bool]:
        progress_state = self.progress_state
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        sums, counts = self.module.gradients(batches)
        norm = gradient_norm(self.module.model, self.most)
        if np.isfinite(norm) and bool(torch.isfinite(sums).all()):
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update(self.module.model)
            self.module.refresh()
            progress_state["good"] += 1
            if self.module.dtype == torch.float16 and progress_state["good"] % DOUBLE_EVERY == 0:
                self.module.scale *= 2
        elif self.module.dtype == torch.float16 and self.module.scale > 1:
            # Too large a scale is expected to overflow: skip the step and halve the scale.
            self.module.scale /= 2
            progress_state["skipped"] += 1
            sums, counts = torch.zeros_like(sums), torch.zeros_like(counts)
        else:
            return sums, norm, False
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        progress_state["scale"] = self.module.scale
        for key, values in (("sums", sums), ("counts", counts)):
            progress_state[key] = [
                a + b for a, b in zip(progress_state[key], values.tolist(), strict=True)
            ]
        return sums, norm, True
