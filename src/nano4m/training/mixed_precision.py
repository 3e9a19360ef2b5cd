"""Mixed-precision module: compute weights, their gradients, and the float32 master weights.

In float32 both are one model. In bf16 and fp16 a copy computes, made once and refreshed after every
update: matrix products need no casts, and rounded values are never accumulated (arXiv:1710.03740).
With sharded weights FSDP2 keeps the copy.

Shapes: C modalities.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.compute.distributed import DistributedContext
from nano4m.compute.threads import Threads
from nano4m.model.dropout import own_dropout
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch
from nano4m.training.lanes import Lane, Layout, lanes_here
from nano4m.training.loss import MaskedLoss, count_targets, modality_weights


class MixedPrecisionModule:
    """The model as one process computes with it.

    Args:
        model: float32, on the device of ``world``; the optimizers update its parameters.
        dtype: Compute type.
        world: The processes that share a batch.
        compiled: Compile the compute copy.
        threads: Threads that compute the lanes of a step (``nano4m.training.lanes``); None: as many
            as PyTorch would use.

    Attributes:
        scale: Factor on losses before the gradient, so that fp16 does not lose small ones; 1 in
            other types.
    """

    def __init__(
        self,
        model: FourM,
        dtype: torch.dtype,
        world: DistributedContext,
        compiled: bool = False,
        threads: int | None = None,
    ) -> None:
        self.model, self.dtype, self.world = model, dtype, world
        own = model
        self.is_copy = dtype != torch.float32 and not world.sharded
        if self.is_copy:
            own = copy.deepcopy(model).to(dtype)
        self.master_params = list(model.parameters())
        module: nn.Module = MaskedLoss(own)
        if world.sharded:
            module = world.fsdp_shard(module)
            self.master_params = list(model.parameters())
        self.compute_params: list[Tensor] = list(own.parameters())
        self.module = module
        computing: Any = torch.compile(module, dynamic=True) if compiled else module
        self.layout = Layout(own, lanes_here(world, compiled))
        self.lanes = [Lane(computing, self.compute_params, self.is_copy)]
        self.lanes += [Lane.like(own, self.is_copy) for _ in range(self.layout.lanes - 1)]
        self.threads = Threads(self.layout.lanes, threads)
        self.scale = 2.0**12 if dtype == torch.float16 else 1.0
        self.factors_C = torch.ones(len(model.modalities))

    def set_factors(self, factors: Sequence[float]) -> None:
        """Set the factor of each modality's loss."""
        self.factors_C = torch.tensor(factors)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's weights to the compute copy."""
        if self.is_copy:
            torch._foreach_copy_(self.compute_params, [m.detach() for m in self.master_params])

    @torch.no_grad()
    def _unscale(self) -> None:
        if self.scale != 1:
            for master in self.master_params:
                if master.grad is not None:
                    master.grad.div_(self.scale)

    def gradients(self, batches: list[MaskedBatch]) -> tuple[Tensor, Tensor]:
        """Set the gradients of the loss over ``batches``, all of a step, on the model's weights.

        Every rank gets all batches and computes its part of them; all ranks get the gradients of
        the whole step.

        Returns:
            Summed cross-entropy and number of targets of each modality over all batches, float32
            (C,) on the CPU.
        """
        counts_C = count_targets(batches, len(self.model.modalities))
        weights_C = modality_weights(counts_C) * self.factors_C
        weights_C = weights_C.to(self.world.device) * self.scale
        # FSDP2 averages over processes, but the loss weights of the whole step need a sum.
        weights_C = weights_C * (self.world.size if self.world.sharded else 1)
        own = self.world.shard(batches)
        # Shards are exchanged in every pass, so all processes need equally many passes.
        idle = self.world.all_max(len(own)) - len(own) if self.world.sharded else 0
        shared = [own] if len(self.lanes) == 1 else self.layout.share(own)
        # Drawn here, because threads would draw in the order in which they happen to ask.
        seeds = torch.randint(2**62, (len(shared),)).tolist()

        def compute(lane: Lane, passes: list[MaskedBatch], seed: int) -> Tensor:
            total_C = torch.zeros(len(counts_C), device=self.world.device)
            with own_dropout(torch.Generator().manual_seed(seed) if self.is_laid_out else None):
                for number, batch in enumerate([*passes, *batches[:1] * idle]):
                    sums_C = lane.module(batch.to(self.world.device))
                    counted = number < len(passes)
                    ((sums_C * weights_C).sum() * float(counted)).backward()
                    lane.collect()
                    total_C += sums_C.detach() * float(counted)
            return total_C

        tasks = [partial(compute, *own) for own in zip(self.lanes, shared, seeds, strict=False)]
        sums = self.threads(tasks)
        self._add_gradients(self.lanes[: len(shared)])
        total_C = torch.stack(sums).sum(0)
        self.world.release(self.module)
        if not self.world.sharded:
            self.world.all_reduce_sum([m.grad for m in self.master_params if m.grad is not None])
        self._unscale()
        self.world.all_reduce_sum([total_C])
        return total_C.cpu(), counts_C

    @property
    def is_laid_out(self) -> bool:
        """Whether a step is shared by several lanes."""
        return len(self.lanes) > 1

    @property
    def update_threads(self) -> Threads | None:
        """Threads of the optimizers; None: each updates in its own way."""
        return self.threads if self.is_laid_out else None

    @torch.no_grad()
    def _add_gradients(self, lanes: list[Lane]) -> None:
        """Set the gradients of the model to the sums over lanes."""
        if not (self.is_copy or self.is_laid_out):
            return
        first, *others = (lane.take() for lane in lanes)
        for grads in others:
            torch._foreach_add_(first, grads)
        for master, grad in zip(self.master_params, first, strict=True):
            master.grad = grad

    @torch.no_grad()
    def evaluate(self, batches: list[MaskedBatch]) -> tuple[Tensor, Tensor]:
        """Return what ``gradients`` does, without gradients; every rank computes all batches."""

        def compute(lane: Lane, passes: list[MaskedBatch]) -> Tensor:
            total_C = torch.zeros(len(self.model.modalities))
            lane.module.eval()
            with torch.no_grad():  # belongs to a thread
                for batch in passes:
                    total_C += lane.module(batch.to(self.world.device)).cpu()
            lane.module.train()
            return total_C

        shared = self.layout.share(batches) if self.is_laid_out else [batches]
        tasks = [partial(compute, *own) for own in zip(self.lanes, shared, strict=False)]
        sums = self.threads(tasks)
        self.world.release(self.module)
        return torch.stack(sums).sum(0), count_targets(batches, len(self.model.modalities))
