"""How the spikes of one connection reach their targets: the ways there are, what each costs, and which is taken.

All ways give the same integers. All but one add integers; what their sums hold on the way may wrap around, and the
last sum is right because it is proved to fit (`Sums`). `dense` multiplies floating-point matrices, and only where the
magnitudes of all that a target can receive add up to less than 2**24 (float32) or 2**53 (float64): then
every partial sum, in whatever order the library takes them, is an integer that the type holds exactly, and no rounding
can occur.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.backends.fast.pieces import Pieces
from toolchain.ir import Convolution
from toolchain.ir.pattern import Pattern
from toolchain.ir.program import IntegerConnection
from toolchain.parallel import in_order

LANES = 1024
"""Lanes that `gather` delivers at a time: a row of sums then stays in the fastest cache."""
KERNEL_BYTES = 1 << 28
"""Largest kernel that is written out with its zeros, for the ways `rows` and `dense`."""

# Nanoseconds on one core of an Intel Xeon of 2023, from `python -m tests.benchmarks.simulate_speed ways`
# (docs/decisions/0009-fast-simulator.md). Only the choice of a way depends on them, never what is computed.
GATHER_NS = {2: 0.03, 4: 0.07, 8: 0.14}
"""A synapse and lane, by bytes of a sum."""
EVENT_NS, SCAN_NS = 1.2, 0.5
"""A synapse that a spike reaches; a source and lane that is looked at."""
ROW_NS, ROW_START_NS, TURN_NS = {2: 0.04, 4: 0.08, 8: 0.16}, 5.0, 0.6
"""An output channel of a spike's tap; a tap's start; a target and lane of sums that are turned."""
DENSE_NS, CONVERT_NS = {4: 0.011, 8: 0.022}, 0.6
"""A source, target and lane, by bytes of the float; a source or target and lane that is converted."""
TABLE_NS, TABLE_ROW_NS, TABLE_PLACE_NS, TABLE_TURN_NS = {2: 0.03, 4: 0.06, 8: 0.12}, 3.0, 15.0, 0.3
"""An output channel of a piece's row; a row, which comes from the second cache; a target place and lane; a target and
lane of sums that are turned."""
MAKING_NS = {"gather": 25.0, "rows": 6.0, "dense": 4.0, "tables": 2.0}
"""What a way needs, a synapse, an entry of the kernel with its zeros, or an entry of the tables."""


@dataclass(frozen=True)
class Sums:
    """Sums of a population as they are kept: integers between `low` and `high`, in units of 2**unit."""

    low: int
    high: int
    unit: int

    @property
    def kind(self) -> type[np.signedinteger]:
        """The smallest type that holds them all."""
        kinds: tuple[type[np.signedinteger], ...] = (np.int16, np.int32, np.int64)
        return next(k for k in kinds if np.iinfo(k).min <= self.low and self.high <= np.iinfo(k).max)

    @property
    def largest(self) -> int:
        """The greatest magnitude, in units of 1."""
        return max(-self.low, self.high) << self.unit

    def __add__(self, other: Sums) -> Sums:
        """Both together."""
        unit = min(self.unit, other.unit)
        low, high = ((one << self.unit) + (two << other.unit) for one, two in zip(self._ends, other._ends, strict=True))
        return Sums(low >> unit, high >> unit, unit)

    @property
    def _ends(self) -> tuple[int, int]:
        return self.low, self.high


class Delivery:
    """A connection made ready to add to sums of a given kind. What a way needs is made when it is first taken.

    sent: what the source sent, uint8, shape (sources + 1, lanes), the last row 0.
    magnitude: the most that the magnitudes of mantissas times payloads add up to in one target.
    """

    def __init__(self, connection: IntegerConnection, sums: Sums, payload_max: int, magnitude: int) -> None:
        self.source, self.delay, self.synapses = connection.source, connection.delay, connection.synapses
        self.sums, self.binary, self.magnitude = sums, payload_max == 1, magnitude
        pattern = self.synapses.connectivity
        self.n_sources, self.n_targets, self.n_synapses = pattern.n_sources, pattern.n_targets, pattern.n_synapses
        self.lists = pattern.stored
        self.listed = not isinstance(pattern, Convolution)
        self.geometry = np.array(_geometry(pattern), np.int64)
        columns = int(self.geometry[7])
        item = np.dtype(sums.kind).itemsize
        self.pieces = Pieces.of(int(self.geometry[0]) * columns, int(self.geometry[6]), self.lists.n_targets, item)
        self.real: type[np.floating] = np.float32 if self.magnitude < 1 << 24 else np.float64
        self._made: dict[str, Any] = {}
        self._missed = 0.0
        self._lock = RLock()

    def add(
        self,
        sums: NDArray[Any],
        to: int,
        sent: NDArray[np.uint8],
        begin: int,
        end: int,
        spikes: int,
        *,
        fresh: bool = False,
        parts: int,
    ) -> None:
        """Add to the lanes from `to` on what was sent in the lanes `begin` to `end`.

        sums: (targets, lanes).  spikes: how many of those lanes are not 0, about.  fresh: the sums of these lanes have
        not been set, and start from 0.  parts: threads that may help.
        """
        way = self.choose(end - begin, spikes) if spikes and self.n_synapses else None
        if fresh and way not in SET_FRESH:
            sums[:, to : to + end - begin] = 0
        if way is not None:
            WAYS[way](self, sums, fresh, to, sent, begin, end, parts)

    def choose(self, lanes: int, spikes: int) -> str:
        """The cheapest way of those that are ready; another one once it would have saved what its making takes."""
        costs = self.costs(lanes, spikes)
        best = min(costs, key=costs.__getitem__)
        ready = min((way for way in costs if way == "events" or way in self._made), key=costs.__getitem__)
        if best != ready:
            self._missed += costs[ready] - costs[best]
            entries = {"gather": self.n_synapses, "tables": self.pieces.entries}
            size = entries.get(best, self.lists.capacity)
            if self._missed < MAKING_NS[best] * size:
                return ready
            self._missed = 0.0
        return best

    def costs(self, lanes: int, spikes: int) -> dict[str, float]:
        """Nanoseconds that each way takes, about."""
        item, outputs, taps = np.dtype(self.sums.kind).itemsize, self.lists.n_targets, self.lists.n_sources
        looked_at, turned = SCAN_NS * self.n_sources * lanes, TURN_NS * self.n_targets * lanes
        found = {
            "gather": GATHER_NS[item] * self.n_synapses * lanes,
            "events": looked_at + EVENT_NS * spikes * self.n_synapses / self.n_sources,
        }
        if taps * outputs * item > KERNEL_BYTES:
            return found
        if self.binary:
            places = self.n_targets / outputs
            starts = spikes * places * taps / self.n_sources  # about: as if no place of the kernel were outside
            found["rows"] = looked_at + starts * (ROW_START_NS + ROW_NS[item] * outputs) + turned
        if self.binary and self.geometry[13] == 1:
            row = TABLE_ROW_NS + TABLE_NS[item] * self.pieces.row_items
            one_place = TABLE_PLACE_NS + self.pieces.many * row + TABLE_TURN_NS * outputs
            found["tables"] = one_place * self.n_targets / outputs * lanes
        if self.listed and self.magnitude < 1 << 53:
            converted = CONVERT_NS * (taps + outputs) * lanes
            found["dense"] = DENSE_NS[np.dtype(self.real).itemsize] * taps * outputs * lanes + converted
        return found

    def made(self, way: str, make: Callable[[], Any]) -> Any:
        """What a way needs, made once, whichever thread comes first."""
        with self._lock:
            if way not in self._made:
                self._made[way] = make()
            return self._made[way]

    @property
    def weights(self) -> NDArray[np.signedinteger]:
        """The weights in the unit and type of the sums, in the order of the lists."""
        shift = self.synapses.exponent - self.sums.unit
        return self.synapses.mantissa.astype(self.sums.kind) << self.sums.kind(shift)

    def by_output(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.signedinteger]]:
        """The kernel's entries by output channel, as `kernels.gather` takes them: where each begins, taps, weights."""
        shape = (self.lists.n_sources, self.lists.n_targets)
        by_tap = sparse.csr_array((self.weights, self.lists.targets, self.lists.indptr), shape=shape)
        turned = by_tap.tocsc()
        many = np.diff(turned.indptr).astype(np.int64)
        ptr = np.concatenate([[0], np.cumsum(-(-many // 4) * 4)])
        places = np.arange(turned.nnz) + np.repeat(ptr[:-1] - turned.indptr[:-1], many)
        taps, weights = np.full(ptr[-1], shape[0], np.int32), np.zeros(ptr[-1], self.sums.kind)
        taps[places], weights[places] = turned.indices, turned.data
        return ptr, taps, weights

    def written_out(self) -> NDArray[Any]:
        """The kernel with its zeros, as `kernels.rows` takes it."""
        columns = int(self.geometry[7])
        by_column = self.lists.dense(self.weights).T.reshape(-1, columns, self.lists.n_targets)
        return np.ascontiguousarray(by_column[:, ::-1]).reshape(-1, columns * self.lists.n_targets)

    def tables(self) -> Any:
        """Sums of all patterns of the kernel's pieces, as `tables.tables` takes them."""
        from toolchain.backends.fast.tables import Tables

        channels, rows, columns = (int(self.geometry[k]) for k in (0, 6, 7))
        by_tap = self.lists.dense(self.weights).T.reshape(channels, rows, columns, self.lists.n_targets)
        return Tables.of(by_tap.transpose(1, 2, 0, 3).reshape(rows, columns * channels, -1), self.pieces)

    def matrix(self) -> NDArray[Any]:
        """The mantissas as floats, shape (targets, sources)."""
        return self.lists.dense(self.synapses.mantissa.astype(self.real))


def _gather(d: Delivery, sums: NDArray, fresh: bool, to: int, sent: NDArray, begin: int, end: int, parts: int) -> None:
    from toolchain.backends.fast import kernels

    lists = d.made("gather", d.by_output)
    for lane in range(begin, end, LANES):
        stop, at = min(lane + LANES, end), to + lane - begin

        def part(first: int, last: int, lane: int = lane, stop: int = stop, at: int = at) -> None:
            kernels.gather(sums, fresh, at, sent, lane, stop, d.geometry, *lists, first, last)

        spread(part, d.n_targets, parts, d.n_synapses * (stop - lane) >> 5)


def _events(d: Delivery, sums: NDArray, fresh: bool, to: int, sent: NDArray, begin: int, end: int, parts: int) -> None:
    from toolchain.backends.fast import kernels

    weights = d.made("events", lambda: d.weights)

    def part(first: int, last: int) -> None:
        lanes = (begin + first, begin + last)
        kernels.events(sums, to + first, sent, *lanes, d.geometry, d.lists.indptr, d.lists.targets, weights)

    spread(part, end - begin, parts, d.n_sources * (end - begin))


def _rows(d: Delivery, sums: NDArray, fresh: bool, to: int, sent: NDArray, begin: int, end: int, parts: int) -> None:
    from toolchain.backends.fast import kernels

    kernel = d.made("rows", d.written_out)

    def part(first: int, last: int) -> None:
        kernels.rows(sums, to + first, sent, begin + first, begin + last, d.geometry, kernel)

    spread(part, end - begin, parts, d.n_sources * (end - begin))


def _tables(d: Delivery, sums: NDArray, fresh: bool, to: int, sent: NDArray, begin: int, end: int, parts: int) -> None:
    from toolchain.backends.fast import tables

    made = d.made("tables", d.tables)

    def part(first: int, last: int) -> None:
        lanes = (begin + first, begin + last)
        tables.tables(sums, fresh, to + first, sent, *lanes, d.geometry, made.first, made.width, made.rows)

    spread(part, end - begin, parts, d.n_sources * (end - begin))


def _dense(d: Delivery, sums: NDArray, fresh: bool, to: int, sent: NDArray, begin: int, end: int, parts: int) -> None:
    # No partial sum is larger than this, so none is rounded.
    assert d.magnitude < 1 << (24 if d.real is np.float32 else 53)
    matrix = d.made("dense", d.matrix)
    product = matrix @ sent[: d.n_sources, begin:end].astype(d.real)
    shift = d.sums.kind(d.synapses.exponent - d.sums.unit)
    sums[:, to : to + end - begin] += product.astype(d.sums.kind) << shift


WAYS: dict[str, Callable[..., None]] = {
    "gather": _gather,
    "events": _events,
    "rows": _rows,
    "tables": _tables,
    "dense": _dense,
}
SET_FRESH = ("gather", "tables")
"""The ways that set fresh sums themselves."""


def spread(function: Callable[[int, int], Any], count: int, parts: int, work: int) -> list[Any]:
    """The function of equal ranges that make up `count` items, on as many threads where there is much work."""
    if parts == 1:
        return [function(0, count)]
    ranges = min(parts, max(count, 1))
    cuts = [count * k // ranges for k in range(ranges + 1)]
    return in_order(lambda ends: function(*ends), pairwise(cuts), work)


def _geometry(pattern: Pattern) -> tuple[int, ...]:
    """As `kernels` takes it: lists of synapses are a kernel over a map of one place."""
    if not isinstance(pattern, Convolution):
        return (pattern.n_sources, 1, 1, pattern.n_targets, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1)
    (top, _), (left, _) = pattern.padding
    return (*pattern.source, *pattern.target, *pattern.size, *pattern.stride, top, left, *pattern.dilation)
