"""Large buffers stay with the process while it trains.

A step frees and asks for the same hundreds of megabytes again and again; by default the C library returns such blocks
to the system each time, which then has to clear every page anew. That took a third of the time of convolutions.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""
DEFAULTS = {TRIM_THRESHOLD: 128 << 10, MMAP_MAX: 65536}
KEPT = {TRIM_THRESHOLD: (1 << 31) - 1, MMAP_MAX: 0}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within, freed memory is kept for the next request; elsewhere than with glibc nothing changes."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        yield
        return
    for parameter, value in KEPT.items():
        mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in DEFAULTS.items():
            mallopt(parameter, value)
