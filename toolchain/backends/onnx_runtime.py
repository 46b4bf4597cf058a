"""ONNX Runtime as an independent judge: executes the very file that `program.onnx` is, step by step, on the CPU.

The runtime keeps weights dense in memory, one byte for each pair of neurons whatever the connectivity; a convolution's
kernel once.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.trace import Trace
from toolchain.errors import SnncError
from toolchain.formats.onnx import program_bytes
from toolchain.formats.onnx_layouts import layout_of
from toolchain.formats.onnx_model import SAMPLE, integer_operator
from toolchain.ir import Program

BATCH = 500
"""Most samples that are simulated at once."""
BATCH_BYTES = 1 << 29
"""Memory that a batch may take; the number of its samples follows from it."""
TYPES: dict[str, type[np.generic]] = {"tensor(int64)": np.int64, "tensor(uint8)": np.uint8}
"""Types of a state, as the runtime names them."""
DENSE_BYTES_MAX = 2 << 30
"""Dense weights beyond this are refused: while it loads them the runtime takes five times as much (measured), and would
be killed rather than fail."""


def run(
    program: Program,
    samples: NDArray[np.integer],
    *,
    record: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Simulate every sample (integers 0 to 255, shape (n_samples, sample_size)) for `program.steps` steps.

    record: populations whose spikes are kept (all when None); spike counts are kept for all.
    progress: called with (samples done, samples in all).

    Raises:
        SnncError: ONNX Runtime is not installed, or the program's dense weights exceed memory.
    """
    began, entry = time.perf_counter(), program.input
    entry.read(samples)
    session = _session(program)
    n, trace = len(samples), Trace.room(program, len(samples), record, np.int64)
    outputs = [value.name for value in session.get_outputs()]
    states = {v.name: (v.shape[1:], TYPES[v.type]) for v in session.get_inputs() if v.name != SAMPLE}
    batch = _batch(states)
    for start in range(0, n, batch):
        values = np.ascontiguousarray(samples[start : start + batch], np.uint8)
        here = slice(start, start + len(values))
        state = {name: np.zeros((len(values), *shape), dtype) for name, (shape, dtype) in states.items()}
        for t in range(program.steps):
            result = dict(zip(outputs, session.run(outputs, {SAMPLE: entry.at(values, t), **state}), strict=True))
            state = {name: result[f"{name}_next"] for name in states}
            for name in trace.counts.keys() - trace.potentials.keys():
                # The input's spikes carry a payload; what is recorded is that there was one.
                fired = (result[f"{name}.spikes"] != 0).astype(np.uint8)
                trace.counts[name][here] += fired
                if name in trace.spikes:
                    trace.spikes[name][here, t] = fired
        for name in trace.potentials:
            trace.potentials[name][here] = state[f"{name}.v"]
        if progress is not None:
            progress(min(start + batch, n), n)
    return trace.after(time.perf_counter() - began)


def _batch(states: Mapping[str, tuple[list[int], type[np.generic]]]) -> int:
    """Samples of a batch: a step holds each state before and after, and about as much again while it computes."""
    bytes_per_sample = 4 * sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in states.values())
    return int(np.clip(BATCH_BYTES // max(bytes_per_sample, 1), 1, BATCH))


def check(program: Program) -> None:
    """Whether ONNX Runtime can execute a program here.

    Raises:
        SnncError: as of `run`.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise SnncError(
            "the back end 'onnx' needs ONNX Runtime, which is not installed",
            remedy="pip install onnxruntime",
        )
    dense = dense_bytes(program)
    if dense > DENSE_BYTES_MAX:
        raise SnncError(
            "ONNX Runtime holds weights densely, and these exceed memory",
            where=program.name,
            got=f"{dense / 2**30:.1f} GiB",
            allowed=f"{DENSE_BYTES_MAX / 2**30:.0f} GiB",
            remedy="use the back end 'reference'",
        )


def _session(program: Program) -> Any:
    check(program)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(program_bytes(program), options, providers=["CPUExecutionProvider"])


def dense_bytes(program: Program) -> int:
    """Memory of the weights in ONNX Runtime: a byte for each place of a tensor, 8 where sums need double precision."""
    total = 0
    for c in program.connections:
        layout = layout_of(c.synapses.connectivity)
        operator = integer_operator(layout, program.input.payload_max if c.source == program.input.name else 1)
        total += math.prod(layout.shape) * (8 if operator.startswith("Wide") else 1)
    return total
