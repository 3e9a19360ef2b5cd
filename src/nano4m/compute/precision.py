"""What numbers are computed in, and how fast this machine multiplies matrices.

Weights, their averages, optimizer states, gradient sums and losses are float32 whatever is chosen
here: the choice is that of activations and of the copy of the weights that computes.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from nano4m.config.run import TrainConfig
from nano4m.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXACT = 1e-5


def resolve_device(name: str) -> torch.device:
    """Return the device to compute on: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto`` for the
    GPU if there is one.

    Processes of torchrun are given their own card by ``open_distributed``.

    Raises:
        UserError: A device that is not there; the message says why, and what is.
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
        return f"CUDA_VISIBLE_DEVICES is {visible!r} and leaves no CUDA device to be seen"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        # The first line names an old driver and its version.
        return f"no CUDA device can be used ({str(error).strip().splitlines()[0]})"
    return "this machine has no CUDA device"


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether products of bf16 matrices are native to the device, and so the faster ones."""
    if device.type == "cuda":
        # T4 and V100 emulate it, which is slower than float32.
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Return the type to compute in; ``auto`` is bf16 where the machine multiplies it natively,
    fp16 on an older CUDA card, else fp32.
    """
    if config.precision != "auto":
        return DTYPES[config.precision]
    if multiplies_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


@cache
def has_exact_onednn() -> bool:
    """Return whether this CPU's float32 products through oneDNN are as exact as float32 is.

    PyTorch calls MKL for them, which on AMD processors does not use AVX-512: on a Zen 5 core oneDNN
    is 2.2 times as fast (docs/PERFORMANCE.md). The switch to it is the permission to round to bf16,
    which oneDNN makes use of with AMX only; so a product is measured.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with _matmul_precision("medium"):
        error = float((a @ b - exact).abs().max() / exact.abs().max())
    return error <= EXACT


@contextmanager
def float32_math(fast: bool = True) -> Iterator[None]:
    """Compute float32 in one way inside, whatever ran before in this process, and put it back.

    Results then depend on their inputs alone: a training, an evaluation or a fit gives the same
    numbers first and last in a process. Denormal numbers count as 0 (they cost up to a hundred
    times the time), in the thread that enters.

    Args:
        fast: Take oneDNN for products of a CPU where it is exact, see ``has_exact_onednn``. With a
            GPU the process's own choice (TF32 or not) stays.
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
    """Return whether denormal numbers count as 0 in this thread; PyTorch can set it, not tell."""
    return float(torch.tensor(1e-40) * torch.tensor(1.0)) == 0


def measured_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the fastest matrix product seen in a fraction of a second, in FLOP a second.

    Square matrices of 256, 1,024 and 2,048, or of 4,096 and 8,192 on a GPU; the best of several
    tries, because a busy machine only ever makes a product slower. With AMX the larger ones are up
    to twice as fast on two threads. A type that the machine does not multiply is so slow that the
    small ones use the time up. A GPU is warmed up before: its first product loads libraries.

    float32 on a GPU is the peak of what training uses: TF32 only where the process allows it.
    """
    if device.type == "cuda":
        return _peak_of_gpu(dtype, device)
    best, deadline = 0.0, time.perf_counter() + 0.2
    for size in (256, 1024, 2048):
        # Small products may be slow where a thread wakes up late: a larger one is tried once.
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
