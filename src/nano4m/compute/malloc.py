"""Memory that stays with the process: what a step frees, the next step uses.

The C library gives large blocks back to the system at once, and the system clears each page that it
hands out again. A training step makes gigabytes of intermediate results, so that takes up to a
seventh of its time (docs/PERFORMANCE.md).
"""

import ctypes
import sys

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 << 20
"""Bytes by which the heap grows beyond what is asked for."""


def tune_malloc() -> bool:
    """Tell the C library to keep what is freed; return whether it is one that can be told."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: TOP_PAD}
    return all(library.mallopt(name, value) == 1 for name, value in settings.items())
