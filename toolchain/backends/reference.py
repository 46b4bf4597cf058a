"""The definition: what a deployed network computes, in plain numpy. Every other back end must equal it.

Within a sample a program computes as if spikes took no time but the delays of its connections: each population's
window starts later than those before it (see `Program`), by exactly the steps that spikes need. So the time step `t`
below is each population's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from toolchain.backends.trace import Trace
from toolchain.ir import Program
from toolchain.ir.pattern import Product

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
    products = {c.name: c.synapses.connectivity.product(c.synapses.values) for c in program.connections}
    kept: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in names if name in wanted}
    counts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in names}
    potentials: dict[str, list[NDArray[np.int64]]] = {p.name: [] for p in program.populations if not p.spiking}
    for start in range(0, len(samples), BATCH):
        sent, read = _simulate(program, products, samples[start : start + BATCH])
        for name, payload in sent.items():
            fired = (payload != 0).astype(np.uint8)
            counts[name].append(fired.sum(axis=0, dtype=np.int32))
            if name in wanted:
                kept[name].append(fired.transpose(1, 0, 2))
        for name, potential in read.items():
            potentials[name].append(potential)
        if progress is not None:
            progress(min(start + BATCH, len(samples)), len(samples))
    return Trace(
        spikes={name: np.concatenate(parts) for name, parts in kept.items()},
        counts={name: np.concatenate(parts) for name, parts in counts.items()},
        potentials={name: np.concatenate(parts) for name, parts in potentials.items()},
        output=program.output.name,
        seconds=time.perf_counter() - began,
    )


def _simulate(
    program: Program, products: dict[str, Product], samples: NDArray[np.integer]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
    """Payloads sent, name -> (steps, n_samples, size), and the readouts' potentials at the last step."""
    shape = (program.steps, len(samples))
    sent = {program.input.name: program.input.encode(samples, program.steps)}
    sent |= {p.name: np.zeros((*shape, p.size), np.int64) for p in program.populations}
    state = {p.name: p.start(len(samples)) for p in program.populations}
    for t in range(program.steps):
        for p in program.populations:
            a = np.zeros((len(samples), p.size), np.int64)
            for c in program.into(p.name):
                if t >= c.delay:
                    total = products[c.name](sent[c.source][t - c.delay])
                    a += program.input.inject(total) if c.source == program.input.name else total
            state[p.name], sent[p.name][t] = p.step(state[p.name], a)
    return sent, {p.name: state[p.name].v for p in program.populations if not p.spiking}
