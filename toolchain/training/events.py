"""Products of payloads that are mostly 0 with dense weights, forward and backward: work grows with the events.

Each event adds its weights to the sums of the outputs; each weight's gradient is a sum over its input's events. The
gradient by the payloads is dense, and a matrix product as everywhere.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numba.cpython.unsafe.numbers import trailing_zeros
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolchain.training import threads
from toolchain.training.kernels import compiled
from toolchain.training.vectors import WIDTH, add_rows, nonzero_bits

DENSITY_LIMIT = 0.25
"""Events per payload from which the processor's matrix product is about as fast, or faster (docs/benchmarks.md)."""


@compiled
def _find(x, begins, found, values):  # type: ignore[no-untyped-def]
    """Fill `found` and `values` with the columns and payloads of x (rows, n) that are not 0, row by row.

    begins: (rows + 1,), where each row's begin.  Returns how many there are; -1 where they are too many for `found`.
    """
    rows, n = x.shape
    address = np.intp(x.ctypes.data)
    count = 0
    begins[0] = 0
    for r in range(rows):
        if count + n > len(found):
            return -1
        for start in range(0, n - WIDTH + 1, WIDTH):
            bits = nonzero_bits(address + 4 * (r * n + start))
            while bits:
                column = start + np.int64(trailing_zeros(bits))
                found[count], values[count] = column, x[r, column]
                count += 1
                bits &= bits - np.uint64(1)
        for column in range(n - n % WIDTH, n):
            if x[r, column] != 0:
                found[count], values[count] = column, x[r, column]
                count += 1
        begins[r + 1] = count
    return count


@compiled
def lists_by(keys, carried, values, count):  # type: ignore[no-untyped-def]
    """Events in lists, one for each of `count` values that a key has, in the order in which they come.

    Returns where the lists begin (count + 1,), and what each event carries, and its payload, list by list.
    """
    begins = np.zeros(count + 1, np.int64)
    for k in range(len(keys)):
        begins[keys[k] + 1] += 1
    for key in range(count):
        begins[key + 1] += begins[key]
    at = begins[:-1].copy()
    sorted_carried, sorted_values = np.empty(len(keys), np.int32), np.empty(len(keys), np.float32)
    for k in range(len(keys)):
        place = at[keys[k]]
        sorted_carried[place], sorted_values[place] = carried[k], values[k]
        at[keys[k]] = place + 1
    return begins, sorted_carried, sorted_values


@compiled
def _rows(begins):  # type: ignore[no-untyped-def]
    """Of each event, its list."""
    rows = np.empty(begins[-1], np.int32)
    for r in range(len(begins) - 1):
        rows[begins[r] : begins[r + 1]] = r
    return rows


@compiled
def _gather(begins, found, values, rows, start, out, first, last):  # type: ignore[no-untyped-def]
    """out[r] = start + the sum of values[k] * rows[found[k]] over the list r; of the lists that begin in events first
    to last, and at the end of all.

    rows: (n, width), start: (width,), out: (lists, width).
    """
    width = rows.shape[1]
    one = np.searchsorted(begins[:-1], first)
    end = len(out) if last == len(found) else np.searchsorted(begins[:-1], last)
    if width < WIDTH:
        for r in range(one, end):
            out[r] = start
            for k in range(begins[r], begins[r + 1]):
                for o in range(width):
                    out[r, o] += values[k] * rows[found[k], o]
        return
    to, begin, source = np.intp(out.ctypes.data), np.intp(start.ctypes.data), np.intp(rows.ctypes.data)
    lists, payloads = np.intp(found.ctypes.data), np.intp(values.ctypes.data)
    for left in range(0, width, WIDTH):
        # The last block reaches back into the one before it.
        o = 4 * min(left, width - WIDTH)
        for r in range(one, end):
            place = to + 4 * r * width + o
            add_rows(place, begin + o, source + o, 4 * width, lists, payloads, begins[r], begins[r + 1])


Lists = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""Where each list begins (lists + 1,), of each event which row it adds, and its payload."""


def _sums(lists: Lists, rows: Tensor, start: Tensor) -> Tensor:
    """`_gather`, (lists, width). rows: (n, width), contiguous.  start: (width,)."""
    begins, found, values = lists
    out = torch.empty(len(begins) - 1, rows.shape[1])
    arrays = begins, found, values, rows.detach().numpy(), start.detach().numpy(), out.numpy()
    # An addition takes about a sixteenth of a neuron's step.
    work = len(found) * rows.shape[1] // 16
    threads.split(_gather, arrays, len(found), work)
    return out


class Events:
    """Payloads (rows, n), on the processor, by their entries that are not 0."""

    def __init__(self, by_row: Lists, columns: int) -> None:
        self.by_row, self.columns = by_row, columns

    @classmethod
    def of(cls, x: Tensor) -> Events | None:
        """Of float32 payloads (rows, n), contiguous; None where more than `DENSITY_LIMIT` of them are not 0."""
        rows, n = x.shape
        # A row is looked through without a look at the end of the lists.
        room = int(DENSITY_LIMIT * rows * n) + n
        begins, found, values = np.empty(rows + 1, np.int64), np.empty(room, np.int32), np.empty(room, np.float32)
        count = _find(x.detach().numpy(), begins, found, values)
        return cls((begins, found[:count], values[:count]), n) if count >= 0 else None

    @cached_property
    def by_column(self) -> Lists:
        begins, found, values = self.by_row
        lists: Lists = lists_by(found, _rows(begins), values, self.columns)
        return lists

    def product(
        self, weight: Tensor, bias: Tensor | None = None, offset: float = 0.0, x: Tensor | None = None
    ) -> Tensor:
        """Weighted sums (rows, out) of payload + offset, float32, plus a bias (out,).

        weight: (out, n), best `layout.by_input`; it and the bias are differentiable, and so is x, the payloads
        themselves, where given.
        """
        sums: Tensor = _Product.apply(weight, bias, x, self, offset)
        return sums


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, x: Tensor | None, events: Events, offset: float
    ) -> Tensor:
        rows = weight.t().contiguous()
        start = rows.new_zeros(rows.shape[1]) if bias is None else bias.contiguous()
        if offset:
            start = torch.add(start, rows.sum(0), alpha=offset)
        ctx.events, ctx.offset, ctx.biased = events, offset, bias is not None
        ctx.save_for_backward(weight)
        return _sums(events.by_row, rows, start)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        upstream = upstream.contiguous()
        total = upstream.sum(0) if ctx.biased or ctx.offset else upstream.new_zeros(upstream.shape[1])
        by_weight = _sums(ctx.events.by_column, upstream, total * ctx.offset).t()
        by_payload = upstream @ weight if ctx.needs_input_grad[2] else None
        return by_weight, total if ctx.biased else None, by_payload, None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, offset: float = 0.0) -> Tensor:
    """Weighted sums (T, B, out) of payloads (T, B, n) + offset, plus a bias (out,): differentiable.

    Event by event where that is the faster way, else as a matrix product.
    """
    bias = None if bias is None else bias.to(x.dtype)
    wide = weight.shape[0] >= WIDTH and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if wide:
        flat = x.flatten(0, 1).contiguous()
        found = Events.of(flat)
        if found is not None:
            return found.product(weight, bias, offset, flat).unflatten(0, x.shape[:2])
    if offset:
        shifted = weight.sum(1) * offset
        bias = shifted if bias is None else bias + shifted
    return functional.linear(x, weight, bias)
