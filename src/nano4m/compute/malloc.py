"""Malloc tuning: freed memory stays with the process for the next step.

The C library returns large blocks to the system at once, and the system clears each page that it
hands out again. A training step allocates gigabytes of intermediate results, so that takes up to a
seventh of its time (docs/PERFORMANCE.md).
"""

import ctypes
import sys

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 << 20
"""Bytes by which the heap grows beyond what is requested."""


def tune_malloc() -> bool:
    """Make the C library keep freed memory; return whether it supports this."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: TOP_PAD}
    return all(library.mallopt(name, value) == 1 for name, value in settings.items())
