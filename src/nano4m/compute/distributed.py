"""Distributed training: one process on one device, or several processes started by torchrun.

A single process imports and launches nothing. Under torchrun, Lightning Fabric sets up the process
group, picks the device and communicates between processes.
"""

import atexit
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nano4m.compute.launch import check_launch, size_of_world, size_on_machine
from nano4m.compute.precision import resolve_device, resolve_dtype
from nano4m.config.run import Config
from nano4m.config.training import TrainConfig
from nano4m.errors import UserError

LARGE = 1 << 16
"""Number of elements from which a tensor is all-reduced by itself."""


@dataclass(frozen=True)
class DistributedContext:
    """The processes that train one model together.

    Attributes:
        device: Device of this process.
        rank: Rank of this process; rank 0 writes files and logs.
        size: Number of processes.
        sharded: Whether weights are sharded over processes (FSDP2) instead of replicated.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    sharded: bool = False
    _fabric: Any = field(default=None, repr=False)

    def shard(self, items: list[Any]) -> list[Any]:
        """Return this rank's part of ``items``: every ``size``-th, starting at its rank."""
        return items[self.rank :: self.size]

    def all_reduce_sum(self, tensors: list[Tensor]) -> None:
        """Replace ``tensors`` in place by their sums over all processes.

        Large ones are all-reduced in place, all at once; small ones are concatenated into one
        all-reduce.
        """
        if self.size == 1 or not tensors:
            return
        large = [t for t in tensors if t.numel() >= LARGE and t.is_contiguous()]
        small = [t for t in tensors if t.numel() < LARGE or not t.is_contiguous()]
        flat = torch.cat([t.reshape(-1) for t in small]) if small else None
        exchanged = [*large, *([] if flat is None else [flat])]
        under_way = [torch.distributed.all_reduce(t, async_op=True) for t in exchanged]
        for one in under_way:
            one.wait()
        if flat is not None:
            parts = flat.split([t.numel() for t in small])
            torch._foreach_copy_(small, [p.view_as(t) for p, t in zip(parts, small, strict=True)])

    def any_rank(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return bool(self.all_max(int(flag)))

    def all_max(self, number: int) -> int:
        """Return the maximum of ``number`` over all processes."""
        if self.size == 1:
            return number
        found = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            self._fabric.barrier()

    def fsdp_shard(self, module: nn.Module) -> nn.Module:
        """Return ``module`` with its weights sharded over the processes (FSDP2)."""
        return self._fabric.setup_module(module, move_to_device=False)

    def release(self, module: nn.Module) -> None:
        """Free the full weights that a forward pass has gathered; updates use the shards."""
        if self.sharded:
            from torch.distributed.fsdp import FSDPModule

            for part in module.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()


def open_distributed(
    config: TrainConfig, device: str = "auto", dtype: torch.dtype | None = None
) -> DistributedContext:
    """Return the context of the processes that torchrun started, or of a single process.

    Args:
        config: ``strategy`` is used.
        device: From the configuration, see ``resolve_device``.
        dtype: Compute type, for sharded weights.

    Raises:
        UserError: Several processes without the required packages or devices, or sharding without
            torchrun.
    """
    check_launch()
    size = size_of_world()
    if size == 1:
        if config.strategy == "fsdp":
            raise UserError(
                "--train.strategy fsdp shards weights over processes and there is one; run: "
                "torchrun --nproc-per-node N -m nano4m train PRESET --train.strategy fsdp"
            )
        return DistributedContext(resolve_device(device))
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise UserError(
            "several processes need Lightning Fabric; run: pip install 'nano4m-audio[scale]'"
        ) from error
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    kind = resolve_device(device).type
    local = size_on_machine()
    if kind == "cuda" and local > torch.cuda.device_count():
        raise UserError(
            f"torchrun starts {local} processes on this machine, which has "
            f"{torch.cuda.device_count()} CUDA devices; give --nproc-per-node at most that, or "
            f"--device cpu"
        )
    strategy: Any = DDPStrategy()
    if config.strategy == "fsdp":
        strategy = ModelParallelStrategy(
            _Sharding(dtype or torch.float32), data_parallel_size=size, tensor_parallel_size=1
        )
    fabric = Fabric(
        accelerator=kind, devices=local, num_nodes=size // local, strategy=strategy, precision=None
    )
    fabric.launch()
    atexit.unregister(_leave)
    atexit.register(_leave)
    return DistributedContext(
        fabric.device, fabric.global_rank, fabric.world_size, config.strategy == "fsdp", fabric
    )


def open_training(config: Config) -> DistributedContext:
    """Return the context in which to train ``config``, see ``open_distributed``."""
    dtype = resolve_dtype(config.train, resolve_device(config.device))
    return open_distributed(config.train, config.device, dtype)


def _leave() -> None:
    """Destroy the process group while the interpreter runs; its threads may still call back.

    Fabric does so for NCCL only; a Gloo thread that calls back after the interpreter's shutdown
    aborts a process whose work is done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class _Sharding:
    """Shards the blocks in a module's lists, then the rest."""

    dtype: torch.dtype

    def __call__(self, module: nn.Module, mesh: Any) -> nn.Module:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32)
        own = mesh["data_parallel"]
        for part in module.modules():
            if isinstance(part, nn.ModuleList):
                for block in part:
                    if not isinstance(block, nn.Linear):
                        fully_shard(block, mesh=own, mp_policy=policy)
        fully_shard(module, mesh=own, mp_policy=policy)
        return module
