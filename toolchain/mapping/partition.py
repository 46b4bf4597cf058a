"""Cut every population into slices that each fit a core, from the output back to the input.

Backwards, because the output axons of a neuron depend on how its targets were cut. A slice is a run of neighbouring
neurons, or, of a feature map, a box of channels, rows and columns. For each population the smallest number of slices
is searched at which every slice keeps all limits; what fewer would break is kept as the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Compartments, Convolution, Program
from toolchain.mapping.axons import OutputAxons
from toolchain.mapping.convolution import ConvolvedSynapses
from toolchain.mapping.maps import MapCutter
from toolchain.mapping.region import Region
from toolchain.mapping.runs import RunCutter
from toolchain.mapping.slices import Costing, Limits, Part, Reason, Slice
from toolchain.mapping.synapse_memory import SynapseLists
from toolchain.mapping.usage import Limit

__all__ = ["Costing", "Limits", "Partition", "Reason", "Slice", "chip_lists", "part_of", "partition", "ruled_out"]

METHODS = ("fewest", "nxtf", "halving")
"""How feature maps are cut: into the fewest slices, the cheapest of these; into the first that NxTF would take; or into
the fewest with columns cut to powers of two, and rows and channels halved, as the compiler of Loihi 2 cuts them."""

Synapses = SynapseLists | ConvolvedSynapses


@dataclass(frozen=True, eq=False)
class Partition:
    """Slices in program order, the reason for each population's number of slices, and limits no slicing can keep.

    crossing: for each population the axons of each neuron that were taken to go to other chips, where any were.
    """

    slices: tuple[Slice, ...]
    reasons: tuple[Reason, ...]
    impossible: tuple[tuple[str, Limit], ...]
    crossing: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


def chip_lists(program: Program, costing: Costing) -> dict[str, Synapses]:
    """The synapses that are on the chip, by connection: all but those computed on the host."""
    delays = program.chip_delays
    chosen = [c for c in program.connections if not (program.input.on_host and c.source == program.input.name)]
    neurons = {p.name: p for p in program.populations}
    outgoing = [c.source for c in chosen]
    found: dict[str, Synapses] = {}
    for c in chosen:
        bits = costing.delay_bits(delays[c.name])
        pattern = c.synapses.connectivity
        if isinstance(pattern, Convolution):
            ends = [neurons[end] for end in (c.source, c.target) if end in neurons]
            alone = outgoing.count(c.source) == 1 and all(costing.neuron_size(end) == 1 for end in ends)
            alone = alone and not costing.by_position  # where a position has one axon anyway
            found[c.name] = ConvolvedSynapses(
                c.synapses, pattern, bits, alone, costing.signed(c.synapses), costing.by_position
            )
        else:
            found[c.name] = replace(SynapseLists.of(c.synapses), delay_bits=bits)
    return found


def partition(
    program: Program,
    costing: Costing,
    limits: Limits,
    method: str = "fewest",
    crossing: Mapping[str, NDArray[np.int64]] | None = None,
    previous: Partition | None = None,
    apart: bool = False,
) -> Partition:
    """Slices of every population that stands on the chip (the input's neurons too, where they are compartments).

    crossing: for each population the axons of each neuron that go to other chips, in the population's shape: the slices
    have room for them.  previous: a cut of the same program, from which populations are kept that need no other.
    apart: room for every axon to go to another chip, however the slices are placed (with it, `crossing` says nothing).
    method: of `METHODS`. Where a connection leads back, output axons depend on cuts that are made later: the cut is
    made again with the output axons found, until they are enough.
    """
    cutting = _Cutting(program, costing, limits, method, crossing or {}, previous, apart)
    assumed: dict[str, NDArray[np.int64]] = {}
    while True:
        done = cutting.run(assumed)
        short = [name for name, extra in done.back.items() if (extra > assumed.get(name, 0)).any()]
        if not short:
            return done.partition
        for name in short:
            assumed[name] = np.maximum(assumed.get(name, 0), done.back[name])


def ruled_out(
    program: Program, costing: Costing, limits: Limits, method: str = "fewest"
) -> list[tuple[str, Region, Limit]]:
    """Limits that no slicing keeps, of all populations: necessary conditions, before any slice is searched.

    Each with its population and a neuron that breaks it. What they send to is not known yet: a cut may find more.
    """
    cutting = _Cutting(program, costing, limits, method, {}, None, apart=False)
    return [
        (name, region, limit)
        for name in cutting.neurons
        if (never := cutting.alone(name).never()) is not None
        for region, found in [never]
        for limit in found
    ]


def part_of(synapses: Synapses, s: Slice, name: str) -> Part:
    """The synapses that a connection brings onto a slice. synapses: all of them, as `chip_lists` has them."""
    if name in s.parts:
        return s.parts[name]
    assert isinstance(synapses, SynapseLists), "only slices of maps come with their parts"
    return synapses.window(targets=(s.start, s.stop))


@dataclass(frozen=True, eq=False)
class _Cut:
    """One cut of all populations. back: what connections that lead back add to the slices that a neuron sends to."""

    partition: Partition
    back: dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class _Cutting:
    """All that a cut of a program needs, and is the same for every attempt."""

    program: Program
    costing: Costing
    limits: Limits
    method: str
    crossing: Mapping[str, NDArray[np.int64]]
    previous: Partition | None
    apart: bool

    @cached_property
    def neurons(self) -> dict[str, Compartments]:
        """What stands on the chip, in program order."""
        neurons = {p.name: p for p in self.program.populations}
        entry = self.program.input
        return {entry.name: entry.compartments, **neurons} if entry.on_chip and self.costing.input_on_chip else neurons

    @cached_property
    def lists(self) -> dict[str, Synapses]:
        return chip_lists(self.program, self.costing)

    def alone(self, name: str) -> RunCutter | MapCutter:
        """What would cut a population that sends to nobody."""
        shape = self.program.shapes[name]
        return self._cutter(name, shape, self._entering(name), OutputAxons.of(shape, self._by_position(name)))

    def _entering(self, name: str) -> dict[str, Synapses]:
        return {c.name: self.lists[c.name] for c in self.program.into(name) if c.name in self.lists}

    def run(self, assumed: dict[str, NDArray[np.int64]]) -> _Cut:
        """Cut every population. assumed: output axons beside those to populations that are cut before."""
        shapes = self.program.shapes
        # Some bytes a neuron: only of populations that are heard, from their first listener until they are cut.
        outgoing: dict[str, OutputAxons] = {}
        back: dict[str, OutputAxons] = {}
        kept = {} if assumed else self._kept()
        by_population: dict[str, list[Slice]] = {}
        reasons: list[Reason] = []
        impossible: list[tuple[str, Limit]] = []
        number = 0
        for name in reversed(self.neurons):
            if name in kept:
                slices, reason, never = kept[name]
            else:
                if name not in outgoing:
                    outgoing[name] = self._outgoing(name, assumed)
                sent = outgoing[name]
                if self.apart:  # what it sends to is cut by now
                    sent.crossing[:] = sent.targets
                slices, reason, never = self._cutter(name, shapes[name], self._entering(name), sent).cut()
            if name not in assumed:
                outgoing.pop(name, None)
            by_population[name] = slices
            reasons.append(reason)
            impossible += [(name, limit) for limit in never]
            for c in self.program.into(name):
                if c.source not in self.neurons or c.name not in self.lists:
                    continue
                if c.source in by_population:  # it is cut already: a connection that leads back
                    axons = back.setdefault(c.source, OutputAxons.of(shapes[c.source]))
                else:
                    if c.source not in outgoing:
                        outgoing[c.source] = self._outgoing(c.source, assumed)
                    axons = outgoing[c.source]
                for s in slices:
                    number += 1
                    axons.add(s.costs[c.name].axons, number)
        for name, extra in assumed.items():
            outgoing[name].targets[:] += back[name].targets - extra
            by_population[name] = [_with_entries(s, outgoing[name], self) for s in by_population[name]]
        ordered = tuple(s for name in self.neurons for s in by_population[name])
        cut = Partition(ordered, tuple(reversed(reasons)), tuple(impossible), self.crossing)
        return _Cut(cut, {name: axons.targets for name, axons in back.items()})

    def _outgoing(self, name: str, assumed: Mapping[str, NDArray[np.int64]]) -> OutputAxons:
        """The output axons of a population before anything that it sends to is cut."""
        axons = OutputAxons.of(self.program.shapes[name], self._by_position(name))
        if name in assumed:
            axons.targets[:] += assumed[name]
        if name in self.crossing:
            axons.crossing[:] = np.reshape(self.crossing[name], -1)
        return axons

    def _kept(self) -> dict[str, tuple[list[Slice], Reason, list[Limit]]]:
        """What the cut before has of populations whose output axons are the same now."""
        before = self.previous
        if before is None:
            return {}
        kept: dict[str, tuple[list[Slice], Reason, list[Limit]]] = {}
        reasons = {reason.population: reason for reason in before.reasons}
        for name in reversed(self.neurons):
            now, then = (np.asarray(x.get(name, 0)) for x in (self.crossing, before.crossing))
            heard = all(c.target in kept or c.name not in self.lists for c in self.program.out_of(name))
            if heard and (np.array_equal(now, then) or not (now.any() or then.any())):
                never = [limit for population, limit in before.impossible if population == name]
                kept[name] = [s for s in before.slices if s.population == name], reasons[name], never
        return kept

    def _by_position(self, name: str) -> bool:
        """Whether all neurons at one position of a map share their output axons."""
        heard = [self.lists[c.name] for c in self.program.out_of(name) if c.name in self.lists]
        return self.costing.by_position and bool(heard) and all(isinstance(x, ConvolvedSynapses) for x in heard)

    def _cutter(
        self, name: str, shape: tuple[int, ...], entering: dict[str, Synapses], outgoing: OutputAxons
    ) -> RunCutter | MapCutter:
        neurons = self.neurons[name]
        if len(shape) == 3:
            return MapCutter(name, shape, neurons, entering, outgoing, self.costing, self.limits, self.method)
        lists = {c: x for c, x in entering.items() if isinstance(x, SynapseLists)}
        return RunCutter(name, neurons.size, neurons, lists, outgoing, self.costing, self.limits)


def _with_entries(s: Slice, outgoing: OutputAxons, cutting: _Cutting) -> Slice:
    """The slice with the output axons that it really needs."""
    resets = len(s) if cutting.costing.neuron_size(cutting.neurons[s.population]) > 1 else 0
    out = outgoing.entries(s.region) + resets
    usage, own = (u.sending(out, u.crossing_axons) for u in (s.usage, s.own))
    return replace(s, usage=usage, own=own)
