"""Choice of how a step is computed: packed or not, compiled or not, with CUDA graphs or not."""

import os
import shutil
from dataclasses import dataclass

import torch

from nano4m.compute.distributed import DistributedContext
from nano4m.compute.workers import count_workers
from nano4m.config.run import Config
from nano4m.config.training import TrainConfig
from nano4m.errors import UserError
from nano4m.model.attention import has_varlen_kernel
from nano4m.progress import log_info

USUAL_SHARE = 0.2
"""Share of the peak that steps reach without a compiler on a large GPU."""
LEAST_SECONDS = 90
"""Duration of a run from which compiling, 20 to 50 s, pays off."""


@dataclass(frozen=True)
class Engine:
    """The resolved choices of ``TrainConfig``.

    Attributes:
        packed: All samples of a step are one row of tokens, and the update is decided on the
            device.
        compiled: Blocks and loss are compiled.
        graphs: Passes and update are captured.
    """

    packed: bool
    compiled: bool
    graphs: bool

    def __str__(self) -> str:
        found = ["packed" if self.packed else "by groups"]
        found += ["compiled"] * self.compiled + ["CUDA graphs"] * self.graphs
        return ", ".join(found)


def why_no_compiler() -> str | None:
    """Return what TorchInductor lacks on a GPU, or None."""
    from torch.utils._triton import has_triton

    if not has_triton():
        return "Triton is missing (pip install triton)"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "there is no C compiler (apt install gcc)"
    return None


def choose(
    config: Config,
    world: DistributedContext,
    dtype: torch.dtype,
    operations: float,
    peak: float,
    quiet: bool = False,
) -> Engine:
    """Return ``packed``, ``compile`` and ``graphs``, resolved for this device and these processes.

    Args:
        config: ``train`` and ``model`` are used.
        world: The processes that train together.
        dtype: Compute type.
        operations: Useful operations of the whole run.
        peak: Peak operations a second of the device.
        quiet: Do not log what is missing.

    Raises:
        UserError: A setting that is not possible here.
    """
    settings, model = config.train, config.model
    on_gpu = world.device.type == "cuda"
    alone = world.size == 1
    if settings.packed == "on" and not alone:
        raise UserError(
            f"--train.packed on takes one process, and there are {world.size}; leave it out"
        )
    if settings.packed == "on" and world.device.type not in ("cpu", "cuda"):
        raise UserError(f"--train.packed on is for cpu and cuda, not {world.device}; leave it out")
    packed = settings.packed == "on" or (settings.packed == "auto" and on_gpu and alone)
    # Without a kernel for sequences of any lengths, a graph would fix the lengths of one step.
    fused = packed and on_gpu and has_varlen_kernel(world.device, dtype, model.head_dim)
    # Recomputation must drop the same, but two graphs have separate random number offsets.
    capturable = fused and not (model.checkpointing and settings.dropout)
    if settings.graphs == "on" and not capturable:
        raise UserError(
            "--train.graphs on captures packed steps in bf16 or fp16 on a CUDA card from Ampere "
            "on, with heads of a multiple of 8 channels, and not checkpointing with dropout; leave "
            "it at auto"
        )
    graphs = settings.graphs != "off" and capturable
    compiled = settings.compile == "on"
    if compiled and packed and not fused:
        raise UserError(
            "--train.compile on compiles packed steps where one kernel attends to sequences of any "
            "lengths (bf16 or fp16 on a CUDA card from Ampere on); give --train.packed off too"
        )
    if on_gpu and settings.compile != "off":
        lacking = why_no_compiler()
        if lacking and compiled:
            raise UserError(f"--train.compile on: {lacking}; give --train.compile off")
        # Compiling costs more than a short run gains; without that kernel every step recompiles.
        pays = fused and operations / (USUAL_SHARE * peak) > LEAST_SECONDS
        compiled = compiled or (settings.compile == "auto" and pays and not lacking)
        if settings.compile == "auto" and pays and lacking and not (quiet or world.rank):
            log_info(f"train: not compiled, {lacking}; steps take a quarter longer")
    return Engine(packed, compiled, graphs)


def mask_workers(settings: TrainConfig, device: torch.device) -> int:
    """Return how many processes make batches in advance."""
    if settings.workers is not None:
        return settings.workers
    return min(8, count_workers("auto") // 2) if device.type == "cuda" else 0
