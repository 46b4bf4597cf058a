"""A second definition, in plain Python numbers: one long run without a gap, neuron by neuron, as a chip does it.

A spike is under way for as many steps as its connection takes on the chip; samples follow each other; a population
forgets its state, and what is still on its way to it from the sample before, where its own window begins. Nothing
is shared with the reference simulator: kernels are applied by the formula of a convolution, entry by entry.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from toolchain.ir import Compartments, Connectivity, CurrentInput, GradedInput, Program, RateInput
from toolchain.ir.convolution import Convolution
from toolchain.ir.pattern import Pattern

Lists = list[list[tuple[int, int]]]
Arrivals = dict[int, list[tuple[int, int, int]]]


def trunc_decay(state: int, amount: int) -> int:
    """state * (4096 - amount) / 4096, rounded toward zero."""
    product = state * (4096 - amount)
    return product // 4096 if product >= 0 else -(-product // 4096)


class Neuron:
    """One compartment with its registers."""

    def __init__(self, p: Compartments, i: int) -> None:
        def own(value: Any) -> int:
            return int(value[i]) if np.ndim(value) else int(value)

        self.du, self.dv, self.threshold = own(p.du), own(p.dv), own(p.vth) * 64
        self.bias = int(p.bias_mantissa[i]) * 2**p.bias_exponent
        self.reset, self.refractory = p.reset, p.refractory
        self.clear()

    def clear(self) -> None:
        self.u = self.v = self.silent = 0

    def step(self, a: int, bias: int = 0) -> bool:
        u = trunc_decay(self.u, self.du) + a * 64
        if u > 2**23:
            u -= 2**24
        elif u <= -(2**23):
            u += 2**24
        v = trunc_decay(self.v, self.dv) + u + self.bias + bias
        v = max(-(2**23 - 1), min(2**23 - 1, v))
        if self.silent:
            self.silent -= 1
            v = 0
        fired = self.reset != "none" and v > self.threshold
        if fired:
            v = v - self.threshold if self.reset == "subtract" else 0
            self.silent = self.refractory
        self.u, self.v = u, v
        return fired


def synapse_lists(pattern: Pattern, weights: list[int]) -> Lists:
    """For every source its (target, weight)."""
    if isinstance(pattern, Connectivity):
        ends = zip(pattern.indptr[:-1], pattern.indptr[1:], strict=True)
        return [[(int(pattern.targets[k]), weights[k]) for k in range(a, b)] for a, b in ends]
    assert isinstance(pattern, Convolution)
    (channels, height, width), (_, rows, columns) = pattern.source, pattern.target
    lists: Lists = [[] for _ in range(channels * height * width)]
    for tap in range(pattern.kernel.n_sources):
        c, place = divmod(tap, pattern.size[0] * pattern.size[1])
        i, j = divmod(place, pattern.size[1])
        for k in range(pattern.kernel.indptr[tap], pattern.kernel.indptr[tap + 1]):
            o = int(pattern.kernel.targets[k])
            for row in range(rows):
                for column in range(columns):
                    y = row * pattern.stride[0] - pattern.padding[0][0] + i * pattern.dilation[0]
                    x = column * pattern.stride[1] - pattern.padding[1][0] + j * pattern.dilation[1]
                    if 0 <= y < height and 0 <= x < width:
                        target = (o * rows + row) * columns + column
                        lists[(c * height + y) * width + x].append((target, weights[k]))
    return lists


def simulate(program: Program, samples: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Spikes name -> (n_samples, steps, size), and the readouts' potentials at the last step (n_samples, size)."""
    entry, steps, n = program.input, program.steps, len(samples)
    order = [entry.name, *(p.name for p in program.populations)]
    depth = {entry.name: 0}
    for p in program.populations:
        forward = [c for c in program.connections if c.target == p.name and order.index(c.source) < order.index(p.name)]
        depth[p.name] = max([0, *(depth[c.source] + 1 - c.delay for c in forward)])
    lists = {
        c.name: synapse_lists(c.synapses.connectivity, [int(m) * 2**c.synapses.exponent for m in c.synapses.mantissa])
        for c in program.connections
    }
    cells = {p.name: [Neuron(p, i) for i in range(p.size)] for p in program.populations}
    at_entry = []
    if isinstance(entry, RateInput):
        rule = Compartments("", 1, 4096, 0, entry.threshold, np.zeros(1, np.int16))
        at_entry = [Neuron(rule, 0) for _ in entry.channels]
    # Under way: connection -> step of arrival -> (sample it belongs to, source, payload).
    under_way: dict[str, dict[int, list[tuple[int, int, int]]]] = {
        c.name: defaultdict(list) for c in program.connections
    }
    spikes = {name: np.zeros((n, steps, size), np.uint8) for name, size in [(entry.name, entry.size)]}
    spikes |= {p.name: np.zeros((n, steps, p.size), np.uint8) for p in program.populations}
    potentials = {p.name: np.zeros((n, p.size), np.int64) for p in program.populations if p.reset == "none"}

    def send(source: str, now: int, sample: int, neuron: int, payload: int) -> None:
        spikes[source][sample, now - depth[source] - sample * steps, neuron] = 1
        for c in program.connections:
            if c.source == source:
                takes = depth[c.target] - depth[source] + c.delay
                assert takes >= 1, f"{c.name} would have to arrive before it is sent"
                under_way[c.name][now + takes].append((sample, neuron, payload))

    for now in range(n * steps + max(depth.values())):
        sample, t = divmod(now, steps)
        if sample < n:
            for i, channel in enumerate(entry.channels):
                x = int(samples[sample, t, channel] if entry.coding == "spikes" else samples[sample, channel])
                payload = x // 2 ** (8 - entry.payload_bits) if isinstance(entry, GradedInput) else x
                if at_entry:
                    if t == 0:
                        at_entry[i].clear()
                    payload = int(at_entry[i].step(0, bias=x * 64))
                if payload:
                    send(entry.name, now, sample, i, payload)
        for p in program.populations:
            sample, t = divmod(now - depth[p.name], steps)
            if not 0 <= sample < n:
                continue
            if t == 0:
                for cell in cells[p.name]:
                    cell.clear()
            a = [0] * p.size
            for c in program.connections:
                if c.target != p.name:
                    continue
                total = [0] * p.size
                for origin, source, payload in under_way[c.name].pop(now, []):
                    if origin == sample:
                        for target, weight in lists[c.name][source]:
                            total[target] += weight * payload
                if c.source == entry.name and isinstance(entry, CurrentInput):
                    half = 2**entry.shift // 2
                    total = [max(-4095, min(4095, (s + half) // 2**entry.shift)) for s in total]
                a = [x + y for x, y in zip(a, total, strict=True)]
            for i, cell in enumerate(cells[p.name]):
                if cell.step(a[i]):
                    send(p.name, now, sample, i, 1)
                if p.reset == "none" and t == steps - 1:
                    potentials[p.name][sample, i] = cell.v
    return spikes, potentials
