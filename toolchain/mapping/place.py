"""Put slices onto cores, and cores onto chips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir import Program
from toolchain.mapping.orders import best_orders
from toolchain.mapping.packing import Packer
from toolchain.mapping.partition import Partition, Synapses, chip_lists, part_of, partition
from toolchain.mapping.region import Region
from toolchain.mapping.slices import Costing, Limits, Reason, Slice
from toolchain.mapping.synapse_memory import Format
from toolchain.mapping.usage import Limit, Usage
from toolchain.mapping.wiring import Wiring

MOST_RECUT = 1000
"""Slices up to which another cut is made for what crosses chips: finer slices cross more often, so that for large
networks each such cut was found to call for the next, and only room for all axons to cross ended it."""
RECUTS = 4
"""How often a program is cut again where its axons to other chips are too many."""

ORDERS = 2
"""Orders of the slices that are placed, of all that are judged."""

MANY_SLICES = 2000
"""Slices beyond which only the most promising order is placed: every order costs as much as the first."""

MOST_REFITS = 500
"""Different writings of slices in other formats than their own that one placement tries, at some milliseconds each.

Most slices of a layer are alike, so few are different; where all are, a core more or less is not worth the time."""

FILLS = 6
"""How often chips are filled in one order, each time with the axons that crossed the time before."""


@dataclass(frozen=True, eq=False)
class Core:
    """One core: its number over all chips, its chip, the slices on it and what they take together."""

    index: int
    chip: int
    slices: tuple[Slice, ...]
    usage: Usage


@dataclass(frozen=True, eq=False)
class Mapping:
    """A program on the cores of a chip. Core numbers follow the chips, and within a chip the program's order."""

    target: str
    costing: Costing
    cores: tuple[Core, ...]
    reasons: tuple[Reason, ...]
    impossible: tuple[tuple[str, Limit], ...]
    cores_per_chip: int

    @property
    def n_chips(self) -> int:
        return 1 + max((core.chip for core in self.cores), default=0)

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The slices of all cores, core by core."""
        return tuple(s for core in self.cores for s in core.slices)

    def cores_of(self, population: str) -> tuple[Core, ...]:
        """The cores that hold a part of a population."""
        return tuple(core for core in self.cores if any(s.population == population for s in core.slices))

    def slices_of(self, population: str) -> tuple[Slice, ...]:
        """The parts of a population, in its own order."""
        found = [s for core in self.cores for s in core.slices if s.population == population]
        return tuple(sorted(found, key=lambda s: s.region))

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
    method: str = "fewest",
) -> Mapping:
    """Slices to cores, several on one where `share_cores`, and cores to chips.

    A network that needs several chips is tried in a few orders, along the layers and across them; the axons that
    cross chips are counted for the very placement, one output axon entry more each. Where they break a limit that the
    cut had kept, the program is cut again with the axons that its neurons send to other chips; but not where the first
    cut needs more than `chips` (None: as many as there are) already, as another one only needs more.
    """
    placer = _Placer(program, costing, limits, target, cores_per_chip, share_cores)
    first = placer.place(cut)
    if not first.broken or (chips is not None and len(first.filled) > chips):
        return first.mapping
    tried, now = [first], first
    assumed: dict[str, NDArray[np.int64]] = {}
    for _ in range(RECUTS if len(cut.slices) <= MOST_RECUT else 0):
        more = {name: np.maximum(assumed.get(name, 0), crossing) for name, crossing in now.crossing().items()}
        if all(np.array_equal(more[name], assumed.get(name, 0)) for name in more):
            break  # the cut would be the same again
        assumed.update(more)
        cut = partition(program, costing, limits, method, dict(assumed), cut)
        now = placer.place(cut)
        tried.append(now)
        if not now.broken:
            break
    if now.broken:
        # No placement can break this one, at the price of more cores.
        tried.append(placer.place(partition(program, costing, limits, method, apart=True)))
    return min(tried, key=lambda each: each.rank).mapping


@dataclass(frozen=True, eq=False)
class _Placed:
    """A cut on filled cores, of each chip the slices of every core by number; the mapping is made when it is chosen.

    crossings: axons of every slice to other chips.  broken: populations with the most axons to other chips on a core
    that breaks a limit which it keeps without them.
    """

    placer: _Placer
    cut: Partition
    filled: list[list[dict[int, Slice]]]
    crossings: NDArray[np.int64]
    broken: frozenset[str]

    def crossing(self) -> dict[str, NDArray[np.int64]]:
        """For each of the `broken` populations the axons of each neuron that go to other chips."""
        chips = np.zeros(len(self.crossings), np.int64)
        for chip, cores in enumerate(self.filled):
            chips[[k for core in cores for k in core]] = chip
        return self.placer.wiring(self.cut.slices).crossing(chips, self.broken)

    @property
    def rank(self) -> tuple[bool, bool, int, int, int]:
        """Less is better: limits kept, then chips, cores and axons between chips."""
        cores = sum(map(len, self.filled))
        return bool(self.broken), bool(self.cut.impossible), len(self.filled), cores, int(self.crossings.sum())

    @cached_property
    def mapping(self) -> Mapping:
        cores: list[Core] = []
        for chip, filled in enumerate(self.filled):
            for members in sorted((dict(sorted(core.items())) for core in filled), key=lambda core: min(core)):
                usage = reduce(add, (s.usage for s in members.values()))
                n = sum(self.crossings[list(members)].tolist())
                if n:
                    usage = usage.sending(usage.output_axons + n, usage.crossing_axons + n)
                cores.append(Core(len(cores), chip, tuple(members.values()), usage))
        return Mapping(
            target=self.placer.target,
            costing=self.placer.costing,
            cores=tuple(cores),
            reasons=self.cut.reasons,
            impossible=self.cut.impossible,
            cores_per_chip=self.placer.cores_per_chip,
        )


@dataclass(frozen=True, eq=False)
class _Placer:
    """Places the slices of any cut of one program."""

    program: Program
    costing: Costing
    limits: Limits
    target: str
    cores_per_chip: int
    share: bool

    def place(self, cut: Partition) -> _Placed:
        """The best of the orders that are tried."""
        slices = [_without_crossing(s) for s in cut.slices]
        refit = _Refit(chip_lists(self.program, self.costing), self.costing)
        packer = Packer.of(slices, self.limits, self.cores_per_chip, self.share, refit)
        wiring = self.wiring(slices)
        alone = self._on_one_chip(packer)
        if alone is not None:
            return self._placed(cut, [alone], packer.crossing)
        packer = replace(packer, crossing=np.array([s.usage.crossing_axons for s in cut.slices]))
        best: _Placed | None = None
        for order in self._orders(wiring, packer):
            made = self._in_order(cut, wiring, packer, order)
            if best is None or made.rank < best.rank:
                best = made
            if not made.broken and not self.share:
                break
        assert best is not None
        return best

    def wiring(self, slices: Sequence[Slice]) -> Wiring:
        return Wiring(self.program, slices, self.costing.by_position)

    def _on_one_chip(self, packer: Packer) -> list[dict[int, Slice]] | None:
        """All slices on one chip, or None where they do not fit."""
        if packer.base.sum(axis=0).max(initial=0.0) > self.cores_per_chip:
            return None
        if not self.share and len(packer.slices) > self.cores_per_chip:
            return None
        chip = packer.first_fit(range(len(packer.slices)), self.cores_per_chip)
        return chip.cores if len(chip.cores) <= self.cores_per_chip else None

    def _orders(self, wiring: Wiring, packer: Packer) -> Iterator[list[int]]:
        """Orders to try. One layer after another comes first where cores are not shared: so Intel's compiler fills."""
        network = list(range(len(wiring.slices)))
        if not self.share:
            yield network
        n = ORDERS if len(network) <= MANY_SLICES else 1
        for order in best_orders(wiring, packer)[:n]:
            if self.share or order != network:
                yield order

    def _in_order(self, cut: Partition, wiring: Wiring, packer: Packer, order: list[int]) -> _Placed:
        """Chips filled in an order. Which axons cross is known only then: each chip's slices are packed anew with them.

        Where that breaks a limit, chips are filled again, all alike: then a cut with room for the axons that cross
        finds them where it expects them. And on more chips, where slices do not fit their chip with these axons.
        """
        made: _Placed | None = None
        room = packer.capacity
        for _ in range(FILLS):
            chips = packer.fill(order, room)
            if sum(len(chip.cores) for chip in chips) <= packer.capacity and not packer.crossing.any():
                return self._placed(cut, [[core for chip in chips for core in chip.cores]], packer.crossing)
            of_slice = np.zeros(len(wiring.slices), np.int64)
            for number, chip in enumerate(chips):
                of_slice[chip.members()] = number
            packer = replace(packer, crossing=wiring.edges.crossing(of_slice))
            again = [packer.first_fit(chip.members()) for chip in chips]
            fits = max(len(chip.cores) for chip in again) <= packer.capacity
            filled = [chip.cores for chip in (again if fits else chips)]
            made = self._placed(cut, filled, packer.crossing)
            total = sum(len(chip.cores) for chip in again)
            even = -(-total // -(-total // packer.capacity))
            if fits and (not made.broken or room <= even):
                break
            room = even if even < room else room - max(1, room // 16)
            if room < 1:
                break
        assert made is not None
        return made

    def _placed(self, cut: Partition, filled: list[list[dict[int, Slice]]], crossings: NDArray[np.int64]) -> _Placed:
        """Filled cores, judged. crossings: axons of every slice to other chips."""
        broken: set[str] = set()
        known: dict[tuple[int, int, int], bool] = {}
        if crossings.any():
            each = crossings.tolist()
            for members in (core for chip in filled for core in chip):
                n = sum(each[k] for k in members)
                if not n:
                    continue
                key = *_sent(members.values()), n
                if key not in known:
                    known[key] = self._breaks_more(*key)
                if known[key]:
                    broken.add(members[max(sorted(members), key=lambda k: each[k])].population)
        return _Placed(self, cut, filled, crossings, frozenset(broken))

    def _breaks_more(self, output_axons: int, crossing_axons: int, more: int) -> bool:
        """Whether a core with `more` axons to other chips breaks a limit that it would keep if they stayed on its own.

        Only limits on output axons can differ, so only these are looked at.
        """
        alone = Usage(output_axons=output_axons, crossing_axons=crossing_axons)
        kept = {limit.rule for limit in self.limits(alone) if not limit.broken}
        full = Usage(output_axons=output_axons + more, crossing_axons=crossing_axons + more)
        return any(limit.broken and limit.rule in kept for limit in self.limits(full))


def _sent(slices: Iterable[Slice]) -> tuple[int, int]:
    """Output axons of slices together, and those of them to other chips."""
    output, crossing = 0, 0
    for s in slices:
        output += s.usage.output_axons
        crossing += s.usage.crossing_axons
    return output, crossing


def _without_crossing(s: Slice) -> Slice:
    """The slice without the axons to other chips that the cut assumed."""
    n = s.usage.crossing_axons
    if not n:
        return s
    usage, own = (u.sending(u.output_axons - n, 0) for u in (s.usage, s.own))
    return replace(s, usage=usage, own=own)


@dataclass(frozen=True, eq=False)
class _Refit:
    """Writes a slice in the formats of a core that holds others already. known: what was written before.

    When `MOST_REFITS` were tried, only what is known already is used.
    """

    lists: dict[str, Synapses]
    costing: Costing
    known: dict[tuple[str, Region, frozenset[Format]], Slice | None] = field(default_factory=dict)

    def __call__(self, s: Slice, total: Usage) -> Slice | None:
        key = s.population, s.region, total.formats
        if key not in self.known:
            if len(self.known) >= MOST_REFITS:
                return None
            self.known[key] = self._written(s, total.formats)
        return self.known[key]

    def _written(self, s: Slice, formats: frozenset[Format]) -> Slice | None:
        choice = replace(self.costing.choice, formats=tuple(sorted(formats)))
        costs = {}
        for name in s.costs:
            try:
                costs[name] = self.costing.cost(part_of(self.lists[name], s, name), choice)
            except SnncError:
                return None
        usage = sum((Usage.of_synapses(cost) for cost in costs.values()), s.own)
        return replace(s, usage=usage, costs=costs)
