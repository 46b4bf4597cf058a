"""Work shared out to as many threads as torch has: to those very threads, where its OpenMP lets others use them.

Between two operations torch's threads wait at work: they ask for the next one again and again for milliseconds.
Threads of our own beside them get half a core each at best, and two threads were slower than one.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

PARALLEL_FROM = 1 << 16
"""Numbers from which a second thread is worth its start."""

_PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def split(kernel: Callable[[int, int], None], size: int, work: int | None = None) -> None:
    """The kernel over all numbers below size; where there is enough to do in as many parts, about alike, as torch has
    threads. The kernel lets go of Python's lock. work: how much there is, in steps of a neuron or the like; the size
    where None.

    Raises:
        What the kernel raises in any of the parts.
    """
    threads = torch.get_num_threads() if (size if work is None else work) >= PARALLEL_FROM else 1
    if threads == 1:
        kernel(0, size)
        return
    ends = [size * part // threads for part in range(threads + 1)]
    failed: list[BaseException] = []

    def run(first: int, last: int) -> None:
        # An interrupt too: nobody above the thread, or above OpenMP, would hear of it.
        try:
            kernel(first, last)
        except BaseException as error:
            failed.append(error)

    team = torchs_team()
    (_own_threads if team is None else team)(run, list(pairwise(ends)))
    if failed:
        raise failed[0]


def _own_threads(run: Callable[[int, int], None], parts: list[tuple[int, int]]) -> None:
    jobs = [threading.Thread(target=run, args=part) for part in parts[1:]]
    for job in jobs:
        job.start()
    run(*parts[0])
    for job in jobs:
        job.join()


@cache
def torchs_team() -> Callable[[Callable[[int, int], None], list[tuple[int, int]]], None] | None:
    """Runs a function on parts, by the threads of the OpenMP library that torch brings along; None without one.

    GOMP_parallel is what GCC's compilers call for a parallel region; LLVM's library has it too.
    """
    for path in sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*")):
        try:
            library = ctypes.CDLL(str(path))
            parallel, number, count = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = [_PART, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return lambda run, parts: _in_team(parallel, number, count, run, parts)
    return None


def _in_team(
    parallel: Any, number: Any, count: Any, run: Callable[[int, int], None], parts: list[tuple[int, int]]
) -> None:
    def one(_: int | None) -> None:
        # The library may give fewer threads than asked for.
        for part in parts[number() :: count()]:
            run(*part)

    parallel(_PART(one), None, len(parts), 0)
