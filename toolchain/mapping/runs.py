"""Cut a population with one axis into runs of neighbouring neurons.

The smallest number of runs is searched at which every one keeps all limits, with cuts that even out the load; the rule
that one run fewer would break is kept as the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Compartments
from toolchain.mapping.axons import OutputAxons
from toolchain.mapping.region import Region
from toolchain.mapping.slices import Costing, Limits, Reason, Slice, broken, cost_parts, reset_usage, worst
from toolchain.mapping.synapse_memory import SynapseLists
from toolchain.mapping.usage import Limit, Usage
from toolchain.mapping.windows import ByTarget
from toolchain.parallel import in_order

ENOUGH = 64
"""Slices looked at to say which limits a cut breaks."""
BATCH = 64
"""Slices costed at a time, on as many threads as there are cores."""


@dataclass(frozen=True, eq=False)
class RunCutter:
    """The search for a population with one axis: runs of neighbouring neurons.

    outgoing: the slices that its neurons send to.
    """

    name: str
    size: int
    neurons: Compartments
    entering: dict[str, SynapseLists]
    outgoing: OutputAxons
    costing: Costing
    limits: Limits

    @cached_property
    def fan_in(self) -> NDArray[np.int64]:
        """Synapses of every neuron over all entering connections, shape (size,)."""
        return sum((x.connectivity.fan_in for x in self.entering.values()), np.zeros(self.size, np.int64))

    @cached_property
    def entries(self) -> NDArray[np.int64]:
        """Output axon entries of every neuron, shape (size,)."""
        return self.outgoing.targets + self.outgoing.crossing

    @cached_property
    def by_target(self) -> dict[str, ByTarget]:
        """The synapses of every connection in the order of their targets."""
        return {name: ByTarget.of(lists) for name, lists in self.entering.items()}

    @property
    def neuron_size(self) -> int:
        """Compartments of one neuron."""
        return self.costing.neuron_size(self.neurons)

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

    def never(self) -> tuple[Region, list[Limit]] | None:
        """The neuron with the most sources, and the limits that its input axons break by themselves, None if none.

        No list is made: what its synapse words break is left to the search.
        """
        n = int(np.argmax(self.fan_in))
        resets = 1 if self.neuron_size > 1 else 0
        found = broken(self.limits(Usage(input_axons=int(self.fan_in[n]) + resets)))
        return (Region.flat(self.size, n, n + 1), found) if found else None

    def _without(self, never: list[Limit]) -> tuple[list[Slice], Reason, list[Limit]]:
        """The cut under all limits but these, which no slicing keeps."""
        ignored = {limit.rule for limit in never}
        rest = replace(self, limits=lambda usage: [x for x in self.limits(usage) if x.rule not in ignored])
        slices, reason, more = rest.cut()
        return slices, reason, worst([*never, *more])

    def _broken_alone(self) -> list[Limit]:
        """Limits that the neuron with the most synapses, or the one with the most output axons, breaks by itself."""
        heaviest = {int(np.argmax(self.fan_in)), int(np.argmax(self.entries))}
        return worst([limit for n in sorted(heaviest) for limit in broken(self.limits(self.slice(n, n + 1).usage))])

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
            compartments=-(-self.size // k) * self.neuron_size,
            axon_maps=-(-self.size // k),
            output_axons=-(-int(self.entries.sum()) // k),
            synapse_words=payload // 64 // k,
        )
        return broken(self.limits(least))

    def _try(self, k: int) -> list[Slice] | float:
        """k slices that keep all limits, cut evenly by neurons or else evenly by load; or the overload met first."""
        overload = np.inf
        for edges in self._edges(k):
            slices: dict[int, Slice] = {}
            for at, s in self._fullest_first(edges):
                slices[at] = s
                failed = broken(self.limits(s.usage))
                if failed:
                    overload = min(overload, failed[0].share)
                    break
            else:
                return [slices[at] for at in range(k)]
        return overload

    def _broken_by(self, k: int) -> list[Limit]:
        """The limits that k slices break: the bound from the totals, or else those of the better of the two cuts.

        Of many slices the fullest are looked at, and as many more as it takes to find one that breaks a limit.
        """
        outline = self._outline_broken(k)
        if outline or k < 1:
            return outline
        cuts = []
        for edges in self._edges(k):
            found: list[Limit] = []
            for number, (_, s) in enumerate(self._fullest_first(edges)):
                if number >= ENOUGH and found:
                    break
                found += broken(self.limits(s.usage))
            cuts.append(worst(found))
        return min(cuts, key=lambda broken: broken[0].share)

    def _fullest_first(self, edges: NDArray[np.int64]) -> Iterator[tuple[int, Slice]]:
        """The slices of a cut with their numbers, the one with the most load first: most failures show in it."""
        load = np.add.reduceat(self.fan_in + self.entries, edges[:-1])
        order = np.argsort(-load, kind="stable").tolist()
        self.by_target  # noqa: B018  (made once, before threads ask for it)
        batch = 1
        while order:
            now, order = order[:batch], order[batch:]
            work = len(now) * int(self.fan_in.sum()) // (len(edges) - 1)
            yield from zip(now, in_order(lambda at: self.slice(edges[at], edges[at + 1]), now, work), strict=True)
            batch = min(4 * batch, BATCH)

    def _edges(self, k: int) -> list[NDArray[np.int64]]:
        found = [np.linspace(0, self.size, k + 1).round().astype(np.int64)]
        for load in self._loads:
            total = np.cumsum(load)
            if k == 1 or not total[-1]:
                continue
            inner = np.searchsorted(total, total[-1] * np.arange(1, k) / k) + 1
            levelled = np.concatenate([[0], inner, [self.size]])
            if bool(np.all(np.diff(levelled) > 0)) and not any(np.array_equal(levelled, other) for other in found):
                found.append(levelled)
        return found

    @cached_property
    def _loads(self) -> list[NDArray[np.float64]]:
        """What cuts are to even out: axons and synapses; and, where axons go to other chips, the limit that binds."""
        loads = [(self.entries + self.fan_in).astype(np.float64)]
        if self.outgoing.crossing.any():
            out, apart = (
                max(limit.share for limit in self.limits(usage))
                for usage in (Usage(output_axons=1), Usage(crossing_axons=1))
            )
            loads.append(np.maximum(self.entries * out, self.outgoing.crossing * apart))
        return loads

    def slice(self, start: int, stop: int) -> Slice:
        """Neurons [start, stop) with their costs; connections share the core's format registers where they must."""
        start, stop = int(start), int(stop)
        region = Region.flat(self.size, start, stop)
        bare = Usage(
            compartments=(stop - start) * self.neuron_size,
            groups=1,
            output_axons=int(self.entries[start:stop].sum()),
            crossing_axons=int(self.outgoing.crossing[start:stop].sum()),
            delay_bits=max((lists.delay_bits for lists in self.entering.values()), default=0),
            axon_maps=stop - start,
        )
        bare = bare + Usage.of_registers(self.neurons, region)
        if self.neuron_size > 1:
            bare = bare + reset_usage(stop - start, self.costing)
        parts = {name: self.by_target[name].window(start, stop) for name in self.entering}
        costs, usage = cost_parts(parts, bare, self.costing)
        return Slice(self.name, region, usage, costs, bare)
