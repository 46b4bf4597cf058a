"""Output axons: what the neurons of a population need to reach all slices that listen to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from toolchain.mapping.region import Range, Region
from toolchain.mapping.synapse_memory import Axons

SHARED_ENTRIES = 2
"""Entries of an axon that several neurons share: which list, and which of its members (source: NxTF)."""


@dataclass(frozen=True, eq=False)
class OutputAxons:
    """The slices that each neuron of a population sends to.

    shape: axes of the population.  targets: int64, shape (size,), slices that each neuron sends to.  owner: int32, the
    number of the slice that a neuron reaches by a shared axon, 0 where it has axons of its own.  by_position: all
    channels at one position of a map have their axons together.
    crossing: int64, shape (size,), axons of each neuron that are taken to go to other chips, one entry more each.
    """

    shape: tuple[int, ...]
    targets: NDArray[np.int64]
    owner: NDArray[np.int32]
    crossing: NDArray[np.int64]
    by_position: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], by_position: bool = False) -> OutputAxons:
        """Of neurons that send nowhere yet."""
        size = int(np.prod(shape))
        return cls(shape, np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, np.int64), by_position)

    @property
    def least(self) -> int:
        """Entries of the whole population in any grid, at least: shared axons are left out."""
        own = self.targets[self.owner == 0].sum() if not self.by_position else 0
        return int(own + self.crossing.sum())

    def add(self, axons: Axons, number: int) -> None:
        """One more slice that listens; number: any but 0, different for every slice."""
        box, sending, alone = axons.sources()
        flat = sending.ndim != len(self.shape)  # listed synapses out of a map
        targets, owner = (x if flat else x.reshape(self.shape) for x in (self.targets, self.owner))
        targets[box] += sending
        if alone is not None:
            owner[box][alone] = number

    def entries(self, region: Region) -> int:
        """Output axon entries of a region: one for each neuron and slice, or two for a column with a shared axon."""
        return int(self.table([[r] for r in region.ranges]).sum())

    def table(self, ranges: list[list[Range]]) -> NDArray[np.int64]:
        """Entries of every box of a grid, in the order of the ranges of each axis, which cover it without a gap."""
        inner = tuple(slice(axis[0][0], axis[-1][1]) for axis in ranges)
        edges = [[a - axis[0][0] for a, _ in axis] for axis in ranges]
        owner = self.owner.reshape(self.shape)[inner]
        own = np.where(owner == 0, self.targets.reshape(self.shape)[inner], 0)
        if owner.any():
            here = np.repeat(np.arange(len(edges[1])), np.diff([*edges[1], owner.shape[1]]))
            own = own + np.where(first_in_column(owner > 0, owner * len(here) + here[:, None]), SHARED_ENTRIES, 0)
        return _summed(own + self.crossing.reshape(self.shape)[inner], edges, self.by_position)

    def crossing_table(self, ranges: list[list[Range]]) -> NDArray[np.int64]:
        """Axons to other chips of every box of a grid, as `table` has them."""
        inner = tuple(slice(axis[0][0], axis[-1][1]) for axis in ranges)
        return _summed(self.crossing.reshape(self.shape)[inner], [[a - axis[0][0] for a, _ in axis] for axis in ranges])


@dataclass(frozen=True, eq=False)
class EntryTables:
    """`OutputAxons.table` and `crossing_table` for many grids over the whole population, which is final by now.

    upto: int64, (channels, height + 1, width), entries of each column above a row, shared axons counted where their
    owner is the first of its column.  following: int32, (channels, height, width), the first row from here on with a
    shared axon, height if none.  begun: bool, whether that axon was counted further up.  crossing: as `upto`.
    """

    axons: OutputAxons
    upto: NDArray[np.int64]
    following: NDArray[np.int32] | None
    begun: NDArray[np.bool_] | None
    crossing: NDArray[np.int64] | None
    by_rows: dict[tuple[Range, ...], NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(cls, axons: OutputAxons) -> EntryTables:
        owner, targets = axons.owner.reshape(axons.shape), axons.targets.reshape(axons.shape)
        crossing = axons.crossing.reshape(axons.shape)
        own: NDArray[np.int64] = np.add(targets, crossing)
        following, begun = None, None
        marks = owner > 0
        if marks.any():
            fresh = first_in_column(marks, owner)
            own = np.where(marks, crossing + SHARED_ENTRIES * fresh, own)
            height = axons.shape[1]
            rows = np.where(marks, np.arange(height, dtype=np.int32)[None, :, None], np.int32(height))
            following = np.ascontiguousarray(np.minimum.accumulate(rows[:, ::-1], axis=1)[:, ::-1])
            at = np.minimum(following, height - 1)
            begun = (following < height) & ~np.take_along_axis(fresh, at, axis=1)
        return cls(axons, _upto(own), following, begun, _upto(crossing) if crossing.any() else None)

    def table(self, ranges: Sequence[Sequence[Range]]) -> NDArray[np.int64]:
        """Entries of every box of a grid that covers the population."""
        if self.axons.by_position:
            return self.axons.table([list(axis) for axis in ranges])
        rows = tuple(ranges[1])
        if rows not in self.by_rows:
            first, last = np.array(rows).T
            found = self.upto[:, last] - self.upto[:, first]
            if self.following is not None and self.begun is not None:
                again = self.begun[:, first] & (self.following[:, first] < last[:, None])
                found += SHARED_ENTRIES * again
            self.by_rows[rows] = found
        return _outer(self.by_rows[rows], ranges)

    def crossing_table(self, ranges: Sequence[Sequence[Range]]) -> NDArray[np.int64]:
        """Axons to other chips of every box of a grid that covers the population."""
        if self.crossing is None:
            return np.zeros([len(axis) for axis in ranges], np.int64)
        first, last = np.array(ranges[1]).T
        return _outer(self.crossing[:, last] - self.crossing[:, first], ranges)


def _upto(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums down the columns, from nothing to everything."""
    out = np.zeros((values.shape[0], values.shape[1] + 1, values.shape[2]), np.int64)
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _outer(by_rows: NDArray[np.int64], ranges: Sequence[Sequence[Range]]) -> NDArray[np.int64]:
    """Sums over channels and columns, where those over rows are taken."""
    across = np.add.reduceat(by_rows, [a for a, _ in ranges[2]], axis=2)
    return np.add.reduceat(across, [a for a, _ in ranges[0]], axis=0)


def first_in_column(marks: NDArray[np.bool_], group: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which marked neurons of a map are the first of their group in their column: all (channels, rows, columns).

    The marked neurons of a group in a column have none of another group between them.
    """
    last = np.maximum.accumulate(np.where(marks, np.arange(marks.shape[1])[None, :, None], -1), axis=1)
    before = np.full_like(last, -1)
    before[:, 1:] = last[:, :-1]
    same = np.take_along_axis(group, np.maximum(before, 0), axis=1) == group
    return marks & ~((before >= 0) & same)


def _summed(values: NDArray[np.int64], edges: list[list[int]], by_position: bool = False) -> NDArray[np.int64]:
    """Sums over the boxes of a grid. edges: where they begin on each axis.  by_position: channels do not add up."""
    for axis, starts in enumerate(edges):
        together = np.maximum if by_position and axis == 0 else np.add
        values = together.reduceat(values, starts, axis=axis)
    return values
