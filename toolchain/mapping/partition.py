"""Cut every population into slices that each fit a core, from the output back to the input.

Backwards, because the output axons of a neuron depend on how its targets were cut. A slice is a run of neighbouring
neurons. For each population the smallest number of slices is searched at which every slice keeps all limits, with cuts
that even out the load; the rule that one slice fewer would break is kept as the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Compartments, Connectivity, Program
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import FormatChoice, Parameters, SliceCost, SynapseLists, cost_slice, cumulated
from toolchain.mapping.usage import Limit, Usage

Limits = Callable[[Usage], Sequence[Limit]]
"""Amounts of one core against their limits: what the partitioner asks, so that it knows no chip."""


@dataclass(frozen=True)
class Costing:
    """How synapses are charged: the cost model, its parameters and the formats that it may use.

    input_on_chip: whether neurons of the chip make the spikes of a rate input; else they come from outside.
    """

    model: str
    parameters: Parameters
    choice: FormatChoice
    input_on_chip: bool = True

    def cost(self, lists: SynapseLists, choice: FormatChoice | None = None) -> SliceCost:
        return cost_slice(self.model, lists, self.parameters, choice or self.choice)


@dataclass(frozen=True, eq=False)
class Slice:
    """A region of a population, with what it takes and the cost of each connection that enters it."""

    population: str
    region: Region
    usage: Usage
    costs: dict[str, SliceCost]

    def __len__(self) -> int:
        return len(self.region)

    @property
    def start(self) -> int:
        """First neuron; only of a population with one axis."""
        return self.region.start

    @property
    def stop(self) -> int:
        """Behind the last neuron; only of a population with one axis."""
        return self.region.stop

    def __str__(self) -> str:
        return f"{self.population}{self.region}"


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
    neurons = {p.name: p for p in program.populations}
    if program.input.on_chip and costing.input_on_chip:
        neurons = {program.input.name: program.input.compartments, **neurons}
    sizes = {name: p.size for name, p in neurons.items()}
    entries = {name: np.zeros(size, np.int64) for name, size in sizes.items()}
    by_population: dict[str, list[Slice]] = {}
    reasons: list[Reason] = []
    impossible: list[tuple[str, Limit]] = []
    for name in reversed(sizes):
        entering = {c.name: lists[c.name] for c in program.into(name) if c.name in lists}
        cutter = _Cutter(name, sizes[name], neurons[name], entering, entries[name], costing, limits)
        slices, reason, never = cutter.cut()
        by_population[name] = slices
        reasons.append(reason)
        impossible += [(name, limit) for limit in never]
        for c in program.into(name):
            if c.source in entries and c.name in lists:
                for s in slices:
                    s.costs[c.name].add_entries(entries[c.source])
    ordered = tuple(s for name in sizes for s in by_population[name])
    return Partition(ordered, tuple(reversed(reasons)), tuple(impossible))


@dataclass(frozen=True, eq=False)
class _Cutter:
    """The search for one population."""

    name: str
    size: int
    neurons: Compartments
    entering: dict[str, SynapseLists]
    entries: NDArray[np.int64]
    costing: Costing
    limits: Limits

    @cached_property
    def fan_in(self) -> NDArray[np.int64]:
        """Synapses of every neuron over all entering connections, shape (size,)."""
        return sum((x.connectivity.fan_in for x in self.entering.values()), np.zeros(self.size, np.int64))

    @cached_property
    def by_target(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Per connection the synapses in the order of their targets, and where each target's begin."""
        return {
            name: (np.argsort(x.connectivity.targets, kind="stable"), cumulated(x.connectivity.fan_in))
            for name, x in self.entering.items()
        }

    def cut(self) -> tuple[list[Slice], Reason, list[Limit]]:
        """The slices, why there are so many, and limits that one neuron alone breaks (left out of the search)."""
        never = self._broken_alone()
        if never:
            return self._without(never)
        k = self._fewest()
        fails, step = k - 1, 1
        found = self._try(k)
        while not isinstance(found, list):
            if k == self.size:
                return self._without(self._broken_by(k))
            # The overload says about how many more slices are needed; what is jumped over is tried below.
            fails, k, step = k, min(self.size, max(k + step, int(k * found))), step + 1
            found = self._try(k)
        slices, fits = found, k
        while fits - fails > 1:
            middle = (fails + fits) // 2
            found = self._try(middle)
            if isinstance(found, list):
                slices, fits = found, middle
            else:
                fails = middle
        return slices, Reason(self.name, fits, fails, tuple(self._broken_by(fails))), []

    def _without(self, never: list[Limit]) -> tuple[list[Slice], Reason, list[Limit]]:
        """The cut under all limits but these, which no slicing keeps."""
        ignored = {limit.rule for limit in never}
        rest = replace(self, limits=lambda usage: [x for x in self.limits(usage) if x.rule not in ignored])
        slices, reason, more = rest.cut()
        return slices, reason, _worst([*never, *more])

    def _broken_alone(self) -> list[Limit]:
        """Limits that the neuron with the most synapses, or the one with the most output axons, breaks by itself."""
        heaviest = {int(np.argmax(self.fan_in)), int(np.argmax(self.entries))}
        return _worst([limit for n in sorted(heaviest) for limit in _broken(self.limits(self.slice(n, n + 1).usage))])

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

    def _try(self, k: int) -> list[Slice] | float:
        """k slices that keep all limits, cut evenly by neurons or else evenly by load; or the overload met first."""
        overload = np.inf
        for edges in self._edges(k):
            slices: dict[int, Slice] = {}
            load = np.add.reduceat(self.fan_in + self.entries, edges[:-1])
            for at in np.argsort(-load, kind="stable"):  # the fullest first: most failures show in it
                slices[int(at)] = s = self.slice(edges[at], edges[at + 1])
                broken = _broken(self.limits(s.usage))
                if broken:
                    overload = min(overload, broken[0].share)
                    break
            else:
                return [slices[at] for at in range(k)]
        return overload

    def _broken_by(self, k: int) -> list[Limit]:
        """The limits that k slices break: the bound from the totals, or else those of the better of the two cuts."""
        outline = self._outline_broken(k)
        if outline or k < 1:
            return outline
        cuts = [
            _worst(
                [limit for a, b in itertools.pairwise(edges) for limit in _broken(self.limits(self.slice(a, b).usage))]
            )
            for edges in self._edges(k)
        ]
        return min(cuts, key=lambda broken: broken[0].share)

    def _edges(self, k: int) -> list[NDArray[np.int64]]:
        even = np.linspace(0, self.size, k + 1).round().astype(np.int64)
        total = np.cumsum(self.entries + self.fan_in)
        if k == 1 or not total[-1]:
            return [even]
        inner = np.searchsorted(total, total[-1] * np.arange(1, k) / k) + 1
        levelled = np.concatenate([[0], inner, [self.size]])
        usable = bool(np.all(np.diff(levelled) > 0)) and not np.array_equal(levelled, even)
        return [even, levelled] if usable else [even]

    def slice(self, start: int, stop: int) -> Slice:
        """Neurons [start, stop) with their costs; connections share the core's format registers where they must."""
        start, stop = int(start), int(stop)
        lists = {name: self._window(name, start, stop) for name in self.entering}
        region = Region.flat(self.size, start, stop)
        bare = Usage(compartments=stop - start, groups=1, output_axons=int(self.entries[start:stop].sum()))
        bare = bare + Usage.of_registers(self.neurons, region)
        costs = {name: self.costing.cost(part) for name, part in lists.items()}
        usage = sum((Usage.of_synapses(cost) for cost in costs.values()), bare)
        registers = self.costing.choice.max_formats
        if registers is not None and len(usage.formats) > registers:
            choice = replace(self.costing.choice, max_formats=max(1, registers // len(costs)))
            costs = {name: self.costing.cost(part, choice) for name, part in lists.items()}
            usage = sum((Usage.of_synapses(cost) for cost in costs.values()), bare)
        return Slice(self.name, region, usage, costs)

    def _window(self, name: str, start: int, stop: int) -> SynapseLists:
        """The synapses onto [start, stop), at a cost that grows with them alone."""
        lists = self.entering[name]
        if (start, stop) == (0, self.size):
            return lists
        order, first = self.by_target[name]
        chosen = np.sort(order[first[start] : first[stop]])  # back to the order of sources
        whole = lists.connectivity
        indptr = cumulated(np.bincount(whole.sources[chosen], minlength=whole.n_sources))
        part = Connectivity(whole.n_sources, stop - start, indptr, whole.targets[chosen] - np.int32(start))
        return replace(lists, connectivity=part, mantissas=lists.mantissas[chosen])


def _broken(limits: Sequence[Limit]) -> list[Limit]:
    return _worst([limit for limit in limits if limit.broken])


def _worst(broken: list[Limit]) -> list[Limit]:
    """The largest overload of each rule, the worst rule first."""
    by_rule: dict[str, Limit] = {}
    for limit in broken:
        if limit.rule not in by_rule or limit.share > by_rule[limit.rule].share:
            by_rule[limit.rule] = limit
    return sorted(by_rule.values(), key=lambda limit: (-limit.share, limit.rule))
