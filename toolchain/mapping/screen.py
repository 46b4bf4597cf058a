"""What slices take at least, for all grids of a map at once: most grids are ruled out before any slice is looked at.

The slice in the middle of a grid stands for all: it is as large as any. What it takes is nearly a product over the
axes (source rows in reach times source columns, kernel entries times rows times columns), so it is found for each
range of each axis, once for every way to divide the axis, and multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.mapping.convolution import ConvolvedSynapses, Layout
from toolchain.mapping.region import Range
from toolchain.mapping.slices import Limits, broken
from toolchain.mapping.usage import Usage

Division = tuple[Range, ...]
"""All ranges of one axis."""

COPYING = ("nxtf", "nengo")
"""Cost models under which a convolution's lists are copied for every row and kind of column."""


def middle(division: Division) -> Range:
    """A range in the middle of an axis, no shorter than any."""
    return division[(len(division) - 1) // 2]


def most(limits: Limits, field: str, top: int) -> int:
    """The largest amount below `top` that the limits allow, all others being 0; 1 where they do not even allow 1."""
    low, high = 1, top
    while high - low > 1:
        half = (low + high) // 2
        low, high = (low, half) if broken(limits(Usage(**{field: half}))) else (half, high)  # type: ignore[arg-type]
    return low


@dataclass(frozen=True, eq=False)
class Screen:
    """Amounts of the middle slice, at least: each an int64 table by the division of channels, of rows, of columns."""

    least: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(
        cls,
        divisions: Sequence[Sequence[Division]],
        convolutions: Sequence[ConvolvedSynapses],
        layout: Callable[[tuple[Range, Range, Range]], Layout],
        entries: int,
        crossing: int,
        model: str,
    ) -> Screen:
        """entries, crossing: output axons of the whole map and those that go to other chips, at least."""
        channels, rows, columns = divisions
        counts = [np.array([len(division) for division in axis], np.int64) for axis in divisions]
        slices = counts[0][:, None, None] * counts[1][:, None] * counts[2]
        extents = [np.array([b - a for a, b in map(middle, axis)], np.int64) for axis in divisions]
        first = middle(channels[0]), middle(rows[0])
        layouts = [layout((*first, middle(division))) for division in columns]
        size = layouts[0].neuron_size
        room = np.array([max(x.widths) * len(x.widths) * size for x in layouts], np.int64)
        neurons = extents[0][:, None, None] * extents[1][:, None] * extents[2]
        resets = neurons * (size > 1)
        least = {
            "compartments": extents[0][:, None, None] * extents[1][:, None] * room,
            "output_axons": -(-entries // slices) + resets,
            "crossing_axons": -(-crossing // slices),
            "input_axons": resets,
            "synapse_words": np.zeros_like(slices),
        }
        if convolutions:
            groups = np.array([x.groups for x in layouts], np.int64)
            least["destination_groups"] = np.broadcast_to(groups, slices.shape)
        for x in convolutions:
            least["input_axons"] = least["input_axons"] + _input_axons(x, channels, rows, columns)
            if model in COPYING:
                least["synapse_words"] = least["synapse_words"] + _words(x, channels, rows, columns, layouts)
        return cls(least)

    def usage(self, place: tuple[int, int, int]) -> Usage:
        """What is known of the grid of these divisions."""
        return Usage(**{field: int(table[place]) for field, table in self.least.items()})  # type: ignore[arg-type]

    def possible(self, limits: Limits) -> NDArray[np.bool_]:
        """Which grids may keep all limits."""
        able = np.ones(self.least["compartments"].shape, bool)
        for field, table in self.least.items():
            top = int(table.max()) + 1
            able &= table <= most(limits, field, max(top, 2))
        return able


def _input_axons(
    x: ConvolvedSynapses, channels: Sequence[Division], rows: Sequence[Division], columns: Sequence[Division]
) -> NDArray[np.int64]:
    """Those of the source channels whose every source in reach has a synapse."""
    if x.single:
        return np.ones((1, 1, 1), np.int64)
    every = [x.exclusive((c, rows[0], columns[0]), _none).channels for c in channels]
    by_row = [x.exclusive((channels[0], r, columns[0]), _none).rows for r in rows]
    by_column = [x.exclusive((channels[0], rows[0], w), _none).columns for w in columns]
    whole = [x.whole_channels(middle(c)) for c in channels]
    n = np.array([w.sum() for w in whole], np.int64)[:, None, None]
    alone = np.array([(w & e).sum() * x.may_share for w, e in zip(whole, every, strict=True)], np.int64)[:, None, None]
    reached = [[x.reaching(axis, middle(d)) for d in division] for axis, division in enumerate((rows, columns))]
    n_rows, n_columns = (np.array([len(s) for s in axis], np.int64) for axis in reached)
    rows_alone, columns_alone = (
        np.array([mark[s].sum() for mark, s in zip(marks, axis, strict=True)], np.int64)
        for marks, axis in zip((by_row, by_column), reached, strict=True)
    )
    saved = rows_alone - (rows_alone > 0)
    return n * n_rows[:, None] * n_columns - alone * saved[:, None] * columns_alone


def _none(_: object) -> Layout:
    raise AssertionError("no layout is needed")


def _words(
    x: ConvolvedSynapses,
    channels: Sequence[Division],
    rows: Sequence[Division],
    columns: Sequence[Division],
    layouts: Sequence[Layout],
) -> NDArray[np.int64]:
    """The bare weights of all copies, or a word for each list of the channels that have all of theirs."""
    row_reach = [x.reach(0, middle(r), None) for r in rows]
    column_reach = [x.reach(1, middle(w), layout) for w, layout in zip(columns, layouts, strict=True)]
    times = np.array([sum(r.times()) for r in row_reach], np.int64)
    row_of = np.array([np.array(r.times(), np.int64) @ r.incidence(x.pattern.size[0]) for r in row_reach])
    column_of = np.array([w.incidence(x.pattern.size[1]).sum(axis=0) for w in column_reach], np.int64)
    entries = np.array([x.entries_at(middle(c)) for c in channels])
    weight = x.synapses.weight_bits + x.delay_bits
    bare = np.einsum("cij,ri,wj->crw", entries, row_of, column_of, optimize=True) * weight // 64
    whole = np.array([x.whole_channels(middle(c)).sum() for c in channels], np.int64)[:, None, None]
    kinds = np.array([len(w.kernel) for w in column_reach], np.int64)
    return np.maximum(bare, whole * times[:, None] * kinds)
