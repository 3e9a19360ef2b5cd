"""Dropout whose random numbers may belong to the calling thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_thread = threading.local()


def dropout_generator() -> torch.Generator | None:
    """Return the generator of this thread's dropout; None: the global one of the device."""
    return getattr(_thread, "generator", None)


@contextmanager
def own_dropout(generator: torch.Generator | None) -> Iterator[None]:
    """Let dropout in this thread draw from ``generator`` inside the context.

    The global generator serves all threads in the order in which they ask.
    """
    before = dropout_generator()
    _thread.generator = generator
    try:
        yield
    finally:
        _thread.generator = before


def replayed(block: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``block`` so that it can be computed again: every call drops the same.

    With the global generator it is for the caller to restore its state.
    """
    generator = None if torch.compiler.is_compiling() else dropout_generator()
    if generator is None:
        return block
    seed = int(torch.randint(2**62, (1,), generator=generator))

    def again(*inputs: Any) -> Any:
        with own_dropout(torch.Generator().manual_seed(seed)):
            return block(*inputs)

    return again


class Dropout(nn.Module):
    """Sets a share of the numbers to 0 while training, and scales the others up."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like ``x``."""
        if not (self.training and self.share):
            return x
        # A compiler cannot follow what belongs to a thread.
        generator = None if torch.compiler.is_compiling() else dropout_generator()
        if generator is None:
            return F.dropout(x, self.share)
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=generator)
        return x * kept.div_(1 - self.share)
