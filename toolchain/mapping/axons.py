"""Output axons: what the neurons of a population need to reach all slices that listen to them."""

from __future__ import annotations

from dataclasses import dataclass

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

    def axons(self, region: Region) -> int:
        """Output axons of a region, each counted once."""
        return int(self.table([[r] for r in region.ranges], shared=1).sum())

    def table(self, ranges: list[list[Range]], entry: int = 1, shared: int = SHARED_ENTRIES) -> NDArray[np.int64]:
        """Entries of every box of a grid, in the order of the ranges of each axis, which cover it without a gap."""
        inner = tuple(slice(axis[0][0], axis[-1][1]) for axis in ranges)
        edges = [[a - axis[0][0] for a, _ in axis] for axis in ranges]
        owner = self.owner.reshape(self.shape)[inner]
        own = np.where(owner == 0, self.targets.reshape(self.shape)[inner] * entry, 0)
        if owner.any():
            here = np.repeat(np.arange(len(edges[1])), np.diff([*edges[1], owner.shape[1]]))
            own = own + np.where(first_in_column(owner > 0, owner * len(here) + here[:, None]), shared, 0)
        return _summed(own + self.crossing.reshape(self.shape)[inner], edges, self.by_position)

    def crossing_table(self, ranges: list[list[Range]]) -> NDArray[np.int64]:
        """Axons to other chips of every box of a grid, as `table` has them."""
        inner = tuple(slice(axis[0][0], axis[-1][1]) for axis in ranges)
        return _summed(self.crossing.reshape(self.shape)[inner], [[a - axis[0][0] for a, _ in axis] for axis in ranges])


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
