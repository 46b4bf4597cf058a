"""The inner loops of `toolchain.training.neurons`, compiled: a block of neurons stays in the cache for all its steps.

Arrays are (steps, neurons), C order. Numbers of bfloat16 come as the uint16 that they are stored in: a float32 without
its lower half. All arithmetic is float32, operation by operation, as torch's own would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BLOCK = 1024
"""Neurons at a time: their state and the pieces of one step fit the first level of cache."""


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compiled, and kept on disk where there is a folder for it; else compiled anew by every process."""
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, **options)(function)


def compiled(function: Callable[..., Any]) -> Any:
    return _jit(function)


def inlined(function: Callable[..., Any]) -> Any:
    return _jit(function, inline="always")


@inlined
def wide(x):  # type: ignore[no-untyped-def]
    """A bfloat16 as float32."""
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@inlined
def narrow(x):  # type: ignore[no-untyped-def]
    """A float32 as bfloat16, to nearest, ties to even."""
    bits = np.float32(x).view(np.uint32)
    odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


def _forward(read, write):  # type: ignore[no-untyped-def]
    """The window's forward loop for one type of numbers; `read` and `write` convert from and to float32."""

    @compiled
    def forward(current, potential, spikes, first, last, decay, threshold, integer, soft, refractory):  # type: ignore[no-untyped-def]
        steps = potential.shape[0]
        constant = current.shape[0] == 1
        v = np.empty(BLOCK, np.float32)
        wait = np.empty(BLOCK, np.int8)
        one, zero = write(np.float32(1)), write(np.float32(0))
        for start in range(first, last, BLOCK):
            n = min(BLOCK, last - start)
            v[:n] = 0
            wait[:n] = 0
            for t in range(steps):
                x = current[0 if constant else t, start : start + n]
                p = potential[t, start : start + n]
                s = spikes[t, start : start + n]
                if integer:
                    for i in range(n):
                        p[i] = np.float32(np.int32(v[i] * decay)) + read(x[i])
                else:
                    for i in range(n):
                        p[i] = v[i] * decay + read(x[i])
                if refractory:
                    for i in range(n):
                        if wait[i] > 0:
                            p[i] = 0
                        wait[i] = refractory if p[i] > threshold else max(wait[i] - 1, 0)
                if soft:
                    for i in range(n):
                        v[i] = p[i] - threshold if p[i] > threshold else p[i]
                else:
                    for i in range(n):
                        v[i] = np.float32(0) if p[i] > threshold else p[i]
                for i in range(n):
                    s[i] = one if p[i] > threshold else zero

    return forward


def _backward(read, write, below):  # type: ignore[no-untyped-def]
    """The window's backward loop. below: 1 / surrogate.

    `carried` is the gradient by the potential that a step leaves to the next.
    """

    @compiled
    def backward(  # type: ignore[no-untyped-def]
        upstream, potential, gradient, first, last, decay, threshold, unit, slope, soft, refractory
    ):
        steps = potential.shape[0]
        constant = gradient.shape[0] == 1
        carried = np.empty(BLOCK, np.float32)
        total = np.empty(BLOCK, np.float32)
        for start in range(first, last, BLOCK):
            n = min(BLOCK, last - start)
            carried[:n] = 0
            total[:n] = 0
            for back in range(steps):
                t = steps - 1 - back
                p = potential[t, start : start + n]
                g = upstream[t, start : start + n]
                if not soft:
                    # The reset is detached: what was carried past a spike does not flow back through it.
                    for i in range(n):
                        carried[i] = np.float32(0) if p[i] > threshold else carried[i]
                for i in range(n):
                    distance = (p[i] - threshold) * slope
                    carried[i] += unit * read(g[i]) / below(distance)
                for before in range(max(t - refractory, 0), t):
                    for i in range(n):
                        if potential[before, start + i] > threshold:
                            carried[i] = 0
                if constant:
                    for i in range(n):
                        total[i] += carried[i]
                else:
                    out = gradient[t, start : start + n]
                    for i in range(n):
                        out[i] = write(carried[i])
                for i in range(n):
                    carried[i] *= decay
            if constant:
                out = gradient[0, start : start + n]
                for i in range(n):
                    out[i] = write(total[i])

    return backward


@inlined
def same(x):  # type: ignore[no-untyped-def]
    """A float32 as it is."""
    return x


@inlined
def _below_arctangent(x):  # type: ignore[no-untyped-def]
    return x * x + np.float32(1)


@inlined
def _below_sigmoid(x):  # type: ignore[no-untyped-def]
    up = np.exp(x)
    return (np.float32(2) + up + np.float32(1) / up) * np.float32(0.25) if up > 0 else np.float32(np.inf)


@inlined
def _below_fast_sigmoid(x):  # type: ignore[no-untyped-def]
    root = abs(x) + np.float32(1)
    return root * root


@inlined
def _below_triangle(x):  # type: ignore[no-untyped-def]
    left = np.float32(1) - abs(x)
    return np.float32(1) / left if left > 0 else np.float32(np.inf)


BELOW = {
    "arctangent": _below_arctangent,
    "sigmoid": _below_sigmoid,
    "fast-sigmoid": _below_fast_sigmoid,
    "triangle": _below_triangle,
}
"""1 over the functions of `surrogates.SURROGATES`."""

FORWARD = {np.dtype(np.float32): _forward(same, same), np.dtype(np.uint16): _forward(wide, narrow)}
BACKWARD = {
    (np.dtype(kind), name): _backward(read, write, below)
    for kind, read, write in ((np.float32, same, same), (np.uint16, wide, narrow))
    for name, below in BELOW.items()
}


@compiled
def exact(current, spikes, first, last, decay, threshold, integer, limit, soft, refractory):  # type: ignore[no-untyped-def]
    """The window in float64, which holds every product of a 24 bit state and a 12 bit decay. limit: of integers."""
    steps = spikes.shape[0]
    constant = current.shape[0] == 1
    v = np.empty(BLOCK, np.float64)
    wait = np.empty(BLOCK, np.int8)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        v[:n] = 0
        wait[:n] = 0
        for t in range(steps):
            x = current[0 if constant else t, start : start + n]
            s = spikes[t, start : start + n]
            if integer:
                for i in range(n):
                    v[i] = min(max(np.trunc(v[i] * decay) + x[i], -limit), limit)
            else:
                for i in range(n):
                    v[i] = v[i] * decay + x[i]
            if refractory:
                for i in range(n):
                    if wait[i] > 0:
                        v[i] = 0
                    wait[i] = refractory if v[i] > threshold else max(wait[i] - 1, 0)
            for i in range(n):
                s[i] = v[i] > threshold
                if s[i]:
                    v[i] = v[i] - threshold if soft else 0.0
