"""What the fast simulator works out about a program before it runs: types that hold every sum, registers, order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from graphlib import TopologicalSorter

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from toolchain.backends.fast.delivery import Delivery, Sums
from toolchain.ir import Compartments, Input, Program
from toolchain.ir.arithmetic import DECAY_ONE, STATE_SHIFT
from toolchain.ir.program import IntegerConnection
from toolchain.passes.bounds import sum_bounds

SMALL_SUM = 1 << 18
"""Sums up to this leave every number of the neuron's update within 32 bits (see `kernels.advance`)."""
WRAP = 1 << 17
"""Sums from here on may wrap the synaptic current."""
NEVER = (1 << 31) - 1
"""A threshold that no membrane potential reaches."""


@dataclass(frozen=True, eq=False)
class Population:
    """A population with what leads into it, and how its sums are kept.

    steady: those of its connections that bring the same at every step, as they come from outside of the chip; their
    own sums are kept apart.  inner: those from its own loop.  outer: the rest.
    """

    neurons: Compartments
    sums: Sums
    steady: tuple[Delivery, ...]
    inner: tuple[Delivery, ...]
    outer: tuple[Delivery, ...]

    @property
    def name(self) -> str:
        return self.neurons.name

    @property
    def size(self) -> int:
        return self.neurons.size

    @property
    def sources(self) -> set[str]:
        return {d.source for d in (*self.steady, *self.inner, *self.outer)}

    @property
    def constant(self) -> bool:
        """Whether its sums are the same at every step."""
        return not self.inner and not self.outer and not any(d.delay for d in self.steady)

    @property
    def small(self) -> bool:
        """Whether its update fits 32 bits."""
        return self.sums.largest <= SMALL_SUM

    @cached_property
    def registers(self) -> NDArray[np.int32]:
        return registers(self.neurons)


def registers(neurons: Compartments) -> NDArray[np.int32]:
    """What a step keeps of u and of v (of 4096), threshold << 6, and bias, int32, shape (4, size)."""
    kept = [DECAY_ONE - neurons.per_neuron(name) for name in ("du", "dv")]
    threshold = neurons.per_neuron("vth") << STATE_SHIFT if neurons.spiking else np.full(neurons.size, NEVER)
    return np.stack([*kept, threshold, neurons.bias]).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Plan:
    """A program made ready. groups: the populations in an order in which sources come first; several of them, or one
    that leads to itself, are a loop, which is stepped."""

    program: Program
    groups: tuple[tuple[Population, ...], ...]

    @classmethod
    def of(cls, program: Program) -> Plan:
        names = _loops(program)
        group_of = {name: k for k, group in enumerate(names) for name in group}
        groups = [tuple(_population(program, name, group_of) for name in group) for group in names]
        return cls(program, tuple(groups))

    @cached_property
    def last_use(self) -> dict[str, int]:
        """Input or population -> the number of the last group that reads what it sent, or of its own."""
        found = {self.program.input.name: 0}
        for k, group in enumerate(self.groups):
            for p in group:
                found.update(dict.fromkeys((p.name, *p.sources), k))
        return found

    @cached_property
    def bytes_per_lane(self) -> int:
        """The most memory that a step of a sample takes at any time: what was sent and is still read, and sums."""
        most, alive = 1, {self.program.input.name: self.program.input.size}
        for k, group in enumerate(self.groups):
            alive |= {p.name: p.size for p in group}
            most = max(most, sum(alive.values()) + sum(p.size * np.dtype(p.sums.kind).itemsize for p in group))
            alive = {name: size for name, size in alive.items() if self.last_use[name] > k}
        return most


def _population(program: Program, name: str, group_of: dict[str, int]) -> Population:
    neurons = next(p for p in program.populations if p.name == name)
    entry, into = program.input, program.into(name)
    own = {c.name: _brought(c, entry.payload_max if c.source == entry.name else 1) for c in into}
    sums = reduce(Sums.__add__, (_as_injected(own[c.name][0], c, entry) for c in into))
    steady: list[Delivery] = []
    inner: list[Delivery] = []
    outer: list[Delivery] = []
    for c in into:
        from_outside = c.source == entry.name and entry.steady
        looped = group_of.get(c.source) == group_of[name]
        brought, magnitude = own[c.name]
        kept, payload_max = (brought, entry.payload_max) if from_outside else (sums, 1)
        chosen = steady if from_outside else inner if looped else outer
        chosen.append(Delivery(c, kept, payload_max, magnitude))
    return Population(neurons, sums, tuple(steady), tuple(inner), tuple(outer))


def _brought(connection: IntegerConnection, payload_max: int) -> tuple[Sums, int]:
    """What a connection can bring to a target, before a host changes it; and the most that magnitudes add up to."""
    low, high = sum_bounds(connection.synapses, payload_max)
    unit = connection.synapses.exponent
    sums = Sums(int(low.min(initial=0)) >> unit, int(high.max(initial=0)) >> unit, unit)
    return sums, int((high - low).max(initial=0)) >> unit


def _as_injected(brought: Sums, connection: IntegerConnection, entry: Input) -> Sums:
    """What reaches the neurons of that."""
    if not (connection.source == entry.name and entry.on_host):
        return brought
    low, high = entry.inject(np.array([brought.low, brought.high], np.int64) << brought.unit).tolist()
    return Sums(low, high, 0)


def _loops(program: Program) -> list[list[str]]:
    """The populations, those of a loop together, in an order in which sources come first."""
    names = [p.name for p in program.populations]
    number = {name: k for k, name in enumerate(names)}
    edges = [(number[c.source], number[c.target]) for c in program.connections if c.source in number]
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    wired = sparse.coo_array((np.ones(len(edges), np.int8), (ends[0], ends[1])), shape=(len(names), len(names)))
    _, label = csgraph.connected_components(wired.tocsr(), connection="strong")
    before: dict[int, set[int]] = {int(k): set() for k in label}
    for source, target in edges:
        if label[source] != label[target]:
            before[int(label[target])].add(int(label[source]))
    order = TopologicalSorter(before).static_order()
    return [[name for name, own in zip(names, label, strict=True) if own == k] for k in order]
