"""Fits and round trips on a device: the same numbers every time, and no waiting for the card.

Whatever is random is drawn on the CPU and sent. On a CPU nothing here changes a bit.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed PyTorch's global streams of the CPU and of ``device``, and put them back.

    Layers and the library of codebooks draw from them.
    """
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        # Not torch.manual_seed: that seeds every card there is, and only these are put back.
        torch.default_generator.manual_seed(seed)
        for card in cards:
            with torch.cuda.device(card):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def repeatable(device: torch.device, exact: bool = False) -> Iterator[None]:
    """Let convolutions give the same bits every time; all settings are as before afterwards.

    Args:
        device: Where they run; only CUDA needs anything.
        exact: In float32, where a card may otherwise round the factors to ten bits (TF32): a fit
            does not mind, but ids must be those that a CPU finds.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark = True, False
    if exact:
        cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before


@contextmanager
def ordered_sums(device: torch.device) -> Iterator[None]:
    """Let a GPU add scattered numbers in a fixed order, not as they come."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        # It warns of matrix products too, whose order changes with several streams only.
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


def fused(device: torch.device) -> bool | None:
    """Return the ``fused`` of an optimizer: one kernel for all weights on a GPU."""
    return True if device.type == "cuda" else None


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device; what was drawn on the CPU goes there without waiting."""
    if device.type != "cuda" or numbers.device.type != "cpu":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def has_room(size: int, device: torch.device) -> bool:
    """Return whether so many bytes leave most of the card's free memory to the work itself."""
    return device.type != "cuda" or 4 * size < torch.cuda.mem_get_info(device)[0]


def hold(media: Tensor, device: torch.device) -> Tensor:
    """Return media on the device if they fit comfortably, else as they are."""
    return media.to(device) if has_room(media.nbytes, device) else media


def take(media: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Return rows of what ``hold`` gave, on the device; ``rows``, int64 (n,), are on the CPU."""
    return send(media[send(rows, media.device)], device)
