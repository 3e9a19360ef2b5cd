"""Mixed-precision module: compute weights, their gradients, and the float32 master weights.

In float32 both are one model. In bf16 and fp16 a copy computes, made once and refreshed after every
update: matrix products need no casts, and rounded values are never accumulated (arXiv:1710.03740).
With sharded weights FSDP2 keeps the copy.

Shapes: C modalities.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.compute.distributed import DistributedContext
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import MaskedBatch
from nano4m.training.loss import MaskedLoss, count_targets, modality_weights


class MixedPrecisionModule:
    """The model as one process computes with it.

    Args:
        model: float32, on the device of ``world``; the optimizers update its parameters.
        dtype: Compute type.
        world: The processes that share a batch.
        compiled: Compile the compute copy.

    Attributes:
        scale: Factor on losses before the gradient, so that fp16 does not lose small ones; 1 in
            other types.
    """

    def __init__(
        self, model: FourM, dtype: torch.dtype, world: DistributedContext, compiled: bool = False
    ) -> None:
        self.model, self.dtype, self.world = model, dtype, world
        own = model
        self.is_copy = dtype != torch.float32 and not world.sharded
        if self.is_copy:
            own = copy.deepcopy(model).to(dtype)
        self.master_params = list(model.parameters())
        self.module: nn.Module = MaskedLoss(own)
        if world.sharded:
            self.module = world.fsdp_shard(self.module)
            self.master_params = list(model.parameters())
        self.compute_params: list[Tensor] = list(own.parameters())
        self.computing: Any = torch.compile(self.module, dynamic=True) if compiled else self.module
        self.scale = 2.0**12 if dtype == torch.float16 else 1.0

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the model's weights to the compute copy."""
        if self.is_copy:
            torch._foreach_copy_(self.compute_params, [m.detach() for m in self.master_params])

    @torch.no_grad()
    def _accumulate_grads(self) -> None:
        """Add the gradients of the copy to those of the model, in float32."""
        if not self.is_copy:
            return
        for master, own in zip(self.master_params, self.compute_params, strict=True):
            assert own.grad is not None, "every parameter takes part in every pass"
            part = own.grad.float()
            master.grad = part if master.grad is None else master.grad.add_(part)
            own.grad = None

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
        weights_C = modality_weights(counts_C).to(self.world.device) * self.scale
        # FSDP2 averages over processes, but the loss weights of the whole step need a sum.
        weights_C = weights_C * (self.world.size if self.world.sharded else 1)
        total_C = torch.zeros(len(counts_C), device=self.world.device)
        own = self.world.shard(batches)
        # Shards are exchanged in every pass, so all processes need equally many passes.
        idle = self.world.all_max(len(own)) - len(own) if self.world.sharded else 0
        for number, batch in enumerate([*own, *batches[:1] * idle]):
            sums_C = self.computing(batch.to(self.world.device))
            counted = number < len(own)
            ((sums_C * weights_C).sum() * float(counted)).backward()
            self._accumulate_grads()
            total_C += sums_C.detach() * float(counted)
        self.world.release(self.module)
        if not self.world.sharded:
            self.world.all_reduce_sum([m.grad for m in self.master_params if m.grad is not None])
        self._unscale()
        self.world.all_reduce_sum([total_C])
        return total_C.cpu(), counts_C

    @torch.no_grad()
    def evaluate(self, batches: list[MaskedBatch]) -> tuple[Tensor, Tensor]:
        """Return what ``gradients`` does, without gradients; every rank computes all batches."""
        total_C = torch.zeros(len(self.model.modalities))
        self.module.eval()
        for batch in batches:
            total_C += self.computing(batch.to(self.world.device)).cpu()
        self.module.train()
        self.world.release(self.module)
        return total_C, count_targets(batches, len(self.model.modalities))
