"""How a set of samples is run in Lava: one after the other, or side by side, and how many at once."""

from __future__ import annotations

import os
from collections.abc import Collection

from toolchain.backends.lava import _spec
from toolchain.errors import UsageError, nearest
from toolchain.parallel import cores

PROCESSES = ("auto", "stock", "batched")
"""auto: side by side where the samples would take longer than WORTHWHILE_S one after the other."""
WORTHWHILE_S = 10.0
COMPARED = 8
"""So many samples of a batched run also go through the stock processes."""

# Measured on one core (docs/benchmarks.md); for the choice and the default deadline, so that round figures do.
STEP_S = 1e-4
"""A process and step, whatever its size."""
NEURON_S = 3e-8
"""A neuron and step of Lava's LIFReset."""
SYNAPSE_S = 1e-9
"""A synapse and step."""

STOCK_NEURONS_TO = 2**28
"""Neurons x steps x samples up to which a batched run uses LIFReset; ours take a tenth of its time."""
AT_ONCE = 2**17
"""Neurons x samples of the largest population that a process holds: temporaries stay in a core's cache."""
LEAST, MOST = 4, 256
"""Samples side by side, where memory allows: fewer and a step's cost of its own shows, more would gain nothing."""
MEMORY = 0.5
"""Part of the machine's memory that all shards may take together, about."""


def seconds(spec: _spec.Spec) -> float:
    """What the samples take one after the other, about."""
    processes = sum(len(spec.bounds(p.name)) for p in spec.populations) + sum(
        len(spec.bounds(c.source)) * len(spec.bounds(c.target)) for c in spec.connections
    )
    neurons = sum(p.size for p in spec.populations)
    synapses = sum(c.n_synapses for c in spec.connections)
    return spec.total_steps * (processes * STEP_S + neurons * NEURON_S + synapses * SYNAPSE_S)


def batch(spec: _spec.Spec, processes: str, traced: Collection[str]) -> _spec.Batch | None:
    """How to run a spec's samples side by side; None where they follow each other.

    traced: populations whose spikes are wanted.

    Raises:
        UsageError: an unknown way to run them.
    """
    if processes not in PROCESSES:
        raise UsageError(
            f"unknown processes {processes!r}", where="--lava-processes", allowed=nearest(processes, PROCESSES)
        )
    if processes == "stock" or (processes == "auto" and (spec.slices or seconds(spec) < WORTHWHILE_S)):
        return None
    updates = sum(p.size for p in spec.populations) * spec.steps * spec.samples
    memory, own, each = MEMORY * machine_bytes(), network_bytes(spec), sample_bytes(spec)
    shards = max(1, min(cores(), spec.samples, int(memory / (own + each))))
    most = min(max(LEAST, AT_ONCE // max(spec.sizes.values())), MOST, int((memory / shards - own) / each))
    # As even as whole windows can be: all shards end together.
    windows = -(-spec.samples // (shards * max(1, most)))
    return _spec.Batch(
        size=-(-spec.samples // (shards * windows)),
        shards=shards,
        stock_neurons=updates <= STOCK_NEURONS_TO,
        traced=tuple(name for name in spec.record if name in traced),
        compared=min(COMPARED, spec.samples),
    )


def machine_bytes() -> int:
    """The memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def network_bytes(spec: _spec.Spec) -> int:
    """Memory that the synapses take in a shard, about: the lists, and what products make of them."""
    total = 0
    for c in spec.connections:
        n = len(c.targets)
        total += 16 * n + 8 * (n if c.kernel is None else n * c.kernel.target[1])
    return total


def sample_bytes(spec: _spec.Spec) -> int:
    """Memory that one more sample side by side takes in all processes of a shard, about."""
    # State, input sum, spikes, two channels and the sink of a population; temporaries of LIFReset.
    total = 100 * sum(spec.sizes.values())
    for c in spec.connections:
        # The sums, those on their way, and the channel to the population; the map laid out for every kernel column.
        total += (16 + 4 * spec.takes(c)) * spec.sizes[c.target]
        total += 8 * spec.sizes[c.source] * (1 if c.kernel is None else c.kernel.size[1])
    return total
