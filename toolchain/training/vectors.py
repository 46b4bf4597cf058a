"""What compiled loops are built of where the compiler does not find vectors by itself: sums of rows kept in registers.

LLVM cuts vectors of `WIDTH` numbers into as many registers as the processor takes for them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDTH = 64
"""Numbers at a time: four registers of AVX-512 or eight of AVX2, and the bits of one mask."""

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_LANES = ir.VectorType(ir.IntType(32), WIDTH)


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=4)


@intrinsic
def nonzero_bits(context, address):  # type: ignore[no-untyped-def]
    """Of `WIDTH` float32 from an address on: bit i is set where the i-th is not 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        zeros = ir.Constant(_VECTOR, [0.0] * WIDTH)
        return builder.bitcast(builder.fcmp_unordered("!=", _load(builder, arguments[0]), zeros), _INT)

    return types.uint64(types.intp), generate


@intrinsic
def add_rows(context, out, start, rows, stride, found, values, first, last):  # type: ignore[no-untyped-def]
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
