"""The fast back end: the reference's integers on all cores of a processor, at a cost that follows synapses and spikes.

It is exact by construction. Synaptic sums are added in integers of the smallest type that is proved to hold every one
of them (plan.py); floating-point products are taken only where no partial sum can be rounded (delivery.py); and the
neurons' update is taken in 32 bits only where every number on the way is proved to fit (kernels.py). Where that proof
fails, the neurons' own definition is used (chunks.py). Samples stream through in chunks, so memory is bounded by what
is recorded, the weights, and `chunks.CHUNK_BYTES`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.backends import reference
from toolchain.backends.trace import Trace
from toolchain.ir import Program

LOAD_S, COMPILE_S = 0.3, 4.0
"""Seconds to load numba and the compiled functions, and to compile them, once a machine and version."""
SYNAPSE_S, NEURON_S = 0.6e-9, 12e-9
"""Seconds of the reference for a synapse, and for a neuron, in a step of a sample."""


def run(
    program: Program,
    samples: NDArray[np.integer],
    *,
    record: Collection[str] | None = None,
    at_any_size: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Simulate every sample (integers 0 to 255, shape (n_samples, sample_size)) for `program.steps` steps.

    What the reference does in less time than it takes to load (or, once, to compile) the loops here is left to it.

    record: populations whose spikes are kept (all when None); spike counts are kept for all.
    at_any_size: never leave it to the reference: for comparisons with that.
    device: "cpu", or a GPU as torch names it, "cuda" or "cuda:1" (device.py).
    progress: called with (samples done, samples in all).

    Raises:
        UsageError: torch sees no such device.
        SnncError: samples that the input cannot read.
    """
    if device != "cpu":
        from toolchain.backends.fast import device as other

        return other.run(program, samples, device, record, progress)
    if not at_any_size and _seconds_of_reference(program, len(samples)) < _start_up():
        return reference.run(program, samples, record=record, progress=progress)
    from toolchain.backends.fast import chunks

    return chunks.run(program, samples, record, progress)


def _seconds_of_reference(program: Program, samples: int) -> float:
    neurons = program.input.size + sum(p.size for p in program.populations)
    return samples * program.steps * (SYNAPSE_S * program.n_synapses + NEURON_S * neurons)


def _start_up() -> float:
    """Seconds until the compiled functions can begin."""
    if "toolchain.backends.fast.kernels" in sys.modules:
        return 0.0
    compiled = any((Path(__file__).parent / "__pycache__").glob("kernels.advance-*.nbi"))
    return LOAD_S if compiled else COMPILE_S
