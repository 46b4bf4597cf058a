"""Work on several cores, for functions that spend their time in compiled code without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORTHWHILE = 1_000_000
"""Elements of work (synapses, weights) below which one thread is as fast."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], work: int) -> list[Result]:
    """The function of every item, in the order of the items; on several threads where there is much work.

    work: elements in all items together. What the function raises for the first item that fails is raised.
    """
    items = list(items)
    workers = min(cores(), len(items))
    if workers < 2 or work < WORTHWHILE:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
