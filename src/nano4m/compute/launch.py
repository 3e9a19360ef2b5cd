"""Rank and number of processes from torchrun's environment, without imports."""

import os


def rank_of_process() -> int:
    """Return the rank of this process under torchrun; 0 for a single process."""
    return int(os.environ.get("RANK", 0))


def size_of_world() -> int:
    """Return the number of processes that torchrun started; 1 for a single process."""
    return int(os.environ.get("WORLD_SIZE", 1))
