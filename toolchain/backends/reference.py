"""The definition: what a deployed network computes, in plain numpy. Every other back end must equal it.

Within a sample a program computes as if spikes took no time but the delays of its connections: each population's
window starts later than those before it (see `Program`), by exactly the steps that spikes need. So the time step `t`
below is each population's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.trace import Trace
from toolchain.ir import Graph, Program
from toolchain.ir.pattern import Product
from toolchain.ir.program import IntegerConnection

BATCH = 500
"""Most samples that are simulated at once."""
BATCH_BYTES = 1 << 28
"""Memory that a batch may take; the number of its samples follows from it."""


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
    sums = {c.name: _sum(program, c) for c in program.connections}
    return simulate(program, samples, lambda payload: payload, sums, np.int64, record, progress)


def _sum(program: Program, connection: IntegerConnection) -> Product:
    """The connection's weighted sum in integers, shape (samples, n_targets), int64."""
    synapses, from_input = connection.synapses, connection.source == program.input.name
    magnitude = int(synapses.connectivity.target_sums(np.abs(synapses.values)).max(initial=0))
    largest = magnitude * (program.input.payload_max if from_input else 1)
    # Floats hold integers of so many bits exactly, and are several times faster than integers of 64 bits.
    kind = np.float32 if largest < 1 << 24 else np.float64 if largest < 1 << 53 else np.int64
    total = synapses.connectivity.product(synapses.values.astype(kind))
    if from_input:
        return lambda payload: program.input.inject(total(payload).astype(np.int64))
    return lambda payload: total(payload).astype(np.int64)


def simulate(
    network: Program | Graph,
    samples: NDArray[np.integer],
    entering: Callable[[NDArray[np.int64]], NDArray[Any]],
    sums: Mapping[str, Product],
    kind: type[np.generic],
    record: Collection[str] | None,
    progress: Callable[[int, int], None] | None,
) -> Trace:
    """Step a network of either unit, batch by batch.

    entering: the input's payloads as its connections see them.  sums: connection -> its weighted sum.  kind: type of
    the sums.
    """
    began = time.perf_counter()
    n, steps, entry = len(samples), network.steps, network.input
    sizes = {entry.name: entry.size, **{p.name: p.size for p in network.populations}}
    trace = Trace.room(network, n, record, kind)
    into = {p.name: [c for c in network.connections if c.target == p.name] for p in network.populations}
    batch = _batch(steps, sizes)
    for start in range(0, n, batch):
        here = slice(start, min(start + batch, n))
        payload = entry.encode(samples[here], steps)
        many = payload.shape[1]
        fired = {p.name: np.zeros((steps, many, p.size), np.uint8) for p in network.populations}
        sent: dict[str, NDArray[Any]] = {entry.name: entering(payload), **fired}
        state = {p.name: p.start(many) for p in network.populations}
        # What is the same at every step has the same sums.
        lasting = [c for c in network.connections if c.source == entry.name and entry.steady]
        steady = {c.name: sums[c.name](sent[entry.name][0]) for c in lasting}
        for t in range(steps):
            for p in network.populations:
                a = np.zeros((many, p.size), kind)
                for c in into[p.name]:
                    if t >= c.delay:
                        a += steady[c.name] if c.name in steady else sums[c.name](sent[c.source][t - c.delay])
                state[p.name], fired[p.name][t] = p.step(state[p.name], a)
        for name, values in {entry.name: (payload != 0).astype(np.uint8), **fired}.items():
            trace.counts[name][here] = values.sum(axis=0, dtype=np.int32)
            if name in trace.spikes:
                trace.spikes[name][here] = values.transpose(1, 0, 2)
        for name in trace.potentials:
            trace.potentials[name][here] = state[name].v
        if progress is not None:
            progress(here.stop, n)
    return trace.after(time.perf_counter() - began)


def _batch(steps: int, sizes: Mapping[str, int]) -> int:
    """Samples of a batch: what was sent takes a byte a step (from the input 9), states and sums about 100 a neuron."""
    entry, *others = sizes.values()
    bytes_per_sample = 9 * steps * entry + (steps + 100) * sum(others)
    return int(np.clip(BATCH_BYTES // max(bytes_per_sample, 1), 1, BATCH))
