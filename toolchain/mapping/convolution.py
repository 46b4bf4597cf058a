"""What the synapses of a convolution cost on one core: lists that are stored once and used at many places.

The rule is that of the compiler which Intel published (NxTF). The sources in one column of one channel of the source
map are a *source group*; their lists stand one after another, each as long as the longest. Source groups whose lists
are the same kernel entries, at target indices that differ by one constant, are stored once: an axon adds the constant
(its *base*). A base is at most 15, so the columns of the slice are numbered in *destination groups*: the n-th
compartment of group g has index g + groups * n, and shifting by a whole group shifts the index by one. What a list
stores is n; which group, counted from the base, stands in the format register (index offset and multiplier).

Nothing is unrolled: along an axis only few patterns of kernel rows (columns) differ, at the borders of the map and of
the slice, and one list is written for each combination of a row pattern, a column pattern and a source channel (equal
channels once).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir import IntegerSynapses
from toolchain.ir.convolution import Convolution
from toolchain.mapping.cost_models import nengo_words, stored_weight_bits
from toolchain.mapping.encoders import entries, index_bits, skip_bits
from toolchain.mapping.encoders_registers import list_words
from toolchain.mapping.region import Range, Region
from toolchain.mapping.synapse_memory import (
    REGISTER_KIND,
    Format,
    FormatChoice,
    Parameters,
    Senders,
    SliceCost,
    SynapseLists,
    cumulated,
)

T = TypeVar("T")

SIGNS_OF = {"one_list": (("mixed", 0),), "shared_sign": (("excitatory", 1), ("inhibitory", -1))}
"""Sign lists -> the modes of their lists, and the sign of the weights in each (0: any)."""


@dataclass(frozen=True)
class Layout:
    """Where the neurons of a slice of a map stand among the compartments of its core.

    widths: columns of each destination group.  neuron_size: compartments of one neuron. Within a group compartments
    go down its columns, then to the next channel; all groups have room for the widest. Source: NxTF.
    """

    channels: int
    height: int
    widths: tuple[int, ...]
    neuron_size: int = 1

    @property
    def groups(self) -> int:
        """Bases that axons need; the chip has 16 for every compartment of a neuron."""
        return len(self.widths) * self.neuron_size

    @property
    def room(self) -> int:
        """Compartments that one channel takes in one group."""
        return max(self.widths) * self.height

    @property
    def compartments(self) -> int:
        """The range of compartment indices, holes included."""
        size = self.room * len(self.widths) * self.channels * self.neuron_size
        return size + (size % 4 if self.neuron_size > 1 else 0)

    @cached_property
    def columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Group of every column, and its position in that group."""
        group = np.repeat(np.arange(len(self.widths)), self.widths)
        start = cumulated(np.array(self.widths))[:-1]
        return group, np.arange(len(group)) - start[group]

    def indices(self) -> NDArray[np.int64]:
        """Compartment of every neuron, shape (channels, height, width)."""
        group, position = self.columns
        channel = np.arange(self.channels)[:, None, None] * self.room
        inner = channel + position * self.height + np.arange(self.height)[None, :, None]
        return (group + len(self.widths) * inner) * self.neuron_size


