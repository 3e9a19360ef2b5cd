"""CUDA graphs: kernels that were launched once, launched again with one call.

A step of a small model is some hundreds of kernels of a few microseconds each; launching them from
Python takes longer than computing them (docs/PERFORMANCE.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Captured(Generic[Result]):
    """Kernels that can be launched again, and the tensors that they write to each time."""

    graph: torch.cuda.CUDAGraph
    result: Result

    def replay(self) -> Result:
        """Launch them; the result is valid until any graph of the same recorder is launched."""
        self.graph.replay()
        return self.result


class GraphRecorder:
    """Captures work that has run at least once before, all of it into one pool of memory.

    Graphs may share memory, so they are replayed in the order in which they were captured or one
    sequence of them after another, never interleaved.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], Result]) -> Captured[Result]:
        """Capture what ``work`` launches on the current device; it is not executed."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        return Captured(graph, result)
