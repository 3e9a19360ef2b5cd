"""What torchrun tells a process about itself; nothing is imported."""

import os


def rank_of_process() -> int:
    """Return the number of this process among those of torchrun; 0 when alone."""
    return int(os.environ.get("RANK", 0))


def size_of_world() -> int:
    """Return the number of processes that torchrun started; 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", 1))
