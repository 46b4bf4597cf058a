"""ONNX Runtime as an independent judge: executes the very file that `program.onnx` is, step by step, on the CPU.

The runtime keeps weights dense in memory, one byte for each pair of neurons, whatever the connectivity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.trace import Trace
from toolchain.errors import SnncError
from toolchain.formats.onnx import program_bytes
from toolchain.ir import Program

BATCH = 500
DENSE_BYTES_MAX = 8 << 30
"""Dense weights beyond this are refused: the runtime would be killed rather than fail."""


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
    began = time.perf_counter()
    program.input.read(samples)
    session = _session(program)
    names = [program.input.name, *(p.name for p in program.populations)]
    wanted = set(names if record is None else record)
    shape = (len(samples), program.steps)
    sizes = {program.input.name: program.input.size, **{p.name: p.size for p in program.populations}}
    spikes = {name: np.zeros((*shape, sizes[name]), np.uint8) for name in names if name in wanted}
    counts = {name: np.zeros((len(samples), sizes[name]), np.int32) for name in names}
    outputs = [value.name for value in session.get_outputs()]
    states = [value.name for value in session.get_inputs() if value.name != "sample"]
    for start in range(0, len(samples), BATCH):
        batch = np.ascontiguousarray(samples[start : start + BATCH], np.uint8)
        here = slice(start, start + len(batch))
        state = {name: np.zeros((len(batch), sizes[name.rpartition(".")[0]]), np.int64) for name in states}
        for t in range(program.steps):
            result = dict(zip(outputs, session.run(outputs, {"sample": batch, **state}), strict=True))
            state = {name: result[f"{name}_next"] for name in states}
            for name in names:
                # The input's spikes carry a payload; what is recorded is that there was one.
                fired = (result[f"{name}.spikes"] != 0).astype(np.uint8)
                counts[name][here] += fired
                if name in wanted:
                    spikes[name][here, t] = fired
        if progress is not None:
            progress(min(start + BATCH, len(samples)), len(samples))
    return Trace(spikes=spikes, counts=counts, output=program.output.name, seconds=time.perf_counter() - began)


def _session(program: Program) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise SnncError(
            "the back end 'onnx' needs ONNX Runtime, which is not installed",
            remedy="pip install onnxruntime",
        ) from None
    dense = sum(c.synapses.connectivity.n_sources * c.synapses.connectivity.n_targets for c in program.connections)
    if dense > DENSE_BYTES_MAX:
        raise SnncError(
            "ONNX Runtime holds weights densely, and these exceed memory",
            where=program.name,
            got=f"{dense / 2**30:.1f} GiB",
            allowed=f"{DENSE_BYTES_MAX / 2**30:.0f} GiB",
            remedy="use the back end 'reference'",
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(program_bytes(program), options, providers=["CPUExecutionProvider"])
