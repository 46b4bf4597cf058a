"""How the C library hands out memory while training."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt, see its manual page."""
LARGEST_FROM_HEAP = 32 << 20
"""Bytes; the most that glibc takes as M_MMAP_THRESHOLD on 64 bits."""


def reuse_freed() -> bool:
    """Let the process keep freed arrays of up to 32 MiB for the next ones; whether the C library could be told.

    A training step makes the same arrays again and again. By default each of them is mapped anew and filled with zeros
    by the kernel, page by page: a fifth to a quarter of the processor time of a step of models/mnist_mlp.toml.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, 1 << 30))
