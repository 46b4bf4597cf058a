"""Put slices onto cores, and cores onto chips."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir import Program
from toolchain.mapping.axons import OutputAxons
from toolchain.mapping.partition import Costing, Limits, Partition, Reason, Slice, chip_lists, part_of, partition
from toolchain.mapping.usage import Limit, Usage


@dataclass(frozen=True, eq=False)
class Core:
    """One core: its number over all chips, its chip, the slices on it and what they take together."""

    index: int
    chip: int
    slices: tuple[Slice, ...]
    usage: Usage


@dataclass(frozen=True, eq=False)
class Mapping:
    """A program on the cores of a chip. Core numbers follow the program's order."""

    target: str
    costing: Costing
    cores: tuple[Core, ...]
    reasons: tuple[Reason, ...]
    impossible: tuple[tuple[str, Limit], ...]
    cores_per_chip: int

    @property
    def n_chips(self) -> int:
        return 1 + max((core.chip for core in self.cores), default=0)

    def cores_of(self, population: str) -> tuple[Core, ...]:
        """The cores that hold a part of a population."""
        return tuple(core for core in self.cores if any(s.population == population for s in core.slices))

    def slices_of(self, population: str) -> tuple[Slice, ...]:
        """The parts of a population, in order."""
        return tuple(s for core in self.cores for s in core.slices if s.population == population)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: where every neuron is. The costs follow from the program and these slices."""
        return {
            "target": self.target,
            "cost_model": self.costing.model,
            "chips": self.n_chips,
            "cores": [
                {
                    "core": core.index,
                    "chip": core.chip,
                    "slices": [
                        {
                            "population": s.population,
                            "shape": list(s.region.shape),
                            "ranges": [list(r) for r in s.region.ranges],
                            "connections": {
                                name: {
                                    "words": cost.words,
                                    "axons": cost.n_axons,
                                    "synapses": cost.synapses,
                                    "lists_by_format": cost.axons_by_combination(),
                                }
                                for name, cost in s.costs.items()
                            },
                        }
                        for s in core.slices
                    ],
                }
                for core in self.cores
            ],
        }


def place(
    program: Program,
    cut: Partition,
    costing: Costing,
    limits: Limits,
    *,
    target: str,
    cores_per_chip: int,
    share_cores: bool = True,
    chips: int | None = None,
) -> Mapping:
    """Slices to cores by first fit, largest first, when `share_cores`; else one slice a core.

    Chips are filled in core order; output axons that cross chips are charged one entry more. Where that breaks a
    limit which the cut had kept, the program is cut again as if every output axon crossed chips; but not where the
    first cut needs more than `chips` (None: as many as there are) already, as the second only needs more.
    """

    def placed(slices: Partition, packing: Limits) -> Mapping:
        groups = _first_fit(program, slices.slices, costing, packing) if share_cores else [[s] for s in slices.slices]
        return _mapping(program, slices, groups, costing, target, cores_per_chip)

    mapping = placed(cut, limits)
    if (chips is None or mapping.n_chips <= chips) and _crossings_break(mapping, limits):
        every = _as_if_all_crossed(limits)
        other = placed(partition(program, costing, every), every)
        if not other.impossible and not _crossings_break(other, limits):
            return other
    return mapping


def _as_if_all_crossed(limits: Limits) -> Limits:
    """The limits, asked as if every output axon went to another chip (what only that breaks says so)."""

    def asked(usage: Usage) -> list[Limit]:
        plain = {limit.rule: limit.value for limit in limits(usage)}
        crossing = replace(usage, output_axons=2 * usage.output_axons, crossing_axons=usage.output_axons)
        return [
            limit
            if plain.get(limit.rule) == limit.value
            else replace(limit, rule=f"{limit.rule}, were all to other chips")
            for limit in limits(crossing)
        ]

    return asked


def _crossings_break(mapping: Mapping, limits: Limits) -> bool:
    """Whether a core breaks a limit that it would keep if all its targets were on its own chip."""

    def broken(usage: Usage) -> int:
        return sum(limit.broken for limit in limits(usage))

    return any(
        core.usage.crossing_axons and broken(core.usage) > broken(sum((s.usage for s in core.slices), Usage()))
        for core in mapping.cores
    )


def _mapping(
    program: Program,
    cut: Partition,
    groups: list[list[Slice]],
    costing: Costing,
    target: str,
    cores_per_chip: int,
) -> Mapping:
    rank = {(s.population, s.region): k for k, s in enumerate(cut.slices)}
    for group in groups:
        group.sort(key=lambda s: rank[s.population, s.region])
    groups.sort(key=lambda group: rank[group[0].population, group[0].region])
    cores = [
        Core(k, k // cores_per_chip, tuple(group), sum((s.usage for s in group), Usage()))
        for k, group in enumerate(groups)
    ]
    return Mapping(
        target=target,
        costing=costing,
        cores=tuple(_charge_crossings(program, cores)),
        reasons=cut.reasons,
        impossible=cut.impossible,
        cores_per_chip=cores_per_chip,
    )


def _first_fit(program: Program, slices: tuple[Slice, ...], costing: Costing, limits: Limits) -> list[list[Slice]]:
    lists = chip_lists(program, costing)
    # Used parts of the limits that add up, one row a core: tells in one comparison which cores have room at all.
    parts = [_additive_shares(s.usage, limits) for s in slices]
    room = np.ones((len(slices), parts[0].size if parts else 0))
    groups: list[list[Slice]] = []
    totals: list[Usage] = []
    for k in sorted(range(len(slices)), key=lambda k: -float(parts[k].max(initial=0.0))):
        for core in np.flatnonzero((room[: len(groups)] >= parts[k] - 1e-9).all(axis=1)):
            fitted = _fit(slices[k], totals[core], lists, costing, limits)
            if fitted is not None:
                groups[core].append(fitted)
                totals[core] = totals[core] + fitted.usage
                room[core] = 1.0 - _additive_shares(totals[core], limits)
                break
        else:
            room[len(groups)] = 1.0 - parts[k]
            groups.append([slices[k]])
            totals.append(slices[k].usage)
    return groups


def _additive_shares(usage: Usage, limits: Limits) -> NDArray[np.float64]:
    bare = replace(usage, formats=frozenset(), largest_list_words=0)
    return np.array([limit.share for limit in limits(bare)])


def _fit(s: Slice, total: Usage, lists: dict[str, Any], costing: Costing, limits: Limits) -> Slice | None:
    """The slice as it would stand beside what a core already holds, or None if it does not fit there.

    Where the two together want too many format registers, the slice is written in those that the core has.
    """
    bare = replace(s.usage, formats=frozenset())
    if any(limit.broken for limit in limits(replace(total, formats=frozenset()) + bare)):
        return None
    if not any(limit.broken for limit in limits(total + s.usage)):
        return s
    choice = replace(costing.choice, formats=tuple(sorted(total.formats)))
    usage = s.own
    costs = {}
    for name in s.costs:
        try:
            costs[name] = costing.cost(part_of(lists[name], s, name), choice)
        except SnncError:
            return None
        usage = usage + Usage.of_synapses(costs[name])
    if any(limit.broken for limit in limits(total + usage)):
        return None
    return replace(s, usage=usage, costs=costs)


def _charge_crossings(program: Program, cores: list[Core]) -> list[Core]:
    """Add one output axon entry for each axon to a slice on another chip."""
    if not cores or cores[-1].chip == 0:
        return cores
    shapes = program.shapes
    extra = np.zeros(len(cores), np.int64)
    for source in {c.source for c in program.connections}:
        names = {c.name for c in program.out_of(source)}
        senders = [(core, s) for core in cores for s in core.slices if s.population == source]
        heard = [(core, s.costs[name]) for core in cores for s in core.slices for name in names if name in s.costs]
        if not senders or not heard:
            continue
        everywhere = OutputAxons.of(shapes[source])
        for number, (_, cost) in enumerate(heard, start=1):
            everywhere.add(cost.axons, number)
        for chip in {core.chip for core, _ in senders}:
            here = OutputAxons.of(shapes[source])
            for number, (core, cost) in enumerate(heard, start=1):
                if core.chip == chip:
                    here.add(cost.axons, number)
            for core, s in senders:
                if core.chip == chip:
                    extra[core.index] += everywhere.axons(s.region) - here.axons(s.region)
    return [
        replace(core, usage=core.usage + Usage(output_axons=int(n), crossing_axons=int(n)))
        for core, n in zip(cores, extra, strict=True)
    ]
