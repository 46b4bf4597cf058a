"""Compiled loops shared out to as many threads as torch has: to those very threads, where its OpenMP lets others in.

Between two operations torch's threads wait at work: they ask for the next one again and again for milliseconds.
Threads of our own beside them get half a core each at best, and two threads were slower than one.
"""

from __future__ import annotations

import ctypes
import threading
import zlib
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from toolchain.training.kernels import compiled

PARALLEL_FROM = 1 << 16
"""Steps of a neuron, or what takes as long, from which a second thread is worth its start."""


def split(kernel: Callable[..., None], arguments: tuple[Any, ...], size: int, work: int | None = None) -> None:
    """kernel(*arguments, first, last) over all numbers below size; where there is enough to do in as many parts, about
    alike, as torch has threads.

    kernel: compiled; what it raised would be lost.  work: how much there is, in steps of a neuron or what takes as
    long; the size where None.
    """
    threads = torch.get_num_threads() if (size if work is None else work) >= PARALLEL_FROM else 1
    team = torchs_team() if threads > 1 else None
    if threads == 1:
        kernel(*arguments, 0, size)
    elif team is not None:
        _in_team(kernel)(arguments, size, threads, *team)
    else:
        ends = [size * part // threads for part in range(threads + 1)]
        jobs = [threading.Thread(target=kernel, args=(*arguments, *part)) for part in pairwise(ends)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()


@cache
def torchs_team() -> tuple[int, int, int] | None:
    """Where GOMP_parallel, omp_get_thread_num and omp_get_num_threads are in the OpenMP library that torch uses.

    GOMP_parallel is what GCC's compilers call for a parallel region; LLVM's library has it too. None without one.
    """
    try:
        # A function that the library itself does not have is looked for in those that it was linked with.
        library = ctypes.CDLL(torch._C.__file__)
        functions = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return None
    parallel, number, count = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return parallel, number, count


_OWN = zlib.crc32(Path(__file__).read_bytes())
"""Changes with this file."""


def _run(arguments, size, parts, parallel, number, count):  # type: ignore[no-untyped-def]
    _region(kernel, arguments, size, parts, parallel, number, count)  # noqa: F821


@cache
def _in_team(kernel: Any) -> Any:
    """`_run` of a kernel, compiled.

    It counts as written where the kernel is, under a name of its own: there numba keeps it on disk, until that file
    changes, or this one, by its name. As a closure it would be kept under a new name by every process. Kernels that are
    made of pieces are made of functions of modules, so that their names tell them apart.
    """
    function = kernel.py_func
    place = {"co_filename": function.__code__.co_filename, "co_firstlineno": function.__code__.co_firstlineno}
    run = FunctionType(_run.__code__.replace(**place), {"_region": _region, "kernel": kernel}, _run.__name__)
    made_of = [cell.cell_contents.__name__ for cell in function.__closure__ or ()]
    run.__module__ = function.__module__
    run.__qualname__ = ".".join([function.__qualname__, *made_of, f"in_team_{_OWN:08x}"])
    return compiled(run)


def _borrowed(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """An argument whose references are not counted: threads that count the same ones wait for each other at each slice.

    The caller holds it until all are done.
    """
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


@intrinsic
def _region(context, kernel, arguments, size, parts, parallel, number, count):  # type: ignore[no-untyped-def]
    """The kernel on equal parts of all numbers below size, by the threads of an OpenMP library's parallel region.

    Without Python between them: a thread that has to wait for its lock comes a tenth of a millisecond late.
    """
    wanted = (*arguments.types, types.intp, types.intp)
    kernel.get_call_type(context, wanted, {})
    made = kernel.dispatcher.overloads[wanted]

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        packed, size, parts, parallel, number, count = values[1:]
        context.add_linking_libs((made.library,))
        int32, int64, pointer = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()

        # What all parts need lies on the caller's stack until they are done.
        needed = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [packed, size, parts, number, count]))

        task = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer]), f"{builder.function.name}.part")
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block("entry"))
        given = inside.load(inside.bitcast(task.args[0], needed.type))
        its_packed, its_size, its_parts, *questions = cgutils.unpack_tuple(inside, given)
        ask = ir.FunctionType(int32, []).as_pointer()
        own, team = (inside.sext(inside.call(inside.inttoptr(q, ask), []), int64) for q in questions)
        # The library may give fewer threads than asked for.
        with cgutils.for_range_slice(inside, own, its_parts, team) as (part, _):
            ends = [inside.sdiv(inside.mul(its_size, inside.add(part, int64(i))), its_parts) for i in (0, 1)]
            function = context.declare_function(builder.module, made.fndesc)
            given = zip(arguments.types, cgutils.unpack_tuple(inside, its_packed), strict=True)
            passed = [*(_borrowed(context, inside, *one) for one in given), *ends]
            context.call_conv.call_function(inside, function, types.none, wanted, passed)
        inside.ret_void()

        region = ir.FunctionType(ir.VoidType(), [task.type, pointer, int32, int32]).as_pointer()
        options = [builder.bitcast(needed, pointer), builder.trunc(parts, int32), int32(0)]
        builder.call(builder.inttoptr(parallel, region), [task, *options])
        return context.get_dummy_value()

    return types.void(kernel, arguments, *[types.intp] * 5), generate
