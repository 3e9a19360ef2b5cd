"""Memory of a step and time of the training on a device, estimated before a run.

Memory is computed from widths and lengths (``memory_needed``). Time is the useful operations of the
run over the share of the measured peak that steps of this size reach (docs/PERFORMANCE.md), but at
least the time of launches; the other stages are not included.
"""

from typing import Any

import torch

from nano4m.compute.distributed import DistributedContext
from nano4m.compute.precision import measured_peak, resolve_device, resolve_dtype
from nano4m.config.run import Config
from nano4m.modalities import Modality
from nano4m.model.fourm import FourM
from nano4m.training.accounting import Operations, memory_needed
from nano4m.training.engine import choose

SHARES = {"by groups": 0.05, "packed": 0.12, "packed, CUDA graphs": 0.2}
"""Share of a GPU's peak that large steps reach, by engine; a quarter more if compiled."""
CPU_SHARE = 0.5
LAUNCH_SECONDS = 0.006
"""Least time of a step on a GPU."""


def forecast(config: Config, modalities: tuple[Modality, ...], model: FourM) -> dict[str, Any]:
    """Return memory and time of the training of ``config`` on its device.

    Args:
        config: Of the run; ``device`` names where.
        modalities: Of the run.
        model: Of the run, perhaps on ``meta``.

    Raises:
        UserError: The device does not exist.
    """
    device = resolve_device(config.device)
    train, masking = config.train, config.masking
    dtype = resolve_dtype(train, device)
    peak = measured_peak(dtype, device)
    whole = Operations.of(model).about(modalities, masking, train)
    engine = choose(config, DistributedContext(device), dtype, whole, peak, quiet=True)
    summary: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": str(dtype).removeprefix("torch."),
        "engine": str(engine),
    }
    if engine.packed:
        needed = memory_needed(model, train, masking, dtype, train.accumulate)
        summary["memory_of_a_step_gb"] = round(needed / 1e9, 1)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        summary["memory_of_the_card_gb"] = round(total / 1e9, 1)
    share = SHARES[str(engine).replace(", compiled", "")] * (1.25 if engine.compiled else 1)
    share = CPU_SHARE if device.type == "cpu" else share
    seconds = whole / (share * peak)
    if device.type == "cuda":
        seconds = max(seconds, LAUNCH_SECONDS * train.steps)
    summary["training_takes_about"] = _duration(seconds)
    summary["training_seconds"] = round(seconds, 1)
    return summary


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
