"""Linear maps from one population's spikes to a tensor of the network, composed layer by layer.

A convolution stays a convolution as long as the composition is one. A weight that does not exist (pruned, or between
groups) never comes to exist: compositions work on the entries that are there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.errors import SnncError
from toolchain.ir import Connectivity, Convolution
from toolchain.ir.pattern import Pattern

LISTING_LIMIT = 20_000_000
"""Most synapses of a convolution that are listed one by one where a composition is no convolution any more."""

KERNEL_LIMIT = 1 << 25
"""Most products of kernel entries in the composition of two convolutions."""
CHUNK = 1 << 19
"""Entries of a dense mask that are looked at together."""
PRODUCT_LIMIT = 1 << 28
"""Most synapses in the composition of two dense layers."""

Floats = NDArray[np.floating[Any]]
Shape = tuple[int, ...]


class Operator(ABC):
    """A linear map with a weight for each synapse. Targets are numbered row by row in whatever axes they have."""

    values: Floats
    shares: ClassVar[bool] = False
    """Whether weights are shared by place, as a kernel's are."""
    plain: ClassVar[bool] = False
    """Whether it changes nothing."""

    @abstractmethod
    def convolved(self, kernel: Convolution, values: Floats, where: str) -> Operator:
        """This map, and then a convolution."""

    @abstractmethod
    def multiplied(self, matrix: Connectivity, values: Floats, where: str) -> Operator:
        """This map, and then a dense layer."""

    @abstractmethod
    def scaled(self, factor: Floats, shape: Shape, where: str) -> Operator:
        """Every target times a factor; the factors are broadcast to the axes of the targets."""

    @abstractmethod
    def moved(self, before: int, total: int, shape: Shape, where: str) -> Operator:
        """The targets as a part of `total` targets, with `before` of them in front."""

    @abstractmethod
    def synapses(self, shape: Shape) -> tuple[Pattern, Floats]:
        """The pattern and its weights, for targets of these axes."""

    @abstractmethod
    def listed(self, where: str) -> Listed:
        """The same map with every synapse by itself.

        Raises:
            SnncError: more than LISTING_LIMIT of them.
        """

    @property
    def constant(self) -> float | None:
        """The weight that all synapses have, None where they differ."""
        same = len(self.values) > 0 and bool((self.values == self.values[0]).all())
        return float(self.values[0]) if same else None

    def on_grid(self, step: float, bits: int) -> bool:
        """Whether every weight is a mantissa of so many bits times a step, but for the rounding of float32."""
        mantissas = self.values / step
        whole = np.rint(mantissas)
        low, high = whole.min(initial=0), whole.max(initial=0)
        # A sign takes one of the bits only where there are both.
        top = (1 << bits) - 1 if low >= 0 or high <= 0 else (1 << (bits - 1)) - 1
        near = np.abs(mantissas - whole) <= 2.0**-20 * np.maximum(1.0, np.abs(whole))
        return bool(near.all()) and -top - 1 <= low and high <= top


@dataclass(frozen=True, eq=False)
class Identity(Operator):
    """The spikes of `size` neurons themselves."""

    size: int
    values: Floats = field(default_factory=lambda: np.ones(1))
    plain: ClassVar[bool] = True

    def convolved(self, kernel: Convolution, values: Floats, where: str) -> Operator:
        return Local(kernel, values)

    def multiplied(self, matrix: Connectivity, values: Floats, where: str) -> Operator:
        return Listed(matrix, values)

    def scaled(self, factor: Floats, shape: Shape, where: str) -> Operator:
        return self._expanded(shape).scaled(factor, shape, where)

    def moved(self, before: int, total: int, shape: Shape, where: str) -> Operator:
        return self._expanded(shape).moved(before, total, shape, where)

    def synapses(self, shape: Shape) -> tuple[Pattern, Floats]:
        return self._expanded(shape).synapses(shape)

    def listed(self, where: str) -> Listed:
        each = np.arange(self.size + 1, dtype=np.int64)
        return Listed(Connectivity(self.size, self.size, each, each[:-1].astype(np.int32)), np.ones(self.size))

    def _expanded(self, shape: Shape) -> Operator:
        """One synapse of weight 1 a neuron: of a map a kernel of 1 x 1 on each channel, else a list."""
        if len(shape) == 3:
            return Local(*depthwise(shape, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1.0))
        return self.listed("")


