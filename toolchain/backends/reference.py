"""The definition: what a deployed network computes, in plain numpy. Every other back end must equal it.

Per sample a feed-forward program computes as if its layers had no delay between them: each population's window starts
one step after that of the one before it (see `Program`), which is exactly the step that a spike needs. So the time
step `t` below is each population's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.backends.trace import Trace
from toolchain.ir import Program

BATCH = 500


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
    """
    began = time.perf_counter()
    names = [program.input.name, *(p.name for p in program.populations)]
    wanted = set(names if record is None else record)
    weights = {c.name: c.synapses.connectivity.matrix(c.synapses.values) for c in program.connections}
    kept: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names if name in wanted}
    counts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in names}
    for start in range(0, len(samples), BATCH):
        sent = _simulate(program, weights, samples[start : start + BATCH])
        for name, payload in sent.items():
            fired = (payload != 0).astype(np.uint8)
            counts[name].append(fired.sum(axis=0, dtype=np.int32))
            if name in wanted:
                kept[name].append(fired.transpose(1, 0, 2))
        if progress is not None:
            progress(min(start + BATCH, len(samples)), len(samples))
    return Trace(
        spikes={name: np.concatenate(parts) for name, parts in kept.items()},
        counts={name: np.concatenate(parts) for name, parts in counts.items()},
        output=program.output.name,
        seconds=time.perf_counter() - began,
    )


def _simulate(
    program: Program, weights: dict[str, sparse.csr_array], samples: NDArray[np.integer]
) -> dict[str, NDArray[np.int64]]:
    """Payloads sent by the input and every population: name -> (steps, n_samples, size)."""
    sent = {program.input.name: program.input.encode(samples, program.steps)}
    for population in program.populations:
        u = np.zeros((len(samples), population.size), np.int64)
        v = np.zeros_like(u)
        sent[population.name] = np.zeros((program.steps, *u.shape), np.int64)
        for t in range(program.steps):
            a = np.zeros_like(u)
            for connection in program.into(population.name):
                total = (weights[connection.name] @ sent[connection.source][t].T).T
                a += program.input.inject(total) if connection.source == program.input.name else total
            u, v, sent[population.name][t] = population.step(u, v, a)
    return sent
