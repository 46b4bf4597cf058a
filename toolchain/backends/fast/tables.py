"""Sums of spikes by tables: the taps of a kernel in pieces of a few bits, the sum of every pattern of a piece ready.

A piece of b taps has 2**b patterns of spikes, and their weights' sums to all output channels are so many rows; a target
place then takes one row a piece and lane, however many of the b taps have a spike. It pays where many weights meet many
spikes. Additions wrap as in the other ways, so the rows may too, and the last sum is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from toolchain.backends.fast.kernels import compiled
from toolchain.backends.fast.pieces import LINE, Pieces

BLOCK = 512
"""Lanes whose sums are kept at a time: what a target's row then takes is long enough for the cache to foresee."""


@dataclass(frozen=True, eq=False)
class Tables:
    """first, width: the bits of a kernel row that each piece takes.

    rows: (pieces of all kernel rows * patterns, output channels filled up to whole cache lines), in the sums' type.
    """

    first: NDArray[np.int64]
    width: NDArray[np.int64]
    rows: NDArray[Any]

    @classmethod
    def of(cls, kernel: NDArray[Any], pieces: Pieces) -> Tables:
        """kernel: (kernel rows, taps of a row, output channels); taps column by column, source channels within."""
        many, taps, outputs = kernel.shape
        cuts = np.linspace(0, taps, pieces.of_row + 1).astype(np.int64)
        first, width = cuts[:-1], np.diff(cuts)
        shape = (many * pieces.of_row, 1 << pieces.bits, pieces.row_items)
        size = shape[0] * shape[1] * shape[2] * kernel.itemsize
        room = np.zeros(size + LINE, np.uint8)
        begin = -room.ctypes.data % LINE  # rows begin with a cache line: loads across two take twice as long
        rows = room[begin : begin + size].view(kernel.dtype).reshape(shape)
        for piece, table in enumerate(rows):
            row, k = divmod(piece, pieces.of_row)
            for b in range(width[k]):
                np.add(table[: 1 << b, :outputs], kernel[row, first[k] + b], out=table[1 << b : 2 << b, :outputs])
        return cls(first, width, rows.reshape(-1, shape[2]))


