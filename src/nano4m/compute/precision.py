"""Devices, numeric types, and the matrix product speed of this machine.

Weights, their averages, optimizer states, gradient sums and losses are always float32; the choice
of type applies to activations and to the compute copy of the weights.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from nano4m.config.training import TrainConfig
from nano4m.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXACT = 1e-5


def resolve_device(name: str) -> torch.device:
    """Return the device ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``auto`` prefers a CUDA GPU.

    Under torchrun ``open_distributed`` assigns each process its card.

    Raises:
        UserError: The device does not exist; the message has the reason and the alternatives.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if found else torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise UserError(f"--device {name}: allowed are auto, cpu, cuda, cuda:N and mps")
    if kind == "cuda":
        if not found:
            raise UserError(f"--device {name}: {_why_no_cuda()}; use auto or cpu")
        if int(number or 0) >= found:
            cards = ", ".join(f"cuda:{i}" for i in range(found))
            raise UserError(f"--device {name}: this machine has {cards}")
        return torch.device("cuda", int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Metal device; use auto or cpu")
    return torch.device(kind)


def _why_no_cuda() -> str:
    """Return why PyTorch sees no CUDA device."""
    if torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} is a build without CUDA; install one with CUDA (2.11 or "
            "newer) into this environment"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r} and leaves no CUDA device visible"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        # The first line names an old driver and its version.
        return f"no CUDA device can be used ({str(error).strip().splitlines()[0]})"
    return "this machine has no CUDA device"


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices natively, and therefore faster."""
    if device.type == "cuda":
        # T4 and V100 emulate it, which is slower than float32.
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the compute type; ``auto``: bf16 where native, fp16 on older CUDA cards, else fp32."""
    if config.precision != "auto":
        return DTYPES[config.precision]
    if multiplies_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


@cache
def has_exact_onednn() -> bool:
    """Return whether this CPU's float32 products through oneDNN have float32 accuracy.

    PyTorch calls MKL for them, which does not use AVX-512 on AMD processors: on a Zen 5 core oneDNN
    is 2.2 times as fast (docs/PERFORMANCE.md). The setting that enables it also permits rounding to
    bf16, which oneDNN does only with AMX; so the error of a product is measured.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _matmul_precision("medium"):
        error = float((a @ b - exact).abs().max() / exact.abs().max())
    return error <= EXACT


@contextmanager
def float32_math(fast: bool = True) -> Iterator[None]:
    """Set up float32 math inside the context, whatever ran before, and restore it afterwards.

    So results depend on their inputs only: a training, an evaluation or a fit gives the same
    numbers first and last in a process. Denormal numbers count as 0 (they cost up to a hundred
    times the time), in the thread that enters.

    Args:
        fast: Use oneDNN for matrix products on a CPU if it is exact, see ``has_exact_onednn``. With
            a GPU the process's own setting (TF32 or not) is kept.
    """
    precision = torch.get_float32_matmul_precision()
    if not fast:
        precision = "highest"
    elif not torch.cuda.is_available():
        precision = "medium" if has_exact_onednn() else "highest"
    flushed = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        with _matmul_precision(precision):
            yield
    finally:
        torch.set_flush_denormal(flushed)


@contextmanager
def _matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def flushes_denormals() -> bool:
    """Return whether denormals count as 0 in this thread; PyTorch has no getter for it."""
    return float(torch.tensor(1e-40) * torch.tensor(1.0)) == 0


def measured_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the fastest matrix product measured in a fraction of a second, in FLOP a second.

    Square matrices of 256, 1,024 and 2,048, or of 4,096 and 8,192 on a GPU; the best of several
    tries, because a busy machine only makes a product slower. With AMX the larger ones are up to
    twice as fast on two threads. A type that the machine does not support natively is so slow that
    small matrices use up the time. A GPU is warmed up first, because its first product loads
    libraries.

    float32 on a GPU is the peak of what training uses: TF32 only if the process allows it.
    """
    if device.type == "cuda":
        return _peak_of_gpu(dtype, device)
    best, deadline = 0.0, time.perf_counter() + 0.2
    for size in (256, 1024, 2048):
        # Small products may be slow because a thread wakes up late: a larger one is tried once.
        if best and 2 * size**3 / best > 1:
            break
        draw = torch.Generator(device).manual_seed(0)
        a, b = (torch.randn(size, size, generator=draw, device=device).to(dtype) for _ in range(2))
        for _ in range(8):
            started = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
            if time.perf_counter() > deadline:
                break
    return best


def _peak_of_gpu(dtype: torch.dtype, device: torch.device) -> float:
    best = 0.0
    for size in (4096, 8192):
        draw = torch.Generator(device).manual_seed(0)
        a, b = (torch.randn(size, size, generator=draw, device=device).to(dtype) for _ in range(2))
        # Clocks rise and libraries load in the first milliseconds.
        for _ in range(3):
            a @ b
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(3):
                a @ b
            end.record()
            end.synchronize()
            best = max(best, 3 * 2 * size**3 / (start.elapsed_time(end) / 1e3))
    return best
