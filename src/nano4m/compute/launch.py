"""Rank and number of processes from torchrun's environment, without imports of PyTorch."""

import os

from nano4m.errors import UserError


def _number(name: str, default: int, least: int) -> int:
    """Return a number of the environment; a variable that is empty is one that is not set.

    Raises:
        UserError: It is no whole number, or below ``least``.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    # At most a few digits: int() refuses thousands of them, and there are no such machines.
    if not (text.isascii() and text.isdigit() and len(text) < 10) or int(text) < least:
        raise UserError(
            f"the environment variable {name} is {text!r}, and torchrun sets it to a whole number "
            f"from {least} on; to train in one process, run: unset {name}"
        )
    return int(text)


def rank_of_process() -> int:
    """Return the rank of this process under torchrun; 0 for a single process.

    Raises:
        UserError: A variable of torchrun is no number, or they do not fit together.
    """
    rank, size = _number("RANK", 0, 0), size_of_world()
    if rank >= size:
        raise UserError(
            f"the environment variable RANK is {rank} and WORLD_SIZE is {size}, so there is no "
            "such process; to train in one process, run: unset RANK"
        )
    return rank


def size_of_world() -> int:
    """Return the number of processes that torchrun started; 1 for a single process.

    Raises:
        UserError: WORLD_SIZE is no number from 1 on.
    """
    return _number("WORLD_SIZE", 1, 1)


def size_on_machine() -> int:
    """Return how many of the processes run on this machine.

    Raises:
        UserError: LOCAL_WORLD_SIZE, or the size of the world, is no number from 1 on.
    """
    return _number("LOCAL_WORLD_SIZE", size_of_world(), 1)


def check_launch() -> None:
    """Check what torchrun sets for several processes, before they wait for each other.

    Raises:
        UserError: A variable is missing, or is no number.
    """
    rank_of_process()
    size_on_machine()
    _number("LOCAL_RANK", 0, 0)
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not os.environ.get(name, "").strip()]
    if size_of_world() > 1 and missing:
        raise UserError(
            f"WORLD_SIZE is {size_of_world()} and {missing[0]} is not set; start several processes "
            "with: torchrun --nproc-per-node N -m nano4m train PRESET; to train in one, run: "
            "unset WORLD_SIZE"
        )
