"""A step laid out for several cores: its batches are shared by lanes, which are computed side by
side and whose gradients are added in a fixed order.

What each lane computes depends on the batches and on the number of lanes only. So a step has the
same result, bit by bit, on one thread or on several, on an idle machine or on a busy one.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nano4m.compute.distributed import DistributedContext
from nano4m.compute.threads import count_lanes
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch
from nano4m.training.accounting import Operations
from nano4m.training.loss import MaskedLoss

UNEVEN = 1.04
"""The longest lane over the mean from which the costliest batch of it is cut in two."""


def lanes_here(world: DistributedContext, compiled: bool) -> int:
    """Return the number of lanes: 1 on a GPU, for several processes, or if compiled."""
    alone = world.size == 1 and world.device.type == "cpu"
    return count_lanes() if alone and not compiled else 1


class Lane:
    """A model that shares its weights with others and has gradients of its own.

    Args:
        module: Returns the summed cross-entropy of each modality of a batch, (C,).
        parameters: The module's, of the compute type.
        summed: Keep the sum of the gradients in float32 beside the parameters.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], summed: bool) -> None:
        self.module, self.parameters, self.summed = module, list(parameters), summed
        self._sums: list[Tensor] = []

    @classmethod
    def like(cls, model: FourM, summed: bool) -> "Lane":
        """Return a lane that computes with the weights of ``model``, wherever they move."""
        shared: dict[int, Tensor] = {id(b): b for b in model.buffers()}
        for parameter in model.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach())
        own = copy.deepcopy(model, dict(shared))
        return cls(MaskedLoss(own), list(own.parameters()), summed)

    def collect(self) -> None:
        """Add the gradients of one backward pass to the float32 sums."""
        if not self.summed:
            return
        grads = [p.grad for p in self.parameters if p.grad is not None]
        assert len(grads) == len(self.parameters), "every parameter takes part in every pass"
        if self._sums:
            torch._foreach_add_(self._sums, grads)
        else:
            self._sums = [g.float() for g in grads]
        for parameter in self.parameters:
            parameter.grad = None

    def take(self) -> list[Tensor]:
        """Return the gradients of all passes since the last call, float32, and forget them."""
        sums, self._sums = self._sums, []
        if not self.summed:
            sums = [p.grad for p in self.parameters if p.grad is not None]
            for parameter in self.parameters:
                parameter.grad = None
        return sums


class Layout:
    """Shares the batches of a step among lanes.

    Args:
        model: Of the compute type; its operations weigh batches.
        lanes: How many.
    """

    def __init__(self, model: FourM, lanes: int) -> None:
        self.lanes = lanes
        self._cost: Callable[[Sequence[MaskedBatch]], int] = Operations.of(model).count

    def share(self, batches: Sequence[MaskedBatch]) -> list[list[MaskedBatch]]:
        """Return the batches of each lane, at most ``lanes`` lists of about equal cost.

        Batches are halved by samples where whole ones leave a lane waiting. Sums over all lists
        are those over ``batches``.
        """
        parts = list(batches)
        shared = self._assign(parts)
        for _ in range(2 * self.lanes - 2):
            costs = [self._cost(own) if own else 0 for own in shared]
            longest = shared[costs.index(max(costs))]
            largest = max(longest, key=lambda part: self._cost([part]))
            rows = len(largest.input_ids_BN)
            if max(costs) <= UNEVEN * sum(costs) / self.lanes or rows == 1:
                break
            at = next(i for i, part in enumerate(parts) if part is largest)
            cut = (slice(0, rows // 2), slice(rows // 2, None))
            parts[at : at + 1] = [MaskedBatch(*(t[rows] for t in largest)) for rows in cut]
            shared = self._assign(parts)
        return [own for own in shared if own]

    def _assign(self, parts: Sequence[MaskedBatch]) -> list[list[MaskedBatch]]:
        """Give the costliest part first, each to the lane that has least so far."""
        costs = [self._cost([part]) for part in parts]
        lanes: list[list[int]] = [[] for _ in range(self.lanes)]
        totals = [0] * self.lanes
        for i in sorted(range(len(parts)), key=lambda i: -costs[i]):
            lane = totals.index(min(totals))
            lanes[lane].append(i)
            totals[lane] += costs[i]
        return [[parts[i] for i in own] for own in lanes]