@dataclass(frozen=True, eq=False)
class Local(Operator):
    """A convolution; values: one for each entry of its kernel."""

    pattern: Convolution
    values: Floats
    shares: ClassVar[bool] = True

    def convolved(self, kernel: Convolution, values: Floats, where: str) -> Operator:
        if self.pattern.target == kernel.source and _composes(self.pattern, kernel):
            by_channel = np.bincount(self.pattern.kernel.targets, minlength=kernel.source[0])
            products = int(by_channel @ kernel.kernel.fan_out.reshape(kernel.source[0], -1).sum(axis=1))
            if products > KERNEL_LIMIT:
                raise _too_large("two convolutions without neurons between them", where, products, KERNEL_LIMIT)
            return Local(*_compose(self.pattern, self.values, kernel, values))
        return self.listed(where).convolved(kernel, values, where)

    def multiplied(self, matrix: Connectivity, values: Floats, where: str) -> Operator:
        return self.listed(where).multiplied(matrix, values, where)

    def scaled(self, factor: Floats, shape: Shape, where: str) -> Operator:
        if factor.size == 1:
            return replace(self, values=self.values * float(factor.reshape(-1)[0]))
        if shape == self.pattern.target and factor.shape[1:] == (1, 1):
            channel = factor.reshape(-1)
        else:
            by_channel = np.broadcast_to(factor, shape).reshape(self.pattern.target[0], -1)
            channel = by_channel[:, 0]
            if not (by_channel == channel[:, None]).all():
                return self.listed(where).scaled(factor, shape, where)
        channel = np.broadcast_to(channel, self.pattern.target[:1])
        return replace(self, values=self.values * channel[self.pattern.kernel.targets])

    def moved(self, before: int, total: int, shape: Shape, where: str) -> Operator:
        places = self.pattern.target[1] * self.pattern.target[2]
        if before % places or total % places:
            return self.listed(where).moved(before, total, shape, where)
        target = (total // places, *self.pattern.target[1:])
        kernel = self.pattern.kernel
        moved = replace(kernel, n_targets=target[0], targets=kernel.targets + np.int32(before // places))
        return replace(self, pattern=replace(self.pattern, target=target, kernel=moved))

    def synapses(self, shape: Shape) -> tuple[Pattern, Floats]:
        return self.pattern, self.values

    def listed(self, where: str) -> Listed:
        if self.pattern.n_synapses > LISTING_LIMIT:
            raise _too_large(
                "a convolution is composed with what is none", where, self.pattern.n_synapses, LISTING_LIMIT
            )
        listed, weight = self.pattern.unroll()
        return Listed(listed, self.values[weight])


@dataclass(frozen=True, eq=False)
class Listed(Operator):
    """Every synapse with its weight."""

    pattern: Connectivity
    values: Floats

    def convolved(self, kernel: Convolution, values: Floats, where: str) -> Operator:
        second = Local(kernel, values).listed(where)
        return self.multiplied(second.pattern, second.values, where)

    def multiplied(self, matrix: Connectivity, values: Floats, where: str) -> Operator:
        products = int(self.pattern.fan_in @ matrix.fan_out)
        synapses = min(products, self.pattern.n_sources * matrix.n_targets)
        if synapses > PRODUCT_LIMIT or products > 64 * PRODUCT_LIMIT:
            raise _too_large("two layers without neurons between them", where, synapses, PRODUCT_LIMIT)
        return Listed(*_lists(_product(_rows(self.pattern, self.values), _rows(matrix, values))))

    def scaled(self, factor: Floats, shape: Shape, where: str) -> Operator:
        if factor.size == 1:
            return replace(self, values=self.values * float(factor.reshape(-1)[0]))
        each = np.broadcast_to(factor, shape).reshape(-1)
        return replace(self, values=self.values * each[self.pattern.targets])

    def moved(self, before: int, total: int, shape: Shape, where: str) -> Operator:
        targets = self.pattern.targets + np.int32(before)
        return replace(self, pattern=replace(self.pattern, n_targets=total, targets=targets))

    def synapses(self, shape: Shape) -> tuple[Pattern, Floats]:
        return self.pattern, self.values

    def listed(self, where: str) -> Listed:
        return self


def _too_large(what: str, where: str, synapses: int, limit: int) -> SnncError:
    return SnncError(
        f"too large to be composed: {what}",
        where=where,
        got=f"{synapses} synapses or products",
        allowed=f"up to {limit}",
        remedy="put neurons between this layer and the one before it, or let a second convolution in a row have no "
        "padding",
    )


def dense(mask: NDArray[np.bool_], weight: Floats) -> tuple[Connectivity, Floats]:
    """The synapses of a dense layer; mask and weight have shape (out, in)."""
    n_targets, n_sources = mask.shape
    indptr = np.zeros(n_sources + 1, np.int64)
    np.cumsum(np.count_nonzero(mask, axis=0), out=indptr[1:])
    targets, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], weight.dtype)
    # Some sources at a time: a part that stays in the cache is transposed in a fraction of the time of the whole.
    some = max(1, CHUNK // n_targets)
    for first in range(0, n_sources, some):
        last = min(first + some, n_sources)
        here = slice(indptr[first], indptr[last])
        by_source = np.ascontiguousarray(mask[:, first:last].T)
        given = np.ascontiguousarray(weight[:, first:last].T)
        if by_source.all():
            targets[here], values[here] = np.tile(np.arange(n_targets, dtype=np.int32), last - first), given.reshape(-1)
        else:
            targets[here], values[here] = np.nonzero(by_source)[1], given[by_source]
    return Connectivity(n_sources, n_targets, indptr, targets), values


def depthwise(
    source: Shape,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    value: float,
    where: str = "",
) -> tuple[Convolution, Floats]:
    """One kernel of equal weights on each channel, as pooling has it.

    Raises:
        SnncError: the kernel is larger than its padded input.
    """
    channels, height, width = source
    mask = np.ones((channels, 1, *size), bool)
    pattern, _ = Convolution.of(
        (channels, height, width),
        mask,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
        where=where,
    )
    return pattern, np.full(pattern.n_weights, value)


def _composes(first: Convolution, second: Convolution) -> bool:
    """Whether the padding of the second sees nothing: places beside the first one's map, which the second takes for
    0, must not be reached by the first one's kernel, or the two would not be one convolution at the border."""
    for axis in range(2):
        places = np.unique(second.reads(axis))
        beside = places[(places < 0) | (places >= first.target[1 + axis])]
        read = beside[:, None] * first.stride[axis] - first.padding[axis][0]
        read = read + np.arange(first.size[axis])[None, :] * first.dilation[axis]
        if bool(((read >= 0) & (read < first.source[1 + axis])).any()):
            return False
    return True


def _compose(
    first: Convolution, first_values: Floats, second: Convolution, second_values: Floats
) -> tuple[Convolution, Floats]:
    """Two convolutions as one: a tap i of the first under a tap j of the second lies at i d1 + j d2 s1."""
    gaps = [(first.dilation[k], second.dilation[k] * first.stride[k]) for k in range(2)]
    spans = [
        (first.size[k] - 1) * gaps[k][0] + (second.size[k] - 1) * gaps[k][1] for k in range(2)
    ]  # from the first to the last tap
    dilation = [
        math.gcd(gaps[k][0] if first.size[k] > 1 else 0, gaps[k][1] if second.size[k] > 1 else 0) or 1 for k in range(2)
    ]
    size = [spans[k] // dilation[k] + 1 for k in range(2)]
    c, i1, j1, middle1 = first.entries
    middle2, i2, j2, o = second.entries
    taps1, taps2 = first.size[0] * first.size[1], second.size[0] * second.size[1]
    before = sparse.csr_array(
        (first_values.astype(np.float64), (middle1, c * taps1 + i1 * first.size[1] + j1)),
        shape=(first.target[0], first.source[0] * taps1),
    )
    after = sparse.csr_array(
        (second_values.astype(np.float64), (o * taps2 + i2 * second.size[1] + j2, middle2)),
        shape=(second.target[0] * taps2, second.source[0]),
    )
    product = _product(after, before).tocoo()
    o, at2 = np.divmod(product.row.astype(np.int64), taps2)
    c, at1 = np.divmod(product.col.astype(np.int64), taps1)
    place = []
    for k in range(2):
        tap1, tap2 = (
            (at1 // first.size[1], at2 // second.size[1]) if k == 0 else (at1 % first.size[1], at2 % second.size[1])
        )
        place.append((tap1 * gaps[k][0] + tap2 * gaps[k][1]) // dilation[k])
    taps = size[0] * size[1]
    kernel = sparse.coo_array(
        (product.data, (c * taps + place[0] * size[1] + place[1], o)),
        shape=(first.source[0] * taps, second.target[0]),
    ).tocsr()  # adds what falls on the same tap
    shape, values = _lists(kernel)
    both = [
        tuple(second.padding[k][side] * first.stride[k] + first.padding[k][side] for side in range(2)) for k in range(2)
    ]
    pattern = Convolution(
        source=first.source,
        target=second.target,
        size=(size[0], size[1]),
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=((both[0][0], both[0][1]), (both[1][0], both[1][1])),
        dilation=(dilation[0], dilation[1]),
        kernel=shape,
    )
    return pattern, values


def _product(first: sparse.csr_array, second: sparse.csr_array) -> sparse.csr_array:
    """The matrix product with every entry that exists in it, also where its value is 0.

    scipy leaves those out, but a synapse may have any weight.
    """
    there, found = _ones(first) @ _ones(second), first @ second
    there.sort_indices()
    there.data = np.zeros(there.nnz)
    if found.nnz:
        found.sort_indices()
        there.data[np.searchsorted(_flat(there), _flat(found))] = found.data
    return there


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)


def _flat(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """Positions of the entries, row by row."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices


def _rows(pattern: Connectivity, values: Floats) -> sparse.csr_array:
    shape = (pattern.n_sources, pattern.n_targets)
    return sparse.csr_array((values.astype(np.float64), pattern.targets, pattern.indptr), shape=shape)


def _lists(matrix: sparse.csr_array) -> tuple[Connectivity, Floats]:
    matrix.sort_indices()
    n_sources, n_targets = matrix.shape
    indptr = matrix.indptr.astype(np.int64)
    return Connectivity(n_sources, n_targets, indptr, matrix.indices.astype(np.int32)), matrix.data
