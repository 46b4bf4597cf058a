"""The trained network in floating point: what it does before anything is rounded, for comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.reference import simulate
from toolchain.backends.trace import Trace
from toolchain.ir import Graph


def run(graph: Graph, samples: NDArray[np.integer], *, progress: Callable[[int, int], None] | None = None) -> Trace:
    """Simulate in float64, each population in its own window as the reference simulator does.

    samples: integers 0 to 255, shape (n_samples, sample_size).
    """
    entry = graph.input
    sums = {c.name: c.synapses.connectivity.product(c.synapses.weights.astype(np.float64)) for c in graph.connections}
    return simulate(graph, samples, lambda x: entry.offset + entry.scale * x, sums, np.float64, None, progress)
