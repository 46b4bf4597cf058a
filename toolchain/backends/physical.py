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
    products = {
        c.name: c.synapses.connectivity.product(c.synapses.weights.astype(np.float64)) for c in graph.connections
    }
    spikes: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names}
    potentials: dict[str, list[NDArray[np.float64]]] = {p.name: [] for p in graph.populations if not p.spiking}
    for start in range(0, len(samples), BATCH):
        payload = graph.input.encode(samples[start : start + BATCH], graph.steps)
        sent = {graph.input.name: graph.input.offset + graph.input.scale * payload}
        sent |= {p.name: np.zeros((*payload.shape[:2], p.size)) for p in graph.populations}
        state = {p.name: p.start(payload.shape[1]) for p in graph.populations}
        for t in range(graph.steps):
            for p in graph.populations:
                a = np.zeros((payload.shape[1], p.size))
                for c in graph.connections:
                    if c.target == p.name and t >= c.delay:
                        a += products[c.name](sent[c.source][t - c.delay])
                state[p.name], sent[p.name][t] = p.step(state[p.name], a)
        spikes[graph.input.name].append((payload != 0).astype(np.uint8))
        for p in graph.populations:
            spikes[p.name].append(sent[p.name].astype(np.uint8))
            if not p.spiking:
                potentials[p.name].append(state[p.name].v)
        if progress is not None:
            progress(min(start + BATCH, len(samples)), len(samples))
    whole = {name: np.concatenate(parts, axis=1).transpose(1, 0, 2) for name, parts in spikes.items()}
    return Trace(
        spikes=whole,
        counts={name: s.sum(axis=1, dtype=np.int32) for name, s in whole.items()},
        output=graph.populations[-1].name,
        seconds=time.perf_counter() - began,
        potentials={name: np.concatenate(parts) for name, parts in potentials.items()},
    )
