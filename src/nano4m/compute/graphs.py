"""CUDA graphs: kernels that are captured once and replayed with one call.

A step of a small model has some hundreds of kernels of a few microseconds each; launching them from
Python takes longer than computing them (docs/PERFORMANCE.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Captured(Generic[Result]):
    """Captured kernels and their output tensors, which each replay overwrites."""

    graph: torch.cuda.CUDAGraph
    result: Result

    def replay(self) -> Result:
        """Launch the kernels; the result is valid until the recorder's next replay."""
        self.graph.replay()
        return self.result


class GraphRecorder:
    """Captures work that has run at least once before into one memory pool.

    Graphs share memory, so they are replayed in the order of capture, or one sequence of them after
    another, never interleaved.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], Result]) -> Captured[Result]:
        """Capture the kernels that ``work`` launches on the current device; they do not run."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        return Captured(graph, result)
