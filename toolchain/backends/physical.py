"""The trained network in floating point: what it does before anything is rounded, for comparison."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.trace import Trace
from toolchain.ir import Graph

BATCH = 500


def run(graph: Graph, samples: NDArray[np.integer], *, progress: Callable[[int, int], None] | None = None) -> Trace:
    """Simulate in float64, each population in its own window as the reference simulator does.

    samples: integers 0 to 255, shape (n_samples, sample_size).
    """
    began = time.perf_counter()
    names = [graph.input.name, *(p.name for p in graph.populations)]
    weights = {c.name: c.synapses.connectivity.matrix(c.synapses.weights.astype(np.float64)) for c in graph.connections}
    spikes: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
    for start in range(0, len(samples), BATCH):
        payload = graph.input.encode(samples[start : start + BATCH], graph.steps)
        spikes[graph.input.name].append((payload != 0).astype(np.uint8))
        sent = {graph.input.name: graph.input.offset + graph.input.scale * payload}
        for p in graph.populations:
            u = v = np.zeros((payload.shape[1], p.size))
            out = np.zeros((graph.steps, *u.shape), np.uint8)
            for t in range(graph.steps):
                a = np.zeros_like(u)
                for c in graph.connections:
                    if c.target == p.name:
                        a += (weights[c.name] @ sent[c.source][t].T).T
                u, v, fired = p.step(u, v, a)
                out[t] = fired
            spikes[p.name].append(out)
            sent[p.name] = out.astype(np.float64)
        if progress is not None:
            progress(min(start + BATCH, len(samples)), len(samples))
    whole = {name: np.concatenate(parts, axis=1).transpose(1, 0, 2) for name, parts in spikes.items()}
    return Trace(
        spikes=whole,
        counts={name: s.sum(axis=1, dtype=np.int32) for name, s in whole.items()},
        output=graph.populations[-1].name,
        seconds=time.perf_counter() - began,
    )