@dataclass(frozen=True)
class Reach:
    """Sources along one axis that reach a slice.

    first: the first of them. pattern: for each from there on the number of its pattern, -1 where it reaches nothing.
    kernel, target: for each pattern the kernel rows (columns) and the target rows, counted from the pattern's first.
    low, high: that first target row, the least and the greatest of all sources with the pattern.
    """

    first: int
    pattern: tuple[int, ...]
    kernel: tuple[tuple[int, ...], ...]
    target: tuple[tuple[int, ...], ...]
    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.first + len(self.pattern)

    @cached_property
    def reaching(self) -> NDArray[np.int64]:
        """The sources that reach something."""
        return self.first + np.flatnonzero(np.array(self.pattern, np.int64) >= 0)

    def times(self) -> tuple[int, ...]:
        """Sources with each pattern."""
        counts = np.bincount([p for p in self.pattern if p >= 0], minlength=len(self.kernel))
        return tuple(counts.tolist())

    def incidence(self, size: int) -> NDArray[np.int32]:
        """Which kernel rows (columns), of `size`, each pattern has: 1 or 0."""
        return _incidence(self.kernel, size)

    def counts(self, marked: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sources with each pattern, and those of them that are marked."""
        pattern = np.array(self.pattern, np.int64)
        n, used = len(self.kernel), pattern >= 0
        return np.bincount(pattern[used], minlength=n), np.bincount(pattern[used & marked], minlength=n)


_PLACE_BITS = 20


def reach(convolution: Convolution, axis: int, within: Range, layout: Layout | None = None) -> Reach:
    """Which sources reach target rows (axis 0) or columns (axis 1) `within` a range, and how.

    With a layout, for columns, the pattern is told in its terms: `target` packs the destination group, counted from
    that of the source's first target, and the position in that group, and `low` and `high` are 0.
    """
    reads = convolution.reads(axis)[:, within[0] : within[1]]
    inside = (reads >= 0) & (reads < convolution.source[1 + axis])
    if not inside.any():
        return Reach(0, (), (), (), (), ())
    row, at = np.nonzero(inside)
    source = reads[row, at]
    order = np.lexsort((at, source))
    row, at, source = row[order], at[order], source[order]
    starts = np.flatnonzero(np.diff(source, prepend=-1))
    first = int(source[0])
    pattern = np.full(int(source[-1]) - first + 1, -1)
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    low: list[int] = []
    high: list[int] = []
    for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(source)], strict=True):
        targets = at[a:b]
        if layout is None:
            base = int(targets[0])
            place = targets - base
        else:
            base = 0
            group, position = (values[targets] for values in layout.columns)
            place = ((group - group[0]) << _PLACE_BITS) + position
        number = known.setdefault((tuple(row[a:b].tolist()), tuple(place.tolist())), len(known))
        if number == len(low):
            low.append(base)
            high.append(base)
        low[number], high[number] = min(low[number], base), max(high[number], base)
        pattern[int(source[a]) - first] = number
    kernel, target = zip(*known, strict=True)
    return Reach(first, tuple(pattern.tolist()), kernel, target, tuple(low), tuple(high))


def destination_groups(convolution: Convolution, columns: Range) -> tuple[int, ...]:
    """Columns of each destination group of a slice: from left to right, each begun by the first source column whose
    targets begin where the group before ends.

    Source: NxTF. Columns that no source column begins are a group of their own at the end.
    """
    reads = convolution.reads(1)[:, columns[0] : columns[1]]
    inside = (reads >= 0) & (reads < convolution.source[2])
    _, at = np.nonzero(inside)
    source = reads[inside]
    widths: list[int] = []
    end, width = 0, columns[1] - columns[0]
    for s in np.unique(source).tolist():
        targets = at[source == s]
        if int(targets.min()) == end:
            widths.append(int(targets.max()) + 1 - end)
            end = int(targets.max()) + 1
    if end < width:
        widths.append(width - end)
    return tuple(widths)


@dataclass(frozen=True)
class Exclusive:
    """Which sources send to one slice only: of these a source group needs one axon, and not one for each source.

    rows, columns, channels: bool, of the whole source map, whether what stands there sends to one slice by that axis.
    """

    rows: NDArray[np.bool_]
    columns: NDArray[np.bool_]
    channels: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SharedAxons:
    """How the sources of a convolution point at the stored groups of a slice.

    exists: bool, (channels, row patterns, column patterns), whether such a source has a synapse here. exclusive: which
    sources send to no other slice (None: nobody does). channels: those with a synapse here, ascending.
    single: one input axon serves all sources (Loihi 2).
    """

    shape: tuple[int, int, int]
    rows: Reach
    columns: Reach
    exists: NDArray[np.bool_]
    channels: NDArray[np.int64]
    n_synapses: int
    exclusive: Exclusive | None
    single: bool = False

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """All channels, and the rows and columns from the first to the last source."""
        rows, columns = slice(self.rows.first, self.rows.stop), slice(self.columns.first, self.columns.stop)
        return slice(0, self.shape[0]), rows, columns

    def sending(self) -> NDArray[np.bool_]:
        """Which sources of the box have a synapse here: (channels, rows, columns)."""
        if not self.rows.pattern or not self.columns.pattern:
            return np.zeros((self.shape[0], len(self.rows.pattern), len(self.columns.pattern)), bool)
        if min(self.rows.pattern) >= 0 and min(self.columns.pattern) >= 0:
            return self.exists[:, list(self.rows.pattern)][:, :, list(self.columns.pattern)]
        padded = np.pad(self.exists, ((0, 0), (0, 1), (0, 1)))  # the last of each axis: reaches nothing
        return padded[:, list(self.rows.pattern)][:, :, list(self.columns.pattern)]

    def alone(self) -> NDArray[np.bool_]:
        """Which sources of the box have synapses here and nowhere else."""
        sending = self.sending()
        if self.exclusive is None:
            return np.zeros_like(sending)
        _, rows, columns = self.box
        place = self.exclusive.rows[rows, None] & self.exclusive.columns[None, columns]
        return sending & self.exclusive.channels[:, None, None] & place

    @cached_property
    def n_axons(self) -> int:
        if not self.rows.pattern or not self.columns.pattern:
            return 0
        if self.single:
            return int(self.exists.any())
        marks = self.exclusive or Exclusive(*(np.zeros(n, bool) for n in (*self.shape[1:], self.shape[0])))
        rows, rows_alone = self.rows.counts(marks.rows[self.rows.first : self.rows.stop])
        columns, columns_alone = self.columns.counts(marks.columns[self.columns.first : self.columns.stop])
        counted = np.stack([rows, rows_alone]) @ self.exists  # (channels, 2, column patterns)
        sending, together = counted[:, 0], counted[:, 1]
        apart = sending - together + (together > 0)
        return int((sending @ columns).sum() + ((apart - sending) @ columns_alone)[marks.channels].sum())

    @cached_property
    def shared_groups(self) -> int:
        times = np.bincount([p for p in self.columns.pattern if p >= 0], minlength=self.exists.shape[2])
        return int(np.count_nonzero(self.exists.any(axis=1) & (times > 1)))

    def sources(self) -> Senders:
        _, rows, columns = self.box
        marks = self.exclusive
        anybody = marks is not None and marks.channels.any() and marks.rows[rows].any() and marks.columns[columns].any()
        return self.box, self.sending(), self.alone() if anybody else None

    def source(self, stored: int) -> int:
        channel, pattern = divmod(stored, max(len(self.columns.kernel), 1))
        column = self.columns.first + self.columns.pattern.index(pattern)
        members = self.exists[self.channels[channel], :, pattern]
        row = next((k for k, p in enumerate(self.rows.pattern) if p >= 0 and members[p]), 0)
        return (int(self.channels[channel]) * self.shape[1] + self.rows.first + row) * self.shape[2] + column


Need = tuple[int, int, int]
"""What an entry asks of its register: kind (offset and sign mode), index bits, skip bits."""


def merge_formats(needs: Iterable[Need], limit: int | None, weight_bits: int) -> dict[Need, Need]:
    """The register of every need, when there are at most `limit` (None: one each).

    The two nearest of one kind become one with the greater widths, until few enough are left. Near: the squares of the
    differences over the squares of the sums. Source: NxTF.
    """
    left = sorted(set(needs))
    taken = {need: need for need in left}

    def distance(a: Need, b: Need) -> float:
        if a[0] != b[0]:
            return float("inf")
        difference = (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2
        return difference / ((a[1] + b[1]) ** 2 + (a[2] + b[2]) ** 2 + 4 * weight_bits**2)

    while limit is not None and len(left) > limit:
        pairs = [(distance(left[i], left[j]), i, j) for i in range(len(left)) for j in range(i)]
        nearest, i, j = min(pairs, default=(float("inf"), 0, 0))
        if nearest == float("inf"):
            break
        merged = (left[j][0], max(left[i][1], left[j][1]), max(left[i][2], left[j][2]))
        taken = {need: merged if now in (left[i], left[j]) else now for need, now in taken.items()}
        left[j] = merged
        del left[i]
    return taken


@dataclass(frozen=True, eq=False)
class _Block:
    """The kernel entries into some output channels, equal source channels once.

    channels: sources with an entry, equal ones together. times: how many are equal. tables: int8, (kinds, kernel
    height, kernel width, output channels): 0 no entry, else the sign (1 for all where signs do not matter).
    """

    number: int
    channels: NDArray[np.int64]
    times: NDArray[np.int64]
    tables: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class _Lists:
    """The lists of a slice, one for each kind of source channel, column pattern and row pattern, in this order.

    A list is as its last member has it, the one with the greatest indices. Its synapses lie in *parts*, by offset
    (the group, counted from the base) and sign mode; a part is a row of indptr and targets. All arrays int64.
    part_list, part_kind: list of each part, and offset * modes + mode. part_span: by how much the indices of the
    first member are lower. rows: sources of a source group that have the list.
    """

    indptr: NDArray[np.int64]
    targets: NDArray[np.int32]
    part_list: NDArray[np.int64]
    part_kind: NDArray[np.int64]
    part_span: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ConvolvedSynapses:
    """A convolution whose synapses are on the chip. What was computed for one slice serves all that are alike.

    delay_bits: of the stored delay of each synapse.  may_share: whether axons may be shared (see `Exclusive`).
    signed: whether costs depend on the signs of weights (if not, more slices are alike).  single: whether one input
    axon serves all sources.
    """

    synapses: IntegerSynapses
    pattern: Convolution
    delay_bits: int = 0
    may_share: bool = True
    signed: bool = True
    single: bool = False
    known: dict[object, Any] = field(default_factory=dict)

    def _once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def forget(self) -> None:
        """Drop what was computed for slices: of all that a search looked at, little is asked again."""
        self.known.clear()

    @cached_property
    def extremes(self) -> tuple[int, int, bool]:
        """The smallest and the largest mantissa, 0 included, and whether any is 0."""
        mantissa = self.synapses.mantissa
        return int(mantissa.min(initial=0)), int(mantissa.max(initial=0)), not mantissa.all()

    @cached_property
    def signs(self) -> NDArray[np.int8]:
        """Sign of every kernel entry, 0 where there is none: (source channels, height, width, output channels)."""
        c, i, j, o = self.pattern.entries
        table = np.zeros((self.pattern.source[0], *self.pattern.size, self.pattern.target[0]), np.int8)
        table[c, i, j, o] = np.where(self.synapses.mantissa < 0, -1, 1)
        return table

    def block(self, outputs: Range, signed: bool) -> _Block:
        """The kernel entries into a range of output channels."""
        return self._once(("block", outputs, signed), lambda: self._block(outputs, signed))

    def _block(self, outputs: Range, signed: bool) -> _Block:
        table = self.signs[..., outputs[0] : outputs[1]]
        table = np.ascontiguousarray(table if signed else table != 0, np.int8)
        active = np.flatnonzero(table.reshape(len(table), -1).any(axis=1))
        flat = table.reshape(len(table), -1)[active]
        if len(flat) and (flat == flat[0]).all():
            kinds, inverse = flat[:1], np.zeros(len(flat), np.int64)
        else:
            # As bytes: hundreds of times faster than `np.unique` of rows.
            rows = [row.tobytes() for row in flat]
            number = {row: k for k, row in enumerate(sorted(set(rows)))}
            inverse = np.array([number[row] for row in rows], np.int64)
            kinds = np.empty((len(number), flat.shape[1]), np.int8)
            kinds[inverse] = flat
        times = np.bincount(inverse.reshape(-1), minlength=len(kinds)).astype(np.int64)
        digest = hashlib.blake2b(kinds.data, digest_size=16)
        digest.update(times.data)
        same = ("number", digest.digest(), signed, kinds.shape)
        return _Block(
            self._once(same, lambda: len(self.known)),
            active[np.argsort(inverse.reshape(-1), kind="stable")],
            times,
            kinds.reshape(len(kinds), *table.shape[1:]),
        )

    def reach(self, axis: int, within: Range, layout: Layout | None) -> Reach:
        """Which sources reach a range of target rows (0) or columns (1), and how."""
        widths = layout.widths if axis and layout is not None else ()
        return self._once(
            ("reach", axis, within, widths), lambda: reach(self.pattern, axis, within, layout if axis else None)
        )

    def _present(self, outputs: Range) -> NDArray[np.bool_]:
        """Whether a source channel has an entry at a kernel place into some output channels: (channels, kernel)."""
        return self._once(("present", outputs), lambda: (self.signs[..., outputs[0] : outputs[1]] != 0).any(axis=3))

    def _channels(self, outputs: Range) -> NDArray[np.int64]:
        """Source channels with an entry into some output channels, ascending."""
        return self._once(("channels", outputs), lambda: np.flatnonzero(self._present(outputs).any(axis=(1, 2))))

    def entries_at(self, outputs: Range) -> NDArray[np.int64]:
        """Kernel entries at each place into some output channels: (kernel height, kernel width)."""
        return self._once(
            ("entries", outputs), lambda: (self.signs[..., outputs[0] : outputs[1]] != 0).sum(axis=(0, 3))
        )

    def _exists(self, outputs: Range, rows: Reach, columns: Reach) -> NDArray[np.bool_]:
        present = self._present(outputs)
        if self._once(("all present", outputs), lambda: bool(present.all())):
            shape = (len(present), len(rows.kernel), len(columns.kernel))
            return self._once(("everything", shape), lambda: np.ones(shape, bool))

        def made() -> NDArray[np.bool_]:
            row_of, column_of = (
                _incidence(axis.kernel, size) for axis, size in zip((rows, columns), self.pattern.size, strict=True)
            )
            return np.greater(row_of @ present.astype(np.int32) @ column_of.T, 0)

        return self._once(("exists", outputs, rows.kernel, columns.kernel), made)

    def _hits(self, axis: int, within: Range) -> NDArray[np.int64]:
        """How many target rows (0) or columns (1) of a range each kernel row (column) serves."""
        a, b = within
        return self._once(("hits", axis, within), lambda: self.pattern.reach[axis][:, a:b].sum(axis=1))

    def onto(self, region: Region, layout: Layout, exclusive: Exclusive | None = None) -> ConvolutionPart:
        """The part that a slice of the target map gets."""
        outputs, rows, columns = region.ranges
        row_reach, column_reach = self.reach(0, rows, layout), self.reach(1, columns, layout)
        hits = self._hits(0, rows), self._hits(1, columns)
        axons = SharedAxons(
            self.pattern.source,
            row_reach,
            column_reach,
            self._exists(outputs, row_reach, column_reach),
            self._channels(outputs),
            int(hits[0] @ self.entries_at(outputs) @ hits[1]),
            exclusive if self.may_share else None,
            self.single,
        )
        return ConvolutionPart(self, outputs, layout, axons)

    # -- for the search of a cut --------------------------------------------------------------------------------------

    def exclusive(self, grid: tuple[tuple[Range, ...], ...], layout: Callable[[Any], Layout]) -> Exclusive:
        """Which sources send to one slice only, when the target map is cut into this grid."""
        channels, rows, columns = grid

        def alone(axis: int, ranges: tuple[Range, ...]) -> NDArray[np.bool_]:
            n = self.pattern.source[1 + axis]
            reads = self.pattern.reads(axis)[:, ranges[0][0] : ranges[-1][1]]
            inside = (reads >= 0) & (reads < n)
            part = np.repeat(np.arange(len(ranges)), [b - a for a, b in ranges])
            pairs = np.unique((reads * len(ranges) + part)[inside])
            return np.equal(np.bincount(pairs // len(ranges), minlength=n), 1)

        def alone_by_channel() -> NDArray[np.bool_]:
            parts = np.logical_or.reduceat(self.linked, [a for a, _ in channels], axis=1)
            return np.equal(parts.sum(axis=1), 1)

        return Exclusive(
            self._once(("rows", rows), lambda: alone(0, rows)),
            self._once(("columns", columns), lambda: alone(1, columns)),
            self._once(("channels", channels), alone_by_channel),
        )

    def reaching(self, axis: int, within: Range) -> NDArray[np.int64]:
        """The source rows (0) or columns (1) that reach a range of target rows or columns."""
        reads = self.pattern.reads(axis)[:, within[0] : within[1]]
        return np.unique(reads[(reads >= 0) & (reads < self.pattern.source[1 + axis])])

    @cached_property
    def linked(self) -> NDArray[np.bool_]:
        """Whether any kernel entry leads from a source channel to an output channel: (source, output channels)."""
        c, _, _, o = self.pattern.entries
        table = np.zeros((self.pattern.source[0], self.pattern.target[0]), bool)
        table[c, o] = True
        return table

    def whole_channels(self, outputs: Range) -> NDArray[np.bool_]:
        """Source channels of which every source in reach of a slice of these output channels has a synapse there."""
        found: NDArray[np.bool_] = np.all(self._present(outputs), axis=(1, 2))
        return found

    def kind(self, axis: int, within: Range, layout: Layout | None, exclusive: Exclusive) -> tuple[object, ...]:
        """What the cost of a slice depends on along an axis of the target: channels, rows or columns."""
        if axis == 0:
            return self.block(within, self.signed).number, exclusive.channels[self._channels(within)].tobytes()
        found = self.reach(axis - 1, within, layout)
        alone = (exclusive.rows, exclusive.columns)[axis - 1][found.first : found.stop]
        return found.pattern, found.kernel, found.target, found.low, found.high, alone.tobytes()

    @cached_property
    def full(self) -> bool:
        """Whether every kernel entry between every two channels exists."""
        return self.pattern.n_weights == self.signs.size

    def least_words(self, ranges: tuple[Range, ...], layout: Layout, model: str) -> Iterator[int]:
        """Words that a slice takes at least under a rule that copies lists; closer bounds follow, if there are any.

        Its bare weights, and one word a list. Of a full kernel more is known: how the targets of each list lie, and so
        its entries in each encoding.
        """
        if model not in ("nxtf", "nengo"):
            return
        outputs, rows, columns = ranges
        row_reach, column_reach = self.reach(0, rows, layout), self.reach(1, columns, layout)
        times, weight = np.array(row_reach.times(), np.int64), self.synapses.weight_bits + self.delay_bits
        row_of = times @ _incidence(row_reach.kernel, self.pattern.size[0])
        column_of = _incidence(column_reach.kernel, self.pattern.size[1]).sum(axis=0)
        bare = int(row_of @ self.entries_at(outputs) @ column_of) * weight // 64
        if not self.full:
            present = self._exists(outputs, row_reach, column_reach)
            yield max(bare, int(np.einsum("crs,r->", present, times)))
            return
        sources = self.pattern.source[0]
        yield max(bare, sources * int(times.sum()) * len(column_reach.kernel))
        if model == "nxtf":
            yield _least_words(row_reach, column_reach, layout, weight) * sources


def _least_words(rows: Reach, columns: Reach, layout: Layout, weight_bits: int) -> int:
    """Words of one source channel of a full kernel, at least: the cheapest encoding with the narrowest fields."""
    times = np.array(rows.times(), np.int64)
    run = np.array([len(k) for k in rows.kernel], np.int64)  # targets that follow each other, in one column
    total = np.zeros(4, np.int64)
    for packed in columns.target:
        bits = np.zeros((4, len(run)), np.int64)
        for group in {value >> _PLACE_BITS for value in packed}:
            width = sum(value >> _PLACE_BITS == group for value in packed)
            channels, height = layout.channels, layout.height
            n = channels * width * run
            runs = np.where(run == height, channels, channels * width)  # whole columns join
            between = height - run + 1
            beyond = layout.room - ((width - 1) * height + run) + 1
            breaks = np.where(between >= 32, channels * width, np.where(beyond >= 32, channels, 1))
            skip = np.where((between < 32) & (width > 1), between, 1)
            skip = np.maximum(skip, beyond if channels > 1 else 1) if bool((beyond < 32).all()) else skip
            span = np.where(height >= 60, n, channels * ((width - 1) * height + run))
            part = (
                n * weight_bits + np.maximum(runs, -(-n // 60)) * 16,
                span * weight_bits + -(-span // 60) * 16,
                n * (weight_bits + 6) + -(-n // 60) * 10,
                n * (weight_bits + np.clip(np.ceil(np.log2(skip + 1)), 2, 5).astype(np.int64))
                + np.maximum(breaks, -(-n // 60)) * 16,
            )
            bits += np.stack(part)
        words = -(-(bits + 6) // 64)
        total += words.max(axis=1) * int(times.sum()) if len(run) else 0
    return int(total.min(initial=np.iinfo(np.int64).max)) if columns.target else 0


def _incidence(patterns: tuple[tuple[int, ...], ...], size: int) -> NDArray[np.int32]:
    out = np.zeros((len(patterns), size), np.int32)
    for k, members in enumerate(patterns):
        out[k, list(members)] = 1
    return out


@dataclass(frozen=True, eq=False)
class ConvolutionPart:
    """The synapses of a convolution onto one slice."""

    whole: ConvolvedSynapses
    outputs: Range
    layout: Layout
    axons: SharedAxons

    def cost(self, model: str, parameters: Parameters, choice: FormatChoice) -> SliceCost:
        """The cost under a named rule.

        Raises:
            SnncError: no encoding can hold the weights within the registers, or an index does not fit.
        """
        rows, columns = self.axons.rows, self.axons.columns
        key = (
            ("cost", model, choice, self.whole.block(self.outputs, self.whole.signed).number, self.layout),
            (rows.kernel, rows.target, rows.low, rows.high, rows.times()),
            (columns.kernel, columns.target),
        )
        found = self.whole._once(key, lambda: COSTS[model](self, parameters, choice))
        return replace(found, axons=self.axons, synapses=self.axons.n_synapses)

    def written(self, where: str) -> SynapseLists:
        raise SnncError(
            "no image is written of a convolution: its lists are shared, and only their number of words is known",
            where=where,
            remedy="compile without --emit-images",
        )

    def lists(self, block: _Block, modes: Sequence[tuple[str, int]]) -> _Lists:
        """All different lists of the slice. The last ones are kept: every encoding asks for the same."""
        key = (block.number, tuple(modes), self.layout, self.axons.rows, self.axons.columns)
        if self.whole.known.get("lists", (None, None))[0] != key:
            self.whole.known["lists"] = key, self._lists(block, modes)
        return self.whole.known["lists"][1]

    def _lists(self, block: _Block, modes: Sequence[tuple[str, int]]) -> _Lists:
        rows, columns, layout = self.axons.rows, self.axons.columns, self.layout
        n_rows, n_columns, kinds = len(rows.kernel), len(columns.kernel), len(block.tables)
        scale = 1 if len(layout.widths) > 1 else layout.neuron_size
        full = all(sign == 0 for _, sign in modes) and bool(block.tables.all())
        channel = np.arange(block.tables.shape[3])[:, None, None] * layout.room
        counts, targets, part_list, part_kind, part_span = [], [], [], [], []
        have = np.zeros((kinds, n_columns, n_rows), bool)
        for u in range(n_columns):
            offset = np.array(columns.target[u]) >> _PLACE_BITS
            place = np.array(columns.target[u]) & ((1 << _PLACE_BITS) - 1)
            taps = np.array(columns.kernel[u])
            groups = [(group, offset == group) for group in np.unique(offset).tolist()]
            for r in range(n_rows):
                across = None if full else block.tables[:, rows.kernel[r]]
                down = rows.high[r] + np.array(rows.target[r])
                for group, here in groups:
                    index = ((channel + place[here][None, :, None] * layout.height + down) * scale).reshape(-1)
                    if across is not None:
                        entry = across[:, :, taps[here]].transpose(0, 3, 2, 1).reshape(kinds, len(index))
                    for mode, (_, sign) in enumerate(modes):
                        if across is None:
                            mask = np.ones((kinds, len(index)), bool)
                        else:
                            mask = entry != 0 if sign == 0 else entry == sign
                        count = mask.sum(axis=1)
                        chosen = np.flatnonzero(count)
                        have[chosen, u, r] = True
                        counts.append(count[chosen])
                        targets.append(np.broadcast_to(index, mask.shape)[mask])
                        part_list.append((chosen * n_columns + u) * n_rows + r)
                        part_kind.append(np.full(len(chosen), group * len(modes) + mode))
                        part_span.append(np.full(len(chosen), (rows.high[r] - rows.low[r]) * scale))
        times = np.array(rows.times(), np.int64)
        return _Lists(
            cumulated(_joined(counts)),
            _joined(targets).astype(np.int32),
            _joined(part_list),
            _joined(part_kind),
            _joined(part_span),
            (have * times).reshape(-1),
        )


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _groups(part: ConvolutionPart, block: _Block, lists: _Lists, words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Words of every stored group, for each source channel: as many times its longest list as it has lists."""
    kinds, n_columns = len(block.tables), len(part.axons.columns.kernel)
    if not words.size:
        return np.zeros(0, np.int64)
    by_group = words.reshape(kinds * n_columns, -1)
    rows = lists.rows.reshape(kinds * n_columns, -1)
    group = (by_group * (rows > 0)).max(axis=1) * rows.sum(axis=1)
    each = np.repeat(group.reshape(kinds, n_columns), block.times, axis=0)
    return each[np.argsort(block.channels)].reshape(-1)  # in the order of the channels


def _nxtf(part: ConvolutionPart, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Rule of NxTF in the cheapest encoding for the slice.

    One list of both signs is tried first: two lists of one sign each have no fewer entries, and longer gaps, so they
    are for weights that one list cannot hold, or where nothing else may be used.
    """
    low, high, any_zero = part.whole.extremes
    weight_bits = stored_weight_bits(part.whole.synapses.weight_bits, parameters)
    half, top = 1 << (weight_bits - 1), (1 << weight_bits) - 1
    fits = {"one_list": -half <= low and high < half, "shared_sign": -top <= low and high <= top}
    best: SliceCost | None = None
    for signs in ("one_list", "shared_sign"):
        if best is not None or signs not in choice.sign_lists or not fits[signs]:
            continue
        for encoding in choice.encodings:
            if encoding == "dense2" and any_zero:
                continue  # a weight of zero could not be told from a gap
            found = _nxtf_in(part, parameters, choice, encoding, signs, weight_bits)
            if found is not None and (best is None or found.words < best.words):
                best = found
    if best is None:
        raise SnncError(
            "no register can hold the lists of a convolution",
            got=f"weights of {weight_bits} bits, {low} to {high}",
            allowed=", ".join(f"{e}/{s}" for e in choice.encodings for s in choice.sign_lists),
            remedy="allow more combinations or more registers, or quantise to more weight bits",
        )
    return best


_WIDTHS = 16
"""More than the bits of any index or skip field."""


def _nxtf_in(
    part: ConvolutionPart, rule: Parameters, choice: FormatChoice, encoding: str, signs: str, weight_bits: int
) -> SliceCost | None:
    """The cost in one combination; None where the registers do not do."""
    modes = SIGNS_OF[signs]
    if choice.formats is not None and part.axons.n_synapses:
        mine = REGISTER_KIND[encoding], weight_bits, part.whole.delay_bits, part.whole.synapses.exponent
        if all((f.encoding, f.weight_bits, f.delay_bits, f.weight_exponent) != mine for f in choice.formats):
            return None  # seen before anything is counted
    block = part.whole.block(part.outputs, signs == "shared_sign")
    lists = part.lists(block, modes)
    found = entries(encoding, lists.indptr, lists.targets, rule)
    kind = lists.part_kind[found.row]
    index = index_bits(found.index, rule)
    least = index_bits(np.maximum(found.index - lists.part_span[found.row], 0), rule)
    skip = skip_bits(found.skip, rule) if encoding == "runlength" else np.zeros_like(index)
    # Each class of widths as one number, so that those that occur are found by counting.
    assert max(rule["index_bits_max"], rule["skip_bits_max"]) < _WIDTHS
    code = (kind * _WIDTHS + index) * _WIDTHS + skip
    classes = np.flatnonzero(np.bincount(code))
    spans = np.flatnonzero(np.bincount(code * _WIDTHS + least)).tolist()
    needs = {
        (span // _WIDTHS**3, i, span // _WIDTHS % _WIDTHS)
        for span in spans
        for i in range(span % _WIDTHS, span // _WIDTHS**2 % _WIDTHS + 1)
    }
    make = _Maker(part, REGISTER_KIND[encoding], [mode for mode, _ in modes], weight_bits)
    if choice.formats is not None:
        taken = make.among(choice.formats, needs)
        if taken is None:
            return None
    else:
        taken = merge_formats(needs, choice.max_formats, weight_bits)
        if choice.max_formats is not None and len(set(taken.values())) > choice.max_formats:
            return None
    widths = np.zeros((int(code.max(initial=0)) + 1, 2), np.int64)
    for c in classes.tolist():
        widths[c] = taken[c // _WIDTHS**2, c // _WIDTHS % _WIDTHS, c % _WIDTHS][1:]
    ib, sb = widths[code].T
    header = rule["format_id_bits"] + rule["count_bits"]
    per_synapse = weight_bits + part.whole.delay_bits
    own = (ib * found.stored) if encoding == "sparse" else ib + sb * found.stored
    bits = header + own + found.stored * per_synapse
    member = lists.part_list[found.row]
    n_lists = len(lists.rows)
    by_list = np.bincount(member, bits, minlength=n_lists).astype(np.int64)
    words = list_words(by_list, rule["end_bits"], rule["word_bits"])
    groups = _groups(part, block, lists, words)
    times = np.repeat(block.times, max(n_lists // max(len(block.times), 1), 1)) if n_lists else block.times[:0]
    uses = lists.rows * times  # stored copies of every list

    def summed(values: NDArray[np.int64]) -> int:
        return int(np.bincount(member, values, minlength=n_lists).astype(np.int64) @ uses)

    n_entries, real = summed(np.ones_like(bits)), summed(found.stop - found.start)
    total = int(groups.sum())
    payload = real * (part.whole.synapses.weight_bits + part.whole.delay_bits)
    combinations = tuple(f"{e}/{s}" for e in choice.encodings for s in choice.sign_lists)
    return SliceCost(
        model="nxtf",
        words=total,
        words_per_axon=groups,
        axons=part.axons,
        synapses=part.axons.n_synapses,
        entries=n_entries,
        payload_bits=payload,
        index_bits=summed(own),
        header_bits=n_entries * header,
        padding_bits=total * rule["word_bits"] - payload - summed(own) - n_entries * header,
        combination=np.where(groups > 0, combinations.index(f"{encoding}/{signs}"), -1).astype(np.int8),
        combinations=combinations,
        formats=tuple(sorted({make.format(need) for need in taken.values()})),
        max_formats=choice.max_formats if choice.formats is None else len(choice.formats),
        longest=int(words.max(initial=0)),
    )


@dataclass(frozen=True)
class _Maker:
    """Registers for the needs of one slice in one encoding."""

    part: ConvolutionPart
    kind: str
    modes: Sequence[str]
    weight_bits: int

    def format(self, need: Need) -> Format:
        offset, mode = divmod(need[0], len(self.modes))
        layout, several = self.part.layout, len(self.part.layout.widths) > 1
        return Format(
            self.kind,
            self.modes[mode],
            self.weight_bits,
            self.part.whole.delay_bits,
            need[1],
            need[2],
            self.part.whole.synapses.exponent,
            offset * layout.neuron_size,
            len(layout.widths) * layout.neuron_size - 1 if several else 0,
        )

    def among(self, formats: Iterable[Format], needs: Iterable[Need]) -> dict[Need, Need] | None:
        """The narrowest of some registers for each need; None where one has none."""
        formats = tuple(formats)
        taken = {}
        for need in needs:
            bare = replace(self.format(need), index_bits=0, skip_bits=0)
            able = [
                (f.skip_bits, f.index_bits)
                for f in formats
                if replace(f, index_bits=0, skip_bits=0) == bare and f.index_bits >= need[1] and f.skip_bits >= need[2]
            ]
            if not able:
                return None
            skip, index = min(able)
            taken[need] = (need[0], index, skip)
        return taken


def _nengo(part: ConvolutionPart, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Rule of nengo-loihi for each list, of lists that are shared like those of NxTF."""
    weight_bits = stored_weight_bits(part.whole.synapses.weight_bits, parameters)
    per_synapse = weight_bits + part.whole.delay_bits
    block = part.whole.block(part.outputs, False)
    lists = part.lists(block, SIGNS_OF["one_list"])
    count = np.diff(lists.indptr)
    n_lists = len(lists.rows)
    top = int(lists.targets.max(initial=0))
    fields = [bits for bits in parameters["index_bits"] if bits >= top.bit_length()]
    if not fields:
        raise SnncError(
            "a compartment index does not fit the index field of a synapse",
            got=top,
            allowed=f"{max(parameters['index_bits'])} bits",
            remedy="give the core fewer compartments",
        )
    words = nengo_words(count, per_synapse + min(fields), parameters)
    by_list = np.bincount(lists.part_list, words, minlength=n_lists).astype(np.int64)
    groups = _groups(part, block, lists, by_list)
    times = np.repeat(block.times, n_lists // max(len(block.times), 1)) if n_lists else block.times[:0]
    uses = (lists.rows * times)[lists.part_list]
    real, runs = int(count @ uses), int(-(-count // parameters["run_synapses"]) @ uses)
    header = runs * (parameters["format_id_bits"] + parameters["count_bits"])
    payload = real * (part.whole.synapses.weight_bits + part.whole.delay_bits)
    return _counted(
        "nengo", part, parameters, groups, real, runs, payload, real * min(fields), header, "sparse", by_list
    )


def _loihi2(part: ConvolutionPart, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Loihi 2, FITTED: a row for each kernel place and source channel, of its output channels on the core.

    ceil((n * b + h) / 64) words for n output channels. Published rows have b from 4 to 8: the weights' own bits.
    """
    outputs = part.outputs
    count = (part.whole.signs[..., outputs[0] : outputs[1]] != 0).sum(axis=3)
    used_rows = _incidence(part.axons.rows.kernel, part.whole.pattern.size[0]).any(axis=0)
    used_columns = _incidence(part.axons.columns.kernel, part.whole.pattern.size[1]).any(axis=0)
    count = (count * (np.logical_and.outer(used_rows, used_columns))).reshape(-1)
    each = part.whole.synapses.weight_bits + part.whole.delay_bits
    head = parameters["header_bits"]
    words = np.where(count > 0, -(-(count * each + head) // parameters["word_bits"]), 0)
    rows, real = int((count > 0).sum()), int(count.sum())
    return _counted("loihi2-fitted", part, parameters, words, real, rows, real * each, 0, rows * head, "row", words)


def _counted(
    model: str,
    part: ConvolutionPart,
    parameters: Parameters,
    groups: NDArray[np.int64],
    real: int,
    entries: int,
    payload: int,
    index: int,
    header: int,
    name: str,
    by_list: NDArray[np.int64],
) -> SliceCost:
    total = int(groups.sum())
    return SliceCost(
        model=model,
        words=total,
        words_per_axon=groups,
        axons=part.axons,
        synapses=part.axons.n_synapses,
        entries=entries,
        payload_bits=payload,
        index_bits=index,
        header_bits=header,
        padding_bits=total * parameters["word_bits"] - payload - index - header,
        combination=np.where(groups > 0, 0, -1).astype(np.int8),
        combinations=(name,),
        longest=int(by_list.max(initial=0)),
    )


def _count(part: ConvolutionPart, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """The bare kernel entries of the slice's output channels, once, packed: see `cost_count`."""
    outputs = part.outputs
    real = int(np.count_nonzero(part.whole.signs[..., outputs[0] : outputs[1]]))
    payload = real * (part.whole.synapses.weight_bits + part.whole.delay_bits)
    words = np.array([-(-payload // parameters["word_bits"])], np.int64)
    return _counted("count", part, parameters, words, real, real, payload, 0, 0, "counted", np.zeros(1, np.int64))


COSTS: Mapping[str, Callable[[ConvolutionPart, Parameters, FormatChoice], SliceCost]] = {
    "nxtf": _nxtf,
    "nengo": _nengo,
    "loihi2-fitted": _loihi2,
    "count": _count,
}
