"""Cut a feature map into boxes of channels, rows and columns.

All slices of a map are made by dividing each axis into equal ranges (the last may be shorter), so that few of them
differ: in the middle of the map slices of one size cost the same. For every number of slices all ways to divide the
three axes are known; from the fewest slices on, those that could fit are costed, and of the first number at which any
keeps all limits the one with the least axons and synaptic memory is taken. `nxtf` instead tries them in the order of
Intel's published compiler and takes the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Compartments
from toolchain.mapping.axons import EntryTables, OutputAxons
from toolchain.mapping.convolution import ConvolvedSynapses, Exclusive, Layout, destination_groups
from toolchain.mapping.region import Range, Region
from toolchain.mapping.screen import Screen, middle, most
from toolchain.mapping.slices import Costing, Limits, Part, Reason, Slice, broken, cost_parts, reset_usage, worst
from toolchain.mapping.synapse_memory import Axons, FormatChoice, Parameters, SliceCost, SynapseLists
from toolchain.mapping.usage import Limit, Usage
from toolchain.mapping.windows import ByTarget

Grid = tuple[tuple[Range, ...], tuple[Range, ...], tuple[Range, ...]]
"""Ranges of channels, rows and columns: a map cut into boxes."""

WEIGHED = ("input axons", "output axons", "synapse memory")
"""Rules whose used parts, added over all cores, tell which of two cuts with as many slices is better (source: NxTF)."""


@dataclass(frozen=True, eq=False)
class ListedPart:
    """Listed synapses onto a box of a map."""

    by_target: ByTarget
    region: Region
    layout: Layout

    @cached_property
    def lists(self) -> SynapseLists:
        """The lists, with targets at the compartments that the layout gives them."""
        place = self.layout.indices().reshape(-1)
        order = np.argsort(place)
        size = int(np.prod(self.region.shape))
        found = self.by_target.select(self.region.of(np.arange(size)).reshape(-1)[order])
        where = found.connectivity
        moved = replace(where, n_targets=self.layout.compartments, targets=place[order].astype(np.int32)[where.targets])
        return replace(found, connectivity=moved)

    @property
    def axons(self) -> Axons:
        return self.lists.axons

    def written(self, where: str) -> SynapseLists:
        return self.lists

    def cost(self, model: str, parameters: Parameters, choice: FormatChoice) -> SliceCost:
        return self.lists.cost(model, parameters, choice)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A grid that could be tried. place: of its divisions in the screen's tables; broken: what it broke, once tried.

    possible: whether the screen leaves it.
    """

    number: int
    place: tuple[int, int, int]
    divisions: tuple[list[tuple[Range, ...]], ...]
    screen: Screen
    possible: bool
    broken: list[Limit]

    def grid(self) -> Grid:
        return tuple(of[k] for of, k in zip(self.divisions, self.place, strict=True))  # type: ignore[return-value]

    def least(self) -> Usage:
        return self.screen.usage(self.place)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A grid that was costed. cells: usage, costs and parts of every kind of slice; kind: of each slice, by axis."""

    grid: Grid
    broken: list[Limit]
    weight: float
    kinds: tuple[list[int], list[int], list[int]]
    usages: Mapping[tuple[int, ...], tuple[Usage, Usage, dict[str, SliceCost]]]
    entries: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MapCutter:
    """The search for one population of shape (channels, height, width). outgoing: the slices that it sends to."""

    name: str
    shape: tuple[int, ...]
    neurons: Compartments
    entering: Mapping[str, SynapseLists | ConvolvedSynapses]
    outgoing: OutputAxons
    costing: Costing
    limits: Limits
    method: str = "fewest"

    def cut(self) -> tuple[list[Slice], Reason, list[Limit]]:
        """The slices, why there are so many, and limits that no slicing keeps (left out of the search)."""
        found = self._search()
        for x in self.convolutions.values():
            x.forget()
        return found

    def _search(self) -> tuple[list[Slice], Reason, list[Limit]]:
        best: _Trial | None = None
        before: list[_Candidate] = []
        for number, group in itertools.groupby(self._candidates(), key=lambda candidate: candidate.number):
            here = list(group)
            for candidate in here:
                if not candidate.possible:
                    continue
                grid = candidate.grid()
                bound = self._bound(grid)
                trial = None if bound else self._try(grid, math.inf if best is None else best.weight)
                candidate.broken[:] = bound if trial is None else trial.broken
                if trial is not None and not trial.broken:
                    best = trial if best is None or trial.weight < best.weight else best
                    if self.method == "nxtf":
                        break
            if best is not None:
                fewer, why = self._nearest(before)
                return self._slices(best), Reason(self.name, number, fewer, tuple(why)), []
            before = here
        never = self._nearest(before)[1]
        ignored = {limit.rule for limit in never}
        rest = replace(self, limits=lambda usage: [x for x in self.limits(usage) if x.rule not in ignored])
        slices, reason, more = rest._search()
        return slices, reason, worst([*never, *more])

    def never(self) -> tuple[Region, list[Limit]] | None:
        """A neuron, and limits that no slicing keeps for it; None where some grid may fit.

        A necessary condition, found before anything is searched or encoded: the tables of the screen, and, of grids
        that they leave, the input axons of the slice that has the neuron with the most sources, counted exactly (a
        larger slice may share axons that smaller ones do not). What it sends to is left out.
        """
        channel, (row, column) = self._heaviest, ((n - 1) // 2 for n in self.shape[1:])
        alone = Region(self.shape, ((channel, channel + 1), (row, row + 1), (column, column + 1)))

        def failed(grid: Grid) -> list[Limit]:
            ranges = [next(r for r in grid[0] if r[0] <= channel < r[1]), *map(middle, grid[1:])]
            exclusive = {name: x.exclusive(grid, self.layout) for name, x in self.convolutions.items()}
            return self._axons_broken(Region(self.shape, tuple(ranges)), exclusive)

        found: list[Limit] | None = None
        for candidate in reversed(list(self._candidates())):  # single neurons first: what fits mostly fits so
            bound = failed(candidate.grid()) if candidate.possible or found is None else []
            if candidate.possible and not bound:
                return None
            if found is None:
                found = worst([*bound, *broken(self.limits(candidate.least()))])
        return (alone, found) if found else None

    @cached_property
    def _heaviest(self) -> int:
        """The channel whose neurons have the most synapses from convolutions, away from the borders."""
        total = np.zeros(self.shape[0], np.int64)
        for x in self.convolutions.values():
            total += np.bincount(x.pattern.entries[3], minlength=self.shape[0])
        return int(np.argmax(total))

    def _nearest(self, tried: Sequence[_Candidate]) -> tuple[int, list[Limit]]:
        """How many slices these have, and what the one that was nearest to fitting breaks."""
        reasons = [x.broken or broken(self.limits(x.least())) for x in tried]
        return (tried[0].number, min(reasons, key=lambda limits: limits[0].share)) if tried else (0, [])

    # -- what could be tried ------------------------------------------------------------------------------------------

    def _candidates(self) -> Iterator[_Candidate]:
        """All grids, fewest slices first, then in the order of Intel's compiler.

        Its order: few parts of the channels first, then of rows, then of columns; where every source channel reaches
        one target channel only, rows first, then columns, then channels, as dividing channels is cheap there.
        """
        divided = self._divisions
        screen = Screen.of(
            divided,
            list(self.convolutions.values()),
            self.layout,
            self.outgoing.least,
            self._crossing,
            self.costing.model,
        )
        able = screen.possible(self.limits)
        counts = [np.array([len(division) for division in axis], np.int64) for axis in divided]
        sizes = [np.array([division[0][1] for division in axis], np.int64) for axis in divided]
        order = (1, 2, 0) if self._depthwise and self.method != "halving" else (0, 1, 2)
        axes = [np.arange(len(counts[axis])) for axis in order]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)[:, np.argsort(order)]
        number, neurons = (
            np.prod([values[k] for values, k in zip(of, places.T, strict=True)], axis=0) for of in (counts, sizes)
        )
        if self.method == "halving":
            divides = counts[0][places[:, 0]] * counts[1][places[:, 1]] > 1
            chosen = np.lexsort((number, divides))
        else:
            chosen = np.argsort(number, kind="stable")
            chosen = chosen[(neurons * self.costing.neuron_size(self.neurons) <= self._most_compartments)[chosen]]
        for k in chosen.tolist():
            c, r, w = places[k].tolist()
            yield _Candidate(int(number[k]), (c, r, w), divided, screen, bool(able[c, r, w]), [])

    @cached_property
    def _divisions(self) -> tuple[list[tuple[Range, ...]], ...]:
        """The ways to divide each axis.

        `halving` cuts columns to powers of two, and rows and channels in half and half again.
        """
        if self.method != "halving":
            return tuple([_ranges(n, parts) for parts in _divisions(n)] for n in self.shape)
        channels, rows, columns = self.shape
        halves = [
            [_cut(n, size) for size in sorted({-(-n // (1 << k)) for k in range(n.bit_length() + 1)})]
            for n in (channels, rows)
        ]
        return halves[0], halves[1], [_cut(columns, 1 << k) for k in range(columns.bit_length() + 1)]

    @cached_property
    def _most_compartments(self) -> int:
        """Compartments of one core, so far as the limits say."""
        return most(self.limits, "compartments", int(np.prod(self.shape)) * 2 + 1)

    @cached_property
    def convolutions(self) -> dict[str, ConvolvedSynapses]:
        return {name: x for name, x in self.entering.items() if isinstance(x, ConvolvedSynapses)}

    @cached_property
    def listed(self) -> dict[str, ByTarget]:
        return {name: ByTarget.of(x) for name, x in self.entering.items() if isinstance(x, SynapseLists)}

    @cached_property
    def _depthwise(self) -> bool:
        """Whether no source channel reaches more than one target channel (also where nothing enters)."""
        return all(bool(((x.signs != 0).any(axis=(1, 2)).sum(axis=1) <= 1).all()) for x in self.convolutions.values())

    @cached_property
    def _primary(self) -> ConvolvedSynapses | None:
        """The convolution that decides how columns are numbered: the one with the widest kernel."""
        return max(self.convolutions.values(), key=lambda x: x.pattern.size[1], default=None)

    @cached_property
    def _widths(self) -> dict[Range, tuple[int, ...]]:
        return {}

    def layout(self, ranges: tuple[Range, Range, Range]) -> Layout:
        """Where the neurons of a slice stand among the compartments."""
        (c, d), (a, b), columns = ranges
        if columns not in self._widths:
            whole = (columns[1] - columns[0],)
            first = self._primary
            self._widths[columns] = whole if first is None else destination_groups(first.pattern, columns)
        return Layout(d - c, b - a, self._widths[columns], self.costing.neuron_size(self.neurons))

    @cached_property
    def _crossing(self) -> int:
        """Axons of all neurons that are taken to go to other chips: often the limit that decides, and quickly seen."""
        return int(self.outgoing.crossing.sum())

    def _bound(self, grid: Grid) -> list[Limit]:
        """Limits that a grid is seen to break before its slices are told apart and costed."""
        for usage in self._bounds(grid):
            if found := broken(self.limits(usage)):
                return found
        exclusive = {name: x.exclusive(grid, self.layout) for name, x in self.convolutions.items()}
        return self._axons_broken(Region(self.shape, tuple(map(middle, grid))), exclusive)

    def _bounds(self, grid: Grid) -> Iterator[Usage]:
        """What the slice in the middle takes at least, the quickest bound first; of axons to other chips, the most."""
        ranges = tuple(map(middle, grid))
        layout = self.layout(ranges)  # type: ignore[arg-type]
        if self._crossing:
            yield Usage(crossing_axons=int(self._entries.crossing_table(grid).max()))
        yield Usage(output_axons=int((self._entries.table(grid) + self._resets(grid)).max()))
        for x in self.convolutions.values():
            for words in x.least_words(ranges, layout, self.costing.model):
                yield Usage(synapse_words=words)

    @cached_property
    def _entries(self) -> EntryTables:
        return EntryTables.of(self.outgoing)

    def _resets(self, grid: Grid) -> NDArray[np.int64]:
        """Output axons of every slice that subtract its thresholds."""
        c, r, w = (np.array([b - a for a, b in axis], np.int64) for axis in grid)
        return c[:, None, None] * r[:, None] * w * (self.costing.neuron_size(self.neurons) > 1)

    # -- one grid -----------------------------------------------------------------------------------------------------

    def _try(self, grid: Grid, most: float) -> _Trial | None:
        """The grid costed, or as much of it as shows that it does not fit.

        None where its weight is no less than `most`, which is seen before most of its lists are written.
        """
        exclusive = {name: x.exclusive(grid, self.layout) for name, x in self.convolutions.items()}
        kinds = tuple(self._kinds(axis, grid, exclusive) for axis in range(3))
        usages: dict[tuple[int, ...], tuple[Usage, Usage, dict[str, SliceCost]]] = {}
        weight = 0.0
        found: list[Limit] = []
        members = [[np.flatnonzero(np.array(k) == kind) for kind in sorted(set(k))] for k in kinds]
        cells = sorted(
            itertools.product(*(range(len(m)) for m in members)),
            key=lambda cell: -math.prod(len(members[axis][k]) for axis, k in enumerate(cell)),
        )

        def first(cell: tuple[int, ...]) -> Region:
            at = (int(members[axis][k][0]) for axis, k in enumerate(cell))
            return Region(self.shape, tuple(grid[axis][k] for axis, k in enumerate(at)))

        def costed(cell: tuple[int, ...]) -> list[Limit]:
            usages[cell] = self._cost(first(cell), exclusive)
            return broken(self.limits(usages[cell][0]))

        def failed(found: list[Limit]) -> _Trial:
            return _Trial(grid, found, weight, kinds, usages, self.outgoing.targets)  # type: ignore[arg-type]

        entries = self._entries.table(grid)
        sent = {cell: entries[np.ix_(*(members[axis][k] for axis, k in enumerate(cell)))] for cell in cells}

        def weighed(cell: tuple[int, ...], usage: Usage) -> float:
            even = usage.sending(usage.output_axons + int(sent[cell].mean()), usage.crossing_axons)
            return sent[cell].size * sum(limit.share for limit in self.limits(even) if limit.rule in WEIGHED)

        def axons(cell: tuple[int, ...]) -> list[Limit]:
            return self._axons_broken(first(cell), exclusive)

        # Axons are counted without a list written: first the most frequent slice, then all.
        for some, check in ((cells[:1], axons), (cells[:1], costed), (cells[1:], axons)):
            for cell in some:
                if found := check(cell):
                    return failed(found)
        if most < math.inf and sum(weighed(cell, self._least(first(cell), exclusive)) for cell in cells) >= most:
            return None
        for cell in cells[1:]:
            if found := costed(cell):
                return failed(found)
        crossing = self._entries.crossing_table(grid)
        for cell in cells:
            usage, _, _ = usages[cell]
            apart = int(crossing[np.ix_(*(members[axis][k] for axis, k in enumerate(cell)))].max())
            full = usage.sending(usage.output_axons + int(sent[cell].max()), apart)
            if found := broken(self.limits(full)):
                break
            weight += weighed(cell, usage)
        return _Trial(grid, found, weight, kinds, usages, entries)  # type: ignore[arg-type]

    def _axons_broken(self, region: Region, exclusive: Mapping[str, Exclusive]) -> list[Limit]:
        """The limits that the input axons of a slice break alone; not looked at where lists would have to be made."""
        return [] if self.listed else broken(self.limits(Usage(input_axons=self._input_axons(region, exclusive))))

    def _input_axons(self, region: Region, exclusive: Mapping[str, Exclusive]) -> int:
        parts = self._parts(region, self.layout(region.ranges), exclusive)  # type: ignore[arg-type]
        resets = len(region) if self.costing.neuron_size(self.neurons) > 1 else 0
        return resets + sum(part.axons.n_axons for part in parts.values())

    def _least(self, region: Region, exclusive: Mapping[str, Exclusive]) -> Usage:
        """Of what cuts are weighed by, as much as is known of a slice before its lists are written."""
        if self.listed:
            return Usage()
        layout, resets = self.layout(region.ranges), self.costing.neuron_size(self.neurons) > 1  # type: ignore[arg-type]
        words = sum(
            next(x.least_words(region.ranges, layout, self.costing.model), 0) for x in self.convolutions.values()
        )
        own = len(region) * resets
        return Usage(input_axons=self._input_axons(region, exclusive), output_axons=own, synapse_words=words + own)

    def _kinds(self, axis: int, grid: Grid, exclusive: Mapping[str, Exclusive]) -> list[int]:
        """Numbers of the ranges of an axis, equal where slices that differ in them alone cost the same."""
        known: dict[object, int] = {}
        per_neuron = any(np.ndim(getattr(self.neurons, f)) for f in ("du", "dv", "vth"))
        found = []
        for at, within in enumerate(grid[axis]):
            if self.listed or per_neuron:
                key: object = at
            else:
                layout = self.layout((grid[0][0], grid[1][0], within)) if axis == 2 else None
                key = (
                    within[1] - within[0],
                    layout,
                    *(x.kind(axis, within, layout, exclusive[name]) for name, x in self.convolutions.items()),
                )
            found.append(known.setdefault(key, len(known)))
        return found

    def _cost(self, region: Region, exclusive: Mapping[str, Exclusive]) -> tuple[Usage, Usage, dict[str, SliceCost]]:
        """What a slice takes, but for output axons to other slices; that without synapses; the cost of connections."""
        layout = self.layout(region.ranges)  # type: ignore[arg-type]
        bare = Usage(
            compartments=layout.compartments,
            groups=1,
            destination_groups=layout.groups if self.convolutions else 0,
            delay_bits=max((x.delay_bits for x in self.entering.values()), default=0),
            axon_maps=self._axon_maps(region),
        )
        bare = bare + Usage.of_registers(self.neurons, region)
        if layout.neuron_size > 1:
            bare = bare + reset_usage(len(region), self.costing)
        costs, usage = cost_parts(self._parts(region, layout, exclusive), bare, self.costing)
        return usage, bare, costs

    def _axon_maps(self, region: Region) -> int:
        """Entries of the map from neurons, or from positions, to output axons."""
        return len(region) // region.extents[0] if self.outgoing.by_position else len(region)

    def _parts(self, region: Region, layout: Layout, exclusive: Mapping[str, Exclusive]) -> dict[str, Part]:
        return {
            name: self.convolutions[name].onto(region, layout, exclusive[name])
            if name in self.convolutions
            else ListedPart(self.listed[name], region, layout)
            for name in self.entering
        }

    def _slices(self, trial: _Trial) -> list[Slice]:
        exclusive = {name: x.exclusive(trial.grid, self.layout) for name, x in self.convolutions.items()}
        crossing = self._entries.crossing_table(trial.grid)
        slices = []
        for cell in itertools.product(*(range(len(axis)) for axis in trial.grid)):
            region = Region(self.shape, tuple(trial.grid[axis][at] for axis, at in enumerate(cell)))
            kind = tuple(trial.kinds[axis][at] for axis, at in enumerate(cell))
            usage, own, alike = trial.usages[kind]
            parts = self._parts(region, self.layout(region.ranges), exclusive)  # type: ignore[arg-type]
            costs = {name: replace(cost, axons=parts[name].axons) for name, cost in alike.items()}
            out = usage.output_axons + int(trial.entries[cell])
            usage, own = (u.sending(out, int(crossing[cell])) for u in (usage, own))
            slices.append(Slice(self.name, region, usage, costs, own, parts))
        return slices


def _size(grid: Grid) -> int:
    return len(grid[0]) * len(grid[1]) * len(grid[2])


def _divisions(n: int) -> list[int]:
    """Numbers of equal ranges into which n places can be divided (the last range may be shorter, not empty)."""
    sizes = np.arange(1, n + 1)
    return np.unique(-(-n // sizes)).tolist()


def _ranges(n: int, parts: int) -> tuple[Range, ...]:
    return _cut(n, -(-n // parts))


def _cut(n: int, size: int) -> tuple[Range, ...]:
    return tuple((at, min(n, at + size)) for at in range(0, n, size))
