"""Products of payloads that are mostly 0 with dense weights, forward and backward: work grows with the events.

Each event adds its weights to the sums of the outputs; each weight's gradient is a sum over its input's events. The
gradient by the payloads is dense, and a matrix product as everywhere.

Sums of rows are kept in registers, by vectors of LLVM's own, which cuts `WIDTH` numbers into as many registers as the
processor takes for them. They stand here because numba looks at a kernel's own file alone for whether it has changed.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from toolchain.training import threads
from toolchain.training.kernels import compiled

WIDTH = 64
"""Numbers at a time: four registers of AVX-512 or eight of AVX2, and the bits of one mask."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_LANES = ir.VectorType(ir.IntType(32), WIDTH)


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=4)


@intrinsic
def _nonzero_bits(context, address):  # type: ignore[no-untyped-def]
    """Of `WIDTH` float32 from an address on: bit i is set where the i-th is not 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        zeros = ir.Constant(_VECTOR, [0.0] * WIDTH)
        return builder.bitcast(builder.fcmp_unordered("!=", _load(builder, arguments[0]), zeros), _INT)

    return types.uint64(types.intp), generate


@intrinsic
def _add_rows(context, out, start, rows, stride, found, values, first, last):  # type: ignore[no-untyped-def]
    """`WIDTH` float32 at `out` become those at `start` plus values[k] times those of row found[k], first <= k < last.

    All but first and last are addresses or, `stride`, bytes from a row to the next. found: of int32.  values: of
    float32.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        out, start, rows, stride, found, values, first, last = arguments
        found = builder.inttoptr(found, ir.IntType(32).as_pointer())
        values = builder.inttoptr(values, _FLOAT.as_pointer())
        total = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_load(builder, start), total)
        with cgutils.for_range_slice(builder, first, last, ir.Constant(_INT, 1)) as (k, _):
            row = builder.sext(builder.load(builder.gep(found, [k])), _INT)
            one = builder.insert_element(
                ir.Constant(_VECTOR, ir.Undefined),
                builder.load(builder.gep(values, [k])),
                ir.Constant(ir.IntType(32), 0),
            )
            value = builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_LANES, [0] * WIDTH))
            numbers = _load(builder, builder.add(rows, builder.mul(row, stride)))
            # A product and its sum in one instruction, where there is one.
            product = builder.fmul(value, numbers, flags=("contract",))
            builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)
        builder.store(builder.load(total), builder.inttoptr(out, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), generate


DENSITY_LIMIT = 0.25
"""Events per payload from which the processor's matrix product is the faster one (docs/benchmarks.md)."""


@compiled
def _find(x, begins, found, values):  # type: ignore[no-untyped-def]
    """Fill `found` and `values` with the columns and payloads of x (rows, n) that are not 0, row by row.

    begins: (rows + 1,), where each row's begin.  Returns how many there are; -1 for more than `found` holds with room
    for a row, as a row is looked through without a look at its end.
    """
    rows, n = x.shape
    address = np.intp(x.ctypes.data)
    count = 0
    begins[0] = 0
    for r in range(rows):
        if count + n > len(found):
            return -1
        for start in range(0, n - WIDTH + 1, WIDTH):
            bits = _nonzero_bits(address + 4 * (r * n + start))
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
    return count if count <= len(found) - n else -1


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
            _add_rows(place, begin + o, source + o, 4 * width, lists, payloads, begins[r], begins[r + 1])


Lists = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""Where each list begins (lists + 1,), of each event which row it adds, and its payload."""


def _sums(lists: Lists, rows: Tensor, start: Tensor) -> Tensor:
    """`_gather`, (lists, width). rows: (n, width), contiguous.  start: (width,)."""
    begins, found, values = lists
    out = rows.new_empty(len(begins) - 1, rows.shape[1])
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

        Raises:
            ValueError: weights or bias of another shape or type.
        """
        sums: Tensor = _Product.apply(weight, bias, x, self, offset)
        return sums


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, x: Tensor | None, events: Events, offset: float
    ) -> Tensor:
        if weight.ndim != 2 or weight.shape[1] != events.columns or weight.dtype != torch.float32:
            raise ValueError(f"weights of {events.columns} inputs in float32, not {tuple(weight.shape)} {weight.dtype}")
        if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != torch.float32):
            raise ValueError(f"a bias of {len(weight)} outputs in float32, not {tuple(bias.shape)} {bias.dtype}")
        rows = weight.t().contiguous()
        start = rows.new_zeros(rows.shape[1]) if bias is None else bias.contiguous()
        if offset:
            start = torch.add(start, rows.sum(0), alpha=offset)
        ctx.events, ctx.offset, ctx.biased = events, offset, bias is not None
        ctx.save_for_backward(weight if ctx.needs_input_grad[2] else None)
        return _sums(events.by_row, rows, start)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        upstream = upstream.contiguous()
        total = upstream.sum(0) if ctx.biased or ctx.offset else upstream.new_zeros(upstream.shape[1])
        by_weight = _sums(ctx.events.by_column, upstream, total * ctx.offset).t()
        by_payload = None if weight is None else upstream @ weight
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
