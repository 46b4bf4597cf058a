"""Inner loops of training, compiled. Those of neurons: a block of them stays in the cache for all its steps.

Arrays are (steps, neurons), C order. Numbers of bfloat16 come as the uint16 that they are stored in: a float32 without
its lower half. All arithmetic is float32, operation by operation, as torch's own would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

BLOCK = 1024
"""Neurons at a time: their state and the pieces of one step fit the first level of cache."""


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compiled, and kept on disk where there is a folder for it; else compiled anew by every process."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy", **options)(function)


def compiled(function: Callable[..., Any]) -> Any:
    return _jit(function)


inlined = register_jitable(inline="always")
"""For pieces of kernels. They stay Python functions: numba would give a compiled one another name in each process, and
find nothing of what it kept on disk for the kernels that are made of it."""


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


@inlined
def _potentials(read, current, potential, start, n, v, wait, decay, threshold, integer, soft, refractory):  # type: ignore[no-untyped-def]
    """Fill potential[:, :n] with the membrane potentials before the spike of the neurons from `start` on."""
    constant = current.shape[0] == 1
    v[:n] = 0
    wait[:n] = 0
    for t in range(potential.shape[0]):
        x = current[0 if constant else t, start : start + n]
        p = potential[t, :n]
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


def _forward(read, write):  # type: ignore[no-untyped-def]
    """The window's forward loop; `read` converts currents to float32, `write` spikes from it."""

    @compiled
    def forward(current, spikes, decay, threshold, integer, soft, refractory, first, last):  # type: ignore[no-untyped-def]
        steps = spikes.shape[0]
        potential = np.empty((steps, BLOCK), np.float32)
        v = np.empty(BLOCK, np.float32)
        wait = np.empty(BLOCK, np.int8)
        one, zero = write(np.float32(1)), write(np.float32(0))
        for start in range(first, last, BLOCK):
            n = min(BLOCK, last - start)
            _potentials(read, current, potential, start, n, v, wait, decay, threshold, integer, soft, refractory)
            for t in range(steps):
                p = potential[t, :n]
                s = spikes[t, start : start + n]
                for i in range(n):
                    s[i] = one if p[i] > threshold else zero

    return forward


def _backward(read, write, read_current, below):  # type: ignore[no-untyped-def]
    """The window's backward loop. below: 1 / surrogate; `read` is of the upstream gradient, `write` of the current's.

    The potentials are computed anew from the currents: that is cheaper than to write them to memory and read them.
    `carried` is the gradient by the potential that a step leaves to the next.
    """

    @compiled
    def backward(  # type: ignore[no-untyped-def]
        current, upstream, gradient, decay, threshold, integer, soft, refractory, unit, slope, first, last
    ):
        steps = upstream.shape[0]
        constant = gradient.shape[0] == 1
        potential = np.empty((steps, BLOCK), np.float32)
        carried = np.empty(BLOCK, np.float32)
        total = np.empty(BLOCK, np.float32)
        wait = np.empty(BLOCK, np.int8)
        for start in range(first, last, BLOCK):
            n = min(BLOCK, last - start)
            _potentials(
                read_current, current, potential, start, n, total, wait, decay, threshold, integer, soft, refractory
            )
            carried[:n] = 0
            total[:n] = 0
            for back in range(steps):
                t = steps - 1 - back
                p = potential[t, :n]
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
                        if potential[before, i] > threshold:
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

NUMBERS = {np.dtype(np.float32): (same, same), np.dtype(np.uint16): (wide, narrow)}
"""How each type is read and written."""

FORWARD = {(of, sent): _forward(NUMBERS[of][0], NUMBERS[sent][1]) for of in NUMBERS for sent in NUMBERS}
"""By the types of currents and spikes."""
BACKWARD = {
    (of, sent, name): _backward(NUMBERS[sent][0], NUMBERS[of][1], NUMBERS[of][0], below)
    for of in NUMBERS
    for sent in NUMBERS
    for name, below in BELOW.items()
}
"""By the types of currents, whose gradients have the same, and of spikes, and by surrogate."""


@compiled
def exact(current, spikes, decay, threshold, integer, limit, soft, refractory, first, last):  # type: ignore[no-untyped-def]
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


@compiled
def periodic_events(samples, periods, steps):  # type: ignore[no-untyped-def]
    """The inputs of samples (B, n) that spike within `steps`, and for each the row of its period p and its sample b:
    (p - 1) * B + b. periods: of each value.
    """
    batch, inputs = samples.shape
    rows = np.empty(batch * inputs + 1, np.int32)
    found = np.empty(batch * inputs + 1, np.int32)
    count = 0
    for b in range(batch):
        for i in range(inputs):
            # Written in any case: a branch would be guessed wrong at every edge of a digit.
            period = periods[samples[b, i]]
            rows[count], found[count] = (period - 1) * batch + b, i
            count += 1 if period <= steps else 0
    return rows[:count], found[:count]