def _adder(size: int) -> Any:
    """A function for numba that keeps a sum of `size` bytes in registers; from an array numba would read it back."""

    @intrinsic
    def add(context, table, at, stride, count, patterns, width, out):  # type: ignore[no-untyped-def]
        """out[:n] = the sum over k < count of table[(k * patterns + at[k * stride]) * width :][:n], n items of `size`.

        All arrays are flat; the vectors are LLVM's own, which it cuts to what the processor has.
        """
        item = table.dtype

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kinds = zip((table, at, out), (arguments[k] for k in (0, 1, 6)), strict=True)
            rows, picked, into = (context.make_array(kind)(context, builder, value).data for kind, value in kinds)
            step, many, items = arguments[2], arguments[3], arguments[5]
            vector = ir.VectorType(ir.IntType(item.bitwidth), size * 8 // item.bitwidth)
            whole = ir.IntType(64)
            total = cgutils.alloca_once_value(builder, ir.Constant(vector, None))
            piece, place = (cgutils.alloca_once_value(builder, ir.Constant(whole, 0)) for _ in range(2))
            long = builder.mul(arguments[4], items)
            with cgutils.for_range(builder, many):
                pattern = builder.zext(builder.load(builder.gep(picked, [builder.load(place)])), whole)
                begin = builder.add(builder.load(piece), builder.mul(pattern, items))
                row = builder.bitcast(builder.gep(rows, [begin]), vector.as_pointer())
                builder.store(builder.add(builder.load(total), builder.load(row, align=item.bitwidth // 8)), total)
                builder.store(builder.add(builder.load(piece), long), piece)
                builder.store(builder.add(builder.load(place), step), place)
            kept = builder.bitcast(into, vector.as_pointer())
            builder.store(builder.load(total), kept, align=item.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(table, at, stride, count, patterns, width, out), generate

    return add


_add_line, _add_two_lines = _adder(LINE), _adder(2 * LINE)


@compiled
def _packed(sent, begin, many, geometry, bits):  # type: ignore[no-untyped-def]
    """What the map sent in `many` lanes as bits: bits[y, b, lane]; a row is that of `Pieces`, padding included."""
    channels, height, width = geometry[:3]
    left, used = geometry[11], bits.shape[1] - 1
    bits[:] = 0
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                bit = (left + x) * channels + c
                if bit >> 3 >= used:
                    continue  # no target reads so far to the right
                shift = np.uint8(bit & 7)
                lanes, into = sent[(c * height + y) * width + x, begin : begin + many], bits[y, bit >> 3, :many]
                for lane in range(many):
                    into[lane] |= np.uint8((lanes[lane] != 0) << shift)


@compiled
def _patterns(low, high, shift, mask, out):  # type: ignore[no-untyped-def]
    """Up to 9 bits that begin in the byte `low`, for all lanes."""
    for lane in range(len(out)):
        both = np.uint16(np.uint16(low[lane]) | np.uint16(np.uint16(high[lane]) << np.uint16(8)))
        out[lane] = np.uint16(np.uint16(both >> shift) & mask)


SQUARE = 16
"""Lanes and outputs that are turned at a time, in registers."""


@intrinsic
def _turn_square(context, sums, at, width, acc, to, stride):  # type: ignore[no-untyped-def]
    """acc[to + o * stride + l] = sums[at + l * width + o] for o and l below SQUARE; both arrays are flat.

    Blocks off the diagonal change places, of one item first, then of two, four and eight.
    """
    item = sums.dtype

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = ((sums, arguments[0]), (acc, arguments[3]))
        read, written = (context.make_array(kind)(context, builder, value).data for kind, value in kinds)
        vector, whole = ir.VectorType(ir.IntType(item.bitwidth), SQUARE).as_pointer(), ir.IntType(64)

        def line(data, first, step, k):  # type: ignore[no-untyped-def]
            at = builder.add(first, builder.mul(step, ir.Constant(whole, k)))
            return builder.bitcast(builder.gep(data, [at]), vector)

        def mixed(one, two, order):  # type: ignore[no-untyped-def]
            return builder.shuffle_vector(one, two, ir.Constant(ir.VectorType(ir.IntType(32), SQUARE), order))

        size, every = item.bitwidth // 8, range(SQUARE)
        rows = [builder.load(line(read, arguments[1], arguments[2], k), align=size) for k in every]
        half = 1
        while half < SQUARE:
            upper = [SQUARE + k - half if k & half else k for k in every]
            lower = [SQUARE + k if k & half else k + half for k in every]
            for k in every:
                if not k & half:
                    pair = rows[k], rows[k + half]
                    rows[k], rows[k + half] = mixed(*pair, upper), mixed(*pair, lower)
            half *= 2
        for k in every:
            builder.store(rows[k], line(written, arguments[4], arguments[5], k), align=size)
        return context.get_dummy_value()

    return types.void(sums, at, width, acc, to, stride), generate


@compiled
def _turn(sums, many, outputs, acc, place, places, to, fresh):  # type: ignore[no-untyped-def]
    """Bring the sums of a place, (lanes, outputs), to its targets' rows."""
    lanes, width = acc.shape[1], sums.shape[1]
    read, written = sums.reshape(-1), acc.reshape(-1)
    squares = (many // SQUARE * SQUARE, outputs // SQUARE * SQUARE) if fresh else (0, 0)
    for o in range(0, squares[1], SQUARE):
        for lane in range(0, squares[0], SQUARE):
            first = (o * places + place) * lanes + to + lane
            _turn_square(read, lane * width + o, width, written, first, places * lanes)
    for o in range(outputs):
        into = acc[o * places + place, to : to + many]
        for lane in range(squares[0] if o < squares[1] else 0, many):
            into[lane] = sums[lane, o] if fresh else into[lane] + sums[lane, o]


@compiled
def tables(acc, fresh, to, sent, begin, end, geometry, first, width, rows):  # type: ignore[no-untyped-def]
    """Add what the lanes `begin` to `end` bring, in the lanes from `to` on, for spikes without payload.

    fresh: as of `kernels.gather`.  first, width, rows: as of `Tables`.
    """
    channels, height, _, outputs, v_size, w_size, n_rows, columns = geometry[:8]
    sy, sx, top, _, dy, _ = geometry[8:]
    of_row, items, places = len(first), rows.shape[1], v_size * w_size
    pieces = of_row * n_rows
    patterns = len(rows) // pieces
    used = ((w_size - 1) * sx + columns) * channels
    bits = np.empty((height, (used + 7) // 8 + 1, BLOCK), np.uint8)
    at = np.empty((pieces, BLOCK), np.uint16)
    sums = np.empty((BLOCK, items), acc.dtype)
    line = LINE // acc.itemsize
    table, picked = rows.reshape(-1), at.reshape(-1)
    for start in range(begin, end, BLOCK):
        many = min(BLOCK, end - start)
        _packed(sent, start, many, geometry, bits)
        for place in range(places):
            for i in range(n_rows):
                y = place // w_size * sy - top + i * dy
                for j in range(of_row):
                    out = at[i * of_row + j, :many]
                    if y < 0 or y >= height:
                        out[:] = 0
                        continue
                    bit = place % w_size * sx * channels + first[j]
                    mask = np.uint16((1 << width[j]) - 1)
                    _patterns(bits[y, bit >> 3], bits[y, (bit >> 3) + 1], np.uint16(bit & 7), mask, out)
            for lane in range(many):
                own, o = sums[lane], 0
                while o + 2 * line <= items:
                    _add_two_lines(table[o:], picked[lane:], BLOCK, pieces, patterns, items, own[o:])
                    o += 2 * line
                if o < items:
                    _add_line(table[o:], picked[lane:], BLOCK, pieces, patterns, items, own[o:])
            _turn(sums, many, outputs, acc, place, places, to + start - begin, fresh)
