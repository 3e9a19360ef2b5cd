"""Batched Muon: all matrices of one shape go through Newton-Schulz together.

The update is that of torch.optim.Muon (github.com/KellerJordan/Muon, learning rate as in
arXiv:2502.16982). That takes some 25 small kernels a matrix, this one as many for all matrices of a
shape, and it never waits for the device.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nano4m.compute.threads import Threads

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7


def orthogonalize(matrices_NAB: Tensor) -> Tensor:
    """Return matrices (n, a, b) with all singular values moved towards 1, in bf16."""
    x = matrices_NAB.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class BatchedMuon(torch.optim.Optimizer):
    """Muon with decoupled decay and Nesterov momentum for 2-D parameters.

    Its state is that of torch.optim.Muon, so either can resume the other. As with fused AdamW,
    gradients are divided by ``grad_scale`` and a step is skipped if ``found_inf`` is 1, if these
    attributes are set.

    Args:
        params: Matrices of hidden layers.
        lr: Learning rate; may be a tensor on the device.
        weight_decay: Decoupled.
        momentum: Of the moving average.
        threads: Update matrices side by side instead of batched: on a CPU products of one matrix
            keep a core busy.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        threads: Threads | None = None,
    ) -> None:
        capturable = isinstance(lr, Tensor)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults | {"capturable": capturable})
        self.threads = threads

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(parameter.shape), []).append(parameter)
            if self.threads is None:
                for parameters in alike.values():
                    self._step(parameters, group)
            else:
                each = [partial(self._step, [p], group) for own in alike.values() for p in own]
                self.threads(each)

    @torch.no_grad()  # belongs to a thread
    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        if self.grad_scale is not None:
            grads = list(torch._foreach_div(grads, self.grad_scale))
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momenta.append(state["momentum_buffer"])
        keep = group["momentum"]
        moved = torch._foreach_lerp(momenta, grads, 1 - keep)
        update_NAB = orthogonalize(torch.stack(torch._foreach_lerp(grads, moved, keep)))
        shape = parameters[0].shape
        # Matches the RMS of AdamW's updates, so that both share one learning rate.
        rate = group["lr"] * (0.2 * math.sqrt(max(shape)))
        shrunk = torch._foreach_mul(parameters, 1 - group["lr"] * group["weight_decay"])
        changes = torch._foreach_mul(list(update_NAB.float().unbind()), rate)
        torch._foreach_sub_(shrunk, changes)
        new = [*shrunk, *moved]
        if self.found_inf is not None:
            # Not by arithmetic, because skipped values may be infinite.
            is_left_out = self.found_inf.bool()
            pairs = zip((*parameters, *momenta), new, strict=True)
            new = [torch.where(is_left_out, old, found) for old, found in pairs]
        torch._foreach_copy_([*parameters, *momenta], new)