@inlined
def _copy(onto, x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        onto[i] = x[i]


@inlined
def _add(onto, x):  # type: ignore[no-untyped-def]
    for i in range(len(onto)):
        onto[i] += x[i]


@compiled
def add_divisors(sums, first, last):  # type: ignore[no-untyped-def]
    """sums[t - 1] becomes the sum of sums[p - 1] over all p that divide t; (T, n), of the numbers first to last."""
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        # Downward, so that a divisor's sums are still its own.
        for t in range(len(sums), 1, -1):
            for p in range(1, t // 2 + 1):
                if t % p == 0:
                    _add(sums[t - 1, start:end], sums[p - 1, start:end])


@compiled
def add_multiples(sums, out, first, last):  # type: ignore[no-untyped-def]
    """out[p - 1] becomes the sum of sums[t - 1] over all t that p divides; both (T, n), of numbers first to last."""
    steps = len(sums)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        for p in range(1, steps + 1):
            onto = out[p - 1, start:end]
            _copy(onto, sums[p - 1, start:end])
            for t in range(2 * p, steps + 1, p):
                _add(onto, sums[t - 1, start:end])


@compiled
def grad_r(  # type: ignore[no-untyped-def]
    gradient,
    theta,
    sign,
    m,
    v,
    weight,
    b1,
    new1,
    b2,
    new2,
    eta,
    root,
    eps,
    decay,
    pressure,
    mu,
    frozen,
    floor,
    first,
    last,
):
    """`optimisers.GradR`'s update of the synapses first to last, in one pass over memory.

    new1, new2: 1 - b1 and 1 - b2, of numbers that are not rounded yet.  root: 1 / sqrt(1 - b2**k).
    decay: what weight decay leaves.  pressure: alpha * eta.
    Three loops over a block: one over six arrays would not be vectorised.
    """
    zero = np.float32(0)
    change = np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        n = min(BLOCK, last - start)
        g, x, s = gradient[start : start + n], theta[start : start + n], sign[start : start + n]
        mean, square, w = m[start : start + n], v[start : start + n], weight[start : start + n]
        for i in range(n):
            mean[i] = b1 * mean[i] + new1 * g[i]
            square[i] = b2 * square[i] + new2 * (g[i] * g[i])
        for i in range(n):
            change[i] = mean[i] / (math.sqrt(square[i]) * root + eps) * (eta * s[i])
        if frozen:
            # Dormant synapses rest; living ones stay alive.
            for i in range(n):
                moved = max(x[i] * decay - change[i], floor)
                x[i] = moved if x[i] > zero else x[i]
                w[i] = s[i] * max(x[i], zero)
        else:
            for i in range(n):
                moved = (x[i] * decay if x[i] > zero else x[i]) - change[i]
                step = pressure if moved > mu else zero
                step = -pressure if moved < mu else step
                x[i] = moved - step
                w[i] = s[i] * max(x[i], zero)


ROUNDING = np.float32(1.5 * 2**23)
"""Added to a small float32 and taken away again it leaves the nearest integer, ties to even."""


@compiled
def mantissas(weight, step, limit, factor, out, first, last):  # type: ignore[no-untyped-def]
    """`quantise.mantissas` times factor, in one pass. limit: below 2**22."""
    zero = np.float32(0)
    for i in range(first, last):
        w = weight[i]
        size = max((min(abs(w) / step, limit) + ROUNDING) - ROUNDING, np.float32(1)) * factor
        signed = size if w > zero else -size
        out[i] = zero if w == zero else signed


@compiled
def affine(images, moves, out, rows, columns, first, last):  # type: ignore[no-untyped-def]
    """Images uint8 (B, channels * rows * columns), first to last, sampled with bilinear interpolation; outside is 0.

    moves: (B, 6), for each image what a pixel's x and y count toward its source's x, a constant, and the same for y.
    """
    wide, size = np.int32(columns + 3), rows * columns
    # Black around it, so that no pixel has to be asked whether it is there.
    padded = np.zeros((rows + 3) * (columns + 3), np.float32)
    at, value = np.empty(columns, np.int32), np.empty(columns, np.float32)
    right, below = np.empty(columns, np.float32), np.empty(columns, np.float32)
    one, edge_x, edge_y = np.float32(1), np.float32(columns), np.float32(rows)
    for b in range(first, last):
        xx, xy, x0, yx, yy, y0 = moves[b]
        for begin in range(0, images.shape[1], size):
            for y in range(rows):
                _copy(padded[(y + 1) * (columns + 3) + 1 :], images[b, begin + y * columns : begin + (y + 1) * columns])
            for y in range(rows):
                left, top = x0 + xy * np.float32(y), y0 + yy * np.float32(y)
                # Three short loops, which become vectors.
                for x in range(columns):
                    across = min(max(left + xx * np.float32(np.int32(x)), -one), edge_x) + one
                    down = min(max(top + yx * np.float32(np.int32(x)), -one), edge_y) + one
                    column, row = np.int32(across), np.int32(down)
                    right[x], below[x] = across - np.float32(column), down - np.float32(row)
                    at[x] = row * wide + column
                for x in range(columns):
                    i = at[x]
                    upper = padded[i] * (one - right[x]) + padded[i + 1] * right[x]
                    lower = padded[i + wide] * (one - right[x]) + padded[i + wide + 1] * right[x]
                    value[x] = (upper * (one - below[x]) + lower * below[x] + ROUNDING) - ROUNDING
                line = out[b, begin + y * columns : begin + (y + 1) * columns]
                for x in range(columns):
                    line[x] = np.uint8(np.int32(value[x]))
