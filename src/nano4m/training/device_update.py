"""The weight update on the device: clipping, skipping and counting without reads by the host.

Reading a number makes the host wait until the device has finished all launched work, and then the
device waits for the host. So all decisions of a step are made with tensors, and read when a line is
logged.

Shapes: C modalities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DOUBLE_EVERY = 1000
"""Good fp16 steps after which the loss scale doubles."""


@dataclass(frozen=True)
class Reading:
    """Counters of the steps since the last reading.

    Attributes:
        sums, counts: Summed cross-entropy and targets of each modality, over good steps.
        norm: Gradient norm of the last step.
        scale: Loss scale.
        good, skipped: Steps so far.
        bad: (sums, norm) of the step that stopped the run, or None.
    """

    sums: list[float]
    counts: list[float]
    norm: float
    scale: float
    good: int
    skipped: int
    bad: tuple[list[float], float] | None


class DeviceUpdate:
    """Float32 gradients, and the weight update from them.

    A step whose gradient is not finite changes nothing. In fp16 the loss scale is halved, down to
    1, and training continues; otherwise all further steps change nothing either, so the weights are
    those of the bad step when the host reads.

    Args:
        model: float32; its gradients are allocated here.
        copies: Compute weights, refreshed after the update; empty if the model itself computes.
        optimizers: Optimizers that support ``grad_scale`` and ``found_inf``.
        most: Maximum gradient norm.
        dtype: Compute type.
        modalities: Number of modalities C.
        progress_state: Progress state of a resumed run: ``scale``, ``good``, ``skipped``.
    """

    def __init__(
        self,
        model: nn.Module,
        copies: Sequence[Tensor],
        optimizers: Sequence[Any],
        most: float,
        dtype: torch.dtype,
        modalities: int,
        progress_state: dict[str, Any],
    ) -> None:
        self.master_params, self.compute_params = list(model.parameters()), list(copies)
        device = self.master_params[0].device
        for master in self.master_params:
            master.grad = torch.zeros_like(master)
        self.gradients: list[Tensor] = [m.grad for m in self.master_params if m.grad is not None]
        self.optimizers, self.most, self.halves = optimizers, most, dtype == torch.float16

        def number(value: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.full((), value, dtype=dtype, device=device)

        self.scale = number(progress_state["scale"])
        self.good = number(progress_state["good"], torch.int64)
        self.skipped = number(progress_state["skipped"], torch.int64)
        self.divisor, self.found, self.norm = number(1.0), number(), number()
        self.stopped = number(0, torch.bool)
        self.sums_C = torch.zeros(modalities, device=device)
        self.counts_C = torch.zeros(modalities, device=device)
        self.total_sums_C, self.total_counts_C = (
            torch.zeros(modalities, dtype=torch.float64, device=device) for _ in range(2)
        )
        self.bad_sums_C, self.bad_norm = torch.zeros_like(self.sums_C), number()
        for optimizer in optimizers:
            optimizer.grad_scale, optimizer.found_inf = self.divisor, self.found

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next update."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)

    @torch.no_grad()
    def __call__(self) -> None:
        """Update the weights from the gradients, and reset ``sums_C``."""
        norms = torch._foreach_norm(self.gradients)
        norm = torch.linalg.vector_norm(torch.stack(norms)) / self.scale
        is_bad = ~(norm.isfinite() & self.sums_C.isfinite().all())
        is_left_out = is_bad | self.stopped
        self.found.copy_(is_left_out)
        # The factor of clip_grad_norm_, as a divisor.
        self.divisor.copy_(self.scale * ((norm + 1e-6) / self.most).clamp(min=1))
        for optimizer in self.optimizers:
            optimizer.step()
        if self.compute_params:
            torch._foreach_copy_(self.compute_params, [m.detach() for m in self.master_params])
        self.norm.copy_(norm)
        self.good += ~is_left_out
        self.total_sums_C += torch.where(is_left_out, 0, self.sums_C)
        self.total_counts_C += torch.where(is_left_out, 0, self.counts_C)
        # In fp16 a smaller scale may help, unless it is 1.
        ends = is_bad & ~self.stopped
        if self.halves:
            ends = ends & (self.scale <= 1)
            self.skipped += is_bad & ~ends & ~self.stopped
            doubled = torch.where(self.good % DOUBLE_EVERY == 0, self.scale * 2, self.scale)
            doubled = torch.where(is_left_out, self.scale, doubled)
            self.scale.copy_(torch.where(is_bad, (self.scale / 2).clamp(min=1), doubled))
        self.bad_sums_C.copy_(torch.where(ends, self.sums_C, self.bad_sums_C))
        self.bad_norm.copy_(torch.where(ends, norm, self.bad_norm))
        self.stopped |= ends
        self.sums_C.zero_()
        self.counts_C.zero_()

    def read(self) -> Reading:
        """Return the counters and reset them. This waits for the device."""
        numbers = torch.cat([
            self.total_sums_C, self.total_counts_C, self.bad_sums_C.double(),
            torch.stack([
                n.double()
                for n in (self.norm, self.scale, self.good, self.skipped, self.stopped,
                          self.bad_norm)
            ]),
        ]).tolist()  # fmt: skip
        self.total_sums_C.zero_()
        self.total_counts_C.zero_()
        size = len(self.sums_C)
        sums, counts, bad_sums = (numbers[i * size : (i + 1) * size] for i in range(3))
        norm, scale, good, skipped, stopped, bad_norm = numbers[3 * size :]
        bad = (bad_sums, bad_norm) if stopped else None
        return Reading(sums, counts, norm, scale, round(good), round(skipped), bad)
