"""Cut every population into slices that each fit a core, from the output back to the input.

Backwards, because the output axons of a neuron depend on how its targets were cut. A slice is a run of neighbouring
neurons. For each population the smallest number of slices is searched at which every slice keeps all limits, with cuts
that even out the load; the rule that one slice fewer would break is kept as the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Program
from toolchain.mapping.synapse_memory import FormatChoice, Parameters, SliceCost, SynapseLists, cost_slice
from toolchain.mapping.usage import Limit, Usage

Limits = Callable[[Usage], Sequence[Limit]]
"""Amounts of one core against their limits: what the partitioner asks, so that it knows no chip."""


@dataclass(frozen=True)
class Costing:
    """How synapses are charged: the cost model, its parameters and the formats that it may use."""

    model: str
    parameters: Parameters
    choice: FormatChoice

    def cost(self, lists: SynapseLists, choice: FormatChoice | None = None) -> SliceCost:
        return cost_slice(self.model, lists, self.parameters, choice or self.choice)


@dataclass(frozen=True, eq=False)
class Slice:
    """Neurons [start, stop) of a population, with what they take and the cost of each connection that enters them."""

    population: str
    start: int
    stop: int
    usage: Usage
    costs: dict[str, SliceCost]

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.population}[{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Reason:
    """Why a population has as many slices as it has: the limits that one slice fewer would break, worst first."""

    population: str
    n_slices: int
    fewer: int
    broken: tuple[Limit, ...]


@dataclass(frozen=True, eq=False)
class Partition:
    """Slices in program order, the reason for each population's number of slices, and limits no slicing can keep."""

    slices: tuple[Slice, ...]
    reasons: tuple[Reason, ...]
    impossible: tuple[tuple[str, Limit], ...]


def chip_lists(program: Program) -> dict[str, SynapseLists]:
    """The synapses that are on the chip, by connection: all but those computed on the host."""
    return {
        c.name: SynapseLists.of(c.synapses)
        for c in program.connections
        if not (program.input.on_host and c.source == program.input.name)
    }


def partition(program: Program, costing: Costing, limits: Limits) -> Partition:
    """Slices of every population that stands on the chip (the input's neurons too, where they are compartments)."""
    lists = chip_lists(program)
    sizes = {p.name: p.size for p in program.populations}
    if program.input.on_chip:
        sizes = {program.input.name: program.input.size, **sizes}
    entries = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    by_population: dict[str, list[Slice]] = {}
    reasons: list[Reason] = []
    impossible: list[tuple[str, Limit]] = []
    for name in reversed(sizes):
        entering = {c.name: lists[c.name] for c in program.into(name) if c.name in lists}
        cutter = _Cutter(name, sizes[name], entering, entries[name], costing, limits)
        slices, reason, never = cutter.cut()
        by_population[name] = slices
        reasons.append(reason)
        impossible += [(name, limit) for limit in never]
        for c in program.into(name):
            if c.source in entries and c.name in lists:
                for s in slices:
                    entries[c.source] += s.costs[c.name].words_per_axon > 0
    ordered = tuple(s for name in sizes for s in by_population[name])
    return Partition(ordered, tuple(reversed(reasons)), tuple(impossible))


@dataclass(frozen=True, eq=False)
class _Cutter:
    """The search for one population."""

    name: str
    size: int
    entering: dict[str, SynapseLists]
    entries: NDArray[np.int64]
    costing: Costing
    limits: Limits

    def cut(self) -> tuple[list[Slice], Reason, list[Limit]]:
        k = self._fewest()
        failed_k, failed = k - 1, self._outline_broken(k - 1)
        step = 1
        while True:
            slices, broken = self._attempt(k)
            if not broken:
                break
            failed_k, failed = k, broken
            if k == self.size:
                return slices, Reason(self.name, k, k, tuple(broken)), broken
            # The worst overload says about how many more slices are needed; what is jumped over is tried below.
            guess = int(k * min(limit.share for limit in broken[:1]) * 0.9)
            step = max(1, guess - k)
            k = min(self.size, k + step)
        low, high = failed_k, k
        while high - low > 1:
            middle = (low + high) // 2
            tried, broken = self._attempt(middle)
            if broken:
                low, failed = middle, broken
            else:
                high, slices = middle, tried
        return slices, Reason(self.name, high, low, tuple(failed)), []

    def _fewest(self) -> int:
        """A number of slices below which compartments, output axons or the bare weights would not fit."""
        k = 1
        while k < self.size and self._outline_broken(k):
            worst = max(limit.share for limit in self._outline_broken(k))
            k = min(self.size, max(k + 1, int(k * worst)))
        while k > 1 and not self._outline_broken(k - 1):
            k -= 1
        return k

    def _outline_broken(self, k: int) -> list[Limit]:
        """Limits that k equal slices break before any synapse is written: a bound from the totals alone."""
        if k < 1:
            return []
        payload = sum(len(x.mantissas) * (x.weight_bits + x.delay_bits) for x in self.entering.values())
        least = Usage(
            compartments=-(-self.size // k),
            output_axons=-(-int(self.entries.sum()) // k),
            synapse_words=payload // 64 // k,
        )
        return _broken(self.limits(least))

    def _attempt(self, k: int) -> tuple[list[Slice], list[Limit]]:
        """k slices cut evenly by neurons, or else evenly by load; the limits that the better of the two breaks."""
        best: tuple[list[Slice], list[Limit]] | None = None
        for edges in self._edges(k):
            slices = [self.slice(a, b) for a, b in itertools.pairwise(edges)]
            broken = _worst([limit for s in slices for limit in _broken(self.limits(s.usage))])
            if not broken:
                return slices, []
            if best is None or broken[0].share < best[1][0].share:
                best = slices, broken
        assert best is not None
        return best

    def _edges(self, k: int) -> list[NDArray[np.int64]]:
        even = np.linspace(0, self.size, k + 1).round().astype(np.int64)
        load = self.entries + sum(x.connectivity.fan_in for x in self.entering.values())
        total = np.cumsum(load)
        if k == 1 or not total[-1]:
            return [even]
        inner = np.searchsorted(total, total[-1] * np.arange(1, k) / k) + 1
        levelled = np.concatenate([[0], inner, [self.size]])
        usable = bool(np.all(np.diff(levelled) > 0)) and not np.array_equal(levelled, even)
        return [even, levelled] if usable else [even]

    def slice(self, start: int, stop: int) -> Slice:
        costs = {
            name: self.costing.cost(lists.window(targets=(int(start), int(stop))))
            for name, lists in self.entering.items()
        }
        usage = Usage(compartments=int(stop - start), output_axons=int(self.entries[start:stop].sum()))
        for cost in costs.values():
            usage = usage + Usage.of_synapses(cost)
        return Slice(self.name, int(start), int(stop), usage, costs)


def _broken(limits: Sequence[Limit]) -> list[Limit]:
    return _worst([limit for limit in limits if limit.broken])


def _worst(broken: list[Limit]) -> list[Limit]:
    """The largest overload of each rule, the worst rule first."""
    by_rule: dict[str, Limit] = {}
    for limit in broken:
        if limit.rule not in by_rule or limit.share > by_rule[limit.rule].share:
            by_rule[limit.rule] = limit
    return sorted(by_rule.values(), key=lambda limit: (-limit.share, limit.rule))
